//! What is to be done next for a pod: a pure function of its spec, what the runtime has, and what
//! the worker remembers. Upstream: `kuberuntime_manager.computePodActions`.
//!
//! Rules:
//! * without a ready sandbox a new one is made first, unless the pod is done;
//! * init containers run one after the other; a sidecar (restartPolicy Always) counts as done once
//!   it is started; then all regular containers run at once;
//! * a container that ended is started again by its restart policy, after a back-off of 10 s that
//!   doubles to 5 min and starts anew after it ran for 10 min;
//! * a container that runs is killed when its image changed or its liveness or startup probe failed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use api::k8s::core::v1::{Container as Spec, Pod};
use jiff::Timestamp;

use super::observed::{Container, Observed, State};
use super::resources::is_sidecar;

/// First back-off of a container that ended.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Which list of the spec a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An init container that must end.
    Init,
    /// An init container that stays.
    Sidecar,
    /// A container of the pod.
    Regular,
    /// Added by a person who looks into the pod.
    Ephemeral,
}

/// Why a container waits before it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Back-offs of a pod's containers, by name.
#[derive(Clone, Debug, Default)]
pub struct Backoffs(HashMap<String, Entry>);

impl Backoffs {
    /// How long a container that ended at `finished` still has to wait.
    pub fn remaining(&self, name: &str, finished: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        let e = self.0.get(name)?;
        let since = Duration::try_from(now.duration_since(finished)).unwrap_or_default();
        // It ran long enough before it ended: a new row of failures begins.
        if Duration::try_from(finished.duration_since(e.updated)).unwrap_or_default() > BACKOFF_MAX * 2 {
            return None;
        }
        (since < e.delay).then(|| (e.delay - since, e.delay))
    }

    /// Notes that a container which ended at `finished` is started again.
    pub fn next(&mut self, name: &str, finished: Timestamp) {
        let fresh = Entry { delay: BACKOFF_FIRST, updated: finished };
        let entry = match self.0.get(name) {
            Some(e)
                if Duration::try_from(finished.duration_since(e.updated)).unwrap_or_default() <= BACKOFF_MAX * 2 =>
            {
                Entry { delay: (e.delay * 2).min(BACKOFF_MAX), updated: finished }
            }
            _ => fresh,
        };
        self.0.insert(name.to_owned(), entry);
    }
}

/// What the worker remembers and the runtime does not know.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Back-offs.
    pub backoffs: Backoffs,
    /// Containers of which a start is under way.
    pub starting: HashSet<String>,
    /// Ids of containers whose startup probe has succeeded (or that have none and run).
    pub started: HashSet<String>,
    /// Ids of containers whose liveness or startup probe failed for good, with the words for the event.
    pub unhealthy: HashMap<String, String>,
    /// Names of containers that may not be tried before a time, with the image's or config's trouble.
    pub held: HashMap<String, Timestamp>,
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// How often containers of this name were started before.
    pub restarts: u32,
    /// When the one before ended.
    pub after: Option<Timestamp>,
}

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Words for the event.
    pub message: String,
    /// Whether a probe failed, so that the probe's own grace period counts.
    pub by_probe: bool,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop what is left of older sandboxes and make one with this attempt number.
    pub sandbox: Option<u32>,
    /// Stop these.
    pub stop: Vec<Stop>,
    /// Start these.
    pub start: Vec<Start>,
    /// Look again at this time.
    pub wake: Option<Timestamp>,
    /// Containers in a restart back-off: the whole delay.
    pub crash_loop: HashMap<String, Duration>,
}

/// Time of a CRI stamp.
pub fn time_of(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What makes a container that runs outdated.
pub fn hash(c: &Spec) -> String {
    let text = format!("{}\n{}", c.name, c.image.as_deref().unwrap_or_default());
    super::super::images::oci::digest(text.as_bytes())[7..23].to_owned()
}

/// Whether a container that ended is to be started again.
pub fn should_restart(pod: &Pod, spec: &Spec, role: Role, ended: &Container) -> bool {
    if role == Role::Sidecar {
        return true;
    }
    for rule in spec.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == ended.exit_code);
        if (codes.operator == "In") == listed {
            return rule.action.starts_with("Restart");
        }
    }
    let of_pod = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    match spec.restart_policy.as_deref().unwrap_or(of_pod) {
        "Never" => false,
        "OnFailure" => ended.exit_code != 0,
        // Always means "until it succeeds" for an init container.
        _ => role != Role::Init || ended.exit_code != 0,
    }
}

/// Whether the pod is past its init containers in this sandbox.
pub fn initialized(pod: &Pod, seen: &Observed) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let Some(sandbox) = seen.ready_sandbox() else { return false };
    spec.containers.iter().any(|c| seen.named(&c.name).any(|s| s.sandbox == sandbox.id))
}

struct Planner<'a> {
    pod: &'a Pod,
    seen: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    plan: Plan,
}

impl Planner<'_> {
    fn wake_at(&mut self, at: Timestamp) {
        self.plan.wake = Some(self.plan.wake.map_or(at, |w| w.min(at)));
    }

    /// Starts a container unless a start is under way or it has to wait.
    fn start(&mut self, name: &str, role: Role) {
        if self.memory.starting.contains(name) {
            return;
        }
        let latest = self.seen.latest(name);
        let ended = latest.filter(|c| c.state == State::Exited).map(|c| time_of(c.finished_ns));
        if let Some(finished) = ended
            && let Some((left, delay)) = self.memory.backoffs.remaining(name, finished, self.now)
        {
            self.plan.crash_loop.insert(name.to_owned(), delay);
            self.wake_at(self.now + jiff::SignedDuration::try_from(left).unwrap_or_default());
            return;
        }
        if let Some(until) = self.memory.held.get(name).copied().filter(|u| *u > self.now) {
            self.wake_at(until);
            return;
        }
        self.plan.start.push(Start {
            name: name.to_owned(),
            role,
            restarts: latest.map_or(0, |c| c.restarts + 1),
            after: ended,
        });
    }

    fn stop(&mut self, c: &Container, message: String, by_probe: bool) {
        self.plan.stop.push(Stop { id: c.id.clone(), name: c.name.clone(), message, by_probe });
    }

    /// Looks at a container that runs; stops it when it is outdated or unhealthy.
    fn keep_or_stop(&mut self, spec: &Spec, c: &Container) {
        if !c.hash.is_empty() && c.hash != hash(spec) {
            self.stop(c, format!("Container {} definition changed, will be restarted", c.name), false);
        } else if let Some(why) = self.memory.unhealthy.get(&c.id) {
            self.stop(c, why.clone(), true);
        }
    }

    /// The init containers; gives whether the regular ones may run.
    fn init(&mut self, sandbox: &str) -> bool {
        let specs = self.pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
        let past = initialized(self.pod, self.seen);
        for spec in specs {
            let here = self.seen.latest(&spec.name).filter(|c| c.sandbox == sandbox).cloned();
            if is_sidecar(spec) {
                match here {
                    Some(c) if matches!(c.state, State::Running) => {
                        self.keep_or_stop(spec, &c);
                        if !past && !self.memory.started.contains(&c.id) {
                            return false;
                        }
                    }
                    _ => {
                        self.start(&spec.name, Role::Sidecar);
                        if !past {
                            return false;
                        }
                    }
                }
                continue;
            }
            if past {
                continue;
            }
            match here {
                Some(c) if c.state == State::Running => return false,
                Some(c) if c.state == State::Exited => {
                    if c.exit_code == 0 {
                        continue;
                    }
                    if should_restart(self.pod, spec, Role::Init, &c) {
                        self.start(&spec.name, Role::Init);
                    }
                    return false;
                }
                _ => {
                    self.start(&spec.name, Role::Init);
                    return false;
                }
            }
        }
        true
    }

    fn regular(&mut self, sandbox: &str) {
        let Some(spec) = &self.pod.spec else { return };
        for c in &spec.containers {
            match self.seen.latest(&c.name).cloned() {
                Some(s) if s.state == State::Running && s.sandbox == sandbox => self.keep_or_stop(c, &s),
                Some(s) if s.state == State::Exited => {
                    if should_restart(self.pod, c, Role::Regular, &s) {
                        self.start(&c.name, Role::Regular);
                    }
                }
                Some(s) if s.state == State::Unknown => {
                    self.stop(
                        &s,
                        format!("Container {} is in unknown state, try killing it before restart", c.name),
                        false,
                    );
                }
                _ => self.start(&c.name, Role::Regular),
            }
        }
    }
}

/// Whether nothing of the pod would be started in a new sandbox.
fn is_done(pod: &Pod, seen: &Observed) -> bool {
    let Some(spec) = &pod.spec else { return true };
    !seen.containers.is_empty()
        && spec.containers.iter().all(|c| {
            seen.latest(&c.name).is_some_and(|s| s.state == State::Exited && !should_restart(pod, c, Role::Regular, s))
        })
}

/// See the module.
pub fn plan(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut planner = Planner { pod, seen, memory, now, plan: Plan::default() };
    let Some(sandbox) = seen.ready_sandbox().map(|s| s.id.clone()) else {
        if !is_done(pod, seen) && !super::status::init_failed(pod, seen) {
            planner.plan.sandbox = Some(seen.sandboxes.iter().map(|s| s.attempt + 1).max().unwrap_or(0));
        }
        return planner.plan;
    };
    for c in pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default() {
        if seen.latest(&c.name).is_none() {
            planner.start(&c.name, Role::Ephemeral);
        }
    }
    if planner.init(&sandbox) {
        planner.regular(&sandbox);
    }
    planner.plan
}

#[cfg(test)]
pub(crate) mod tests;
