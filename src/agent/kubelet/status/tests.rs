//! Tests of the module above.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::*;
use crate::kubelet::actions::tests::{observed, pod, seen};

fn status(pod: &Pod, seen: &Observed, ready: &[&str], trouble: &[(&str, &str)]) -> PodStatus {
    let memory = Memory { started: ready.iter().map(|s| (*s).to_owned()).collect(), ..Default::default() };
    let waiting = |r: &str| Waiting { reason: r.into(), message: String::new() };
    View {
        pod,
        seen,
        memory: &memory,
        crash_loop: &HashMap::new(),
        trouble: &trouble.iter().map(|(k, r)| ((*k).to_owned(), waiting(r))).collect(),
        ready: &ready.iter().map(|s| (*s).to_owned()).collect::<HashSet<_>>(),
        verdict: None,
        node_ips: &["1.1.1.1".parse().unwrap()],
        start_time: Timestamp::UNIX_EPOCH,
        now: Timestamp::UNIX_EPOCH,
    }
    .status()
}

fn condition<'a>(s: &'a PodStatus, kind: &str) -> &'a PodCondition {
    s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn phases_follow_containers() {
    let two = |policy: &str| pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
    let run = |n: &str| seen(n, 0, State::Running, 0);
    let end = |n: &str, code| seen(n, 0, State::Exited, code);
    for (policy, containers, want) in [
        ("Always", vec![], "Pending"),
        ("Always", vec![run("a")], "Pending"),
        ("Always", vec![run("a"), run("b")], "Running"),
        ("Always", vec![end("a", 1), end("b", 0)], "Running"),
        ("Never", vec![end("a", 0), run("b")], "Running"),
        ("Never", vec![end("a", 0), end("b", 0)], "Succeeded"),
        ("Never", vec![end("a", 1), end("b", 0)], "Failed"),
        ("OnFailure", vec![end("a", 0), end("b", 1)], "Running"),
        ("OnFailure", vec![end("a", 0), end("b", 0)], "Succeeded"),
    ] {
        let got = status(&two(policy), &observed(true, containers.clone()), &[], &[]);
        assert_eq!(got.phase.as_deref(), Some(want), "{policy} {containers:?}");
    }
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let p = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}));
    let s = status(&p, &observed(true, vec![seen("i", 0, State::Exited, 2)]), &[], &[]);
    assert_eq!(s.phase.as_deref(), Some("Failed"));
    let init = &s.init_container_statuses.as_ref().unwrap()[0];
    assert_eq!(init.state.as_ref().unwrap().terminated.as_ref().unwrap().reason.as_deref(), Some("Error"));
}

#[test]
fn readiness_needs_every_container() {
    let p = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let both = observed(true, vec![seen("a", 0, State::Running, 0), seen("b", 0, State::Running, 0)]);
    let half = status(&p, &both, &["a-0"], &[]);
    let c = condition(&half, "ContainersReady");
    assert_eq!(c.message.as_deref(), Some("containers with unready status: [b]"));
    assert_eq!((c.status.as_str(), c.reason.as_deref()), ("False", Some("ContainersNotReady")));
    let all = status(&p, &both, &["a-0", "b-0"], &[]);
    assert_eq!(condition(&all, "Ready").status, "True");
    assert_eq!(all.pod_ip.as_deref(), Some("10.0.0.1"));
}

#[test]
fn conditions_of_others_stay_and_times_move_only_with_the_status() {
    let mut p = pod(json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]}));
    let run = observed(true, vec![seen("a", 0, State::Running, 0)]);
    let before = status(&p, &run, &["a-0"], &[]);
    assert_eq!(condition(&before, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    let mut old = before;
    let early = Time(Timestamp::from_second(-5).unwrap());
    for c in old.conditions.as_mut().unwrap() {
        c.last_transition_time = Some(early.clone());
    }
    let gate = PodCondition { type_: "x/y".into(), status: "True".into(), ..Default::default() };
    old.conditions.as_mut().unwrap().push(gate.clone());
    p.status = Some(old);
    let after = status(&p, &run, &["a-0"], &[]);
    assert_eq!(condition(&after, "x/y"), &gate);
    assert_eq!(condition(&after, "ContainersReady").last_transition_time.as_ref(), Some(&early));
    assert_ne!(condition(&after, "Ready").last_transition_time.as_ref(), Some(&early));
}

#[test]
fn trouble_shows_as_the_reason_to_wait() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let s = status(&p, &observed(true, vec![]), &[], &[("a", "ImagePullBackOff")]);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("ImagePullBackOff"));
    let restarted = observed(true, vec![seen("a", 1, State::Running, 0), seen("a", 0, State::Exited, 3)]);
    let c = status(&p, &restarted, &[], &[]).container_statuses.unwrap().remove(0);
    assert_eq!(c.restart_count, 1);
    assert_eq!(c.last_state.unwrap().terminated.unwrap().exit_code, 3);
}

#[test]
fn durations_are_written_as_go_writes_them() {
    for (ms, text) in
        [(0, "0s"), (72, "72ms"), (1500, "1.5s"), (10_000, "10s"), (80_000, "1m20s"), (300_007, "5m0.007s")]
    {
        assert_eq!(go_duration(Duration::from_millis(ms)), text);
    }
}
