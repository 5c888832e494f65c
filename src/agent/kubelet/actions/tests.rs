//! Tests of the module above.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kubelet::observed::{Container as Seen, Sandbox};

pub(crate) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
}

pub(crate) fn sandbox(ready: bool) -> Sandbox {
    Sandbox { id: "s0".into(), attempt: 0, ready, created_ns: 1, ips: vec!["10.0.0.1".into()] }
}

pub(crate) fn seen(name: &str, restarts: u32, state: State, code: i32) -> Seen {
    Seen {
        id: format!("{name}-{restarts}"),
        name: name.into(),
        sandbox: "s0".into(),
        restarts,
        state,
        hash: String::new(),
        created_ns: i64::from(restarts) + 1,
        started_ns: 1,
        finished_ns: 1_000_000_000,
        exit_code: code,
        reason: String::new(),
        message: String::new(),
        image: "a:1".into(),
        image_ref: "sha256:x".into(),
        log_path: String::new(),
        user: None,
    }
}

pub(crate) fn observed(ready: bool, containers: Vec<Seen>) -> Observed {
    Observed { sandboxes: vec![sandbox(ready)], containers }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.start.iter().map(|s| s.name.as_str()).collect()
}

fn later() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn decide(pod: &Pod, seen: &Observed) -> Plan {
    plan(pod, seen, &Memory::default(), later())
}

#[test]
fn without_a_sandbox_one_is_made_first_with_the_next_attempt() {
    let p = pod(json!({"containers": [{"name": "c"}]}));
    assert_eq!(decide(&p, &Observed::default()).sandbox, Some(0));
    let again = decide(&p, &observed(false, vec![]));
    assert_eq!((again.sandbox, again.start.len()), (Some(1), 0));
}

#[test]
fn a_pod_that_is_done_gets_no_new_sandbox() {
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}]}));
    let gone = observed(false, vec![seen("c", 0, State::Exited, 1)]);
    assert_eq!(decide(&p, &gone), Plan::default());
}

#[test]
fn init_containers_run_in_turn() {
    let p = pod(json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]}));
    assert_eq!(names(&decide(&p, &observed(true, vec![]))), ["a"]);
    let running = observed(true, vec![seen("a", 0, State::Running, 0)]);
    assert!(decide(&p, &running).start.is_empty());
    let first = seen("a", 0, State::Exited, 0);
    assert_eq!(names(&decide(&p, &observed(true, vec![first.clone()]))), ["b"]);
    let failed = observed(true, vec![first.clone(), seen("b", 0, State::Exited, 1)]);
    assert_eq!(decide(&p, &failed).start[0].restarts, 1);
    let both = observed(true, vec![first, seen("b", 0, State::Exited, 0)]);
    assert_eq!(names(&decide(&p, &both)), ["c"]);
}

#[test]
fn a_sidecar_must_have_started_before_the_next_one() {
    let p = pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]}));
    let s = observed(true, vec![seen("s", 0, State::Running, 0)]);
    assert!(decide(&p, &s).start.is_empty());
    let mut memory = Memory::default();
    memory.started.insert("s-0".into());
    assert_eq!(names(&plan(&p, &s, &memory, later())), ["c"]);
    // Once the pod runs, a sidecar that ended is started again by itself.
    let ended = observed(true, vec![seen("s", 0, State::Exited, 0), seen("c", 0, State::Running, 0)]);
    assert_eq!(names(&decide(&p, &ended)), ["s"]);
}

#[test]
fn restart_policies_and_rules_decide() {
    for (policy, code, again) in
        [("Always", 0, true), ("Always", 1, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
    {
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "c"}]}));
        let s = observed(true, vec![seen("c", 0, State::Exited, code)]);
        assert_eq!(!decide(&p, &s).start.is_empty(), again, "{policy} {code}");
    }
    let p = pod(
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never", "restartPolicyRules":
        [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
    );
    let with = |code| observed(true, vec![seen("c", 0, State::Exited, code)]);
    assert_eq!(names(&decide(&p, &with(42))), ["c"]);
    assert!(decide(&p, &with(1)).start.is_empty());
}

#[test]
fn unhealthy_and_outdated_containers_are_stopped() {
    let p = pod(json!({"containers": [{"name": "c", "image": "a:2"}]}));
    let mut c = seen("c", 0, State::Running, 0);
    c.hash = "old".into();
    assert!(decide(&p, &observed(true, vec![c.clone()])).stop[0].message.contains("definition changed"));
    c.hash = hash(&p.spec.as_ref().unwrap().containers[0]);
    let mut memory = Memory::default();
    let s = observed(true, vec![c]);
    assert_eq!(plan(&p, &s, &memory, later()), Plan::default());
    memory.unhealthy.insert("c-0".into(), "why".into());
    assert!(plan(&p, &s, &memory, later()).stop[0].by_probe);
}

#[test]
fn back_off_doubles_to_five_minutes_and_starts_anew_after_a_long_run() {
    let mut b = Backoffs::default();
    let mut at = later();
    assert_eq!(b.remaining("c", at, at), None);
    let mut delays = Vec::new();
    for _ in 0..7 {
        b.next("c", at);
        let (left, delay) = b.remaining("c", at, at).unwrap();
        assert_eq!(left, delay);
        delays.push(delay.as_secs());
        at += SignedDuration::from_secs(1);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    at += SignedDuration::from_secs(601);
    assert_eq!(b.remaining("c", at, at), None);
    b.next("c", at);
    assert_eq!(b.remaining("c", at, at).unwrap().1, Duration::from_secs(10));
}

proptest! {
    /// Whatever the runtime has: nothing is started that runs or is being started, and nothing at
    /// all without a ready sandbox.
    #[test]
    fn nothing_is_started_twice(
        states in proptest::collection::vec((0usize..5, 0u32..3, 0usize..4, 0i32..2), 0..8),
        ready: bool,
        starting in proptest::collection::hash_set(0usize..5, 0..3),
    ) {
        let all = ["a", "s", "c", "d", "e"];
        let p = pod(json!({"initContainers": [{"name": "a"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}, {"name": "d"}, {"name": "e"}]}));
        let mut containers: Vec<Seen> = states
            .into_iter()
            .map(|(n, r, s, code)| seen(all[n], r, [State::Created, State::Running, State::Exited, State::Unknown][s], code))
            .collect();
        containers.sort_by_key(|c| std::cmp::Reverse(c.restarts));
        let seen = observed(ready, containers);
        let memory = Memory { starting: starting.iter().map(|n| all[*n].to_owned()).collect(), ..Default::default() };
        let plan = plan(&p, &seen, &memory, later());
        prop_assert!(ready || (plan.start.is_empty() && plan.stop.is_empty()));
        for s in &plan.start {
            prop_assert!(!memory.starting.contains(&s.name));
            prop_assert!(seen.latest(&s.name).is_none_or(|c| c.state != State::Running));
        }
    }
}
