//! A pod's status from its spec, what the runtime has, and what the worker remembers. Pure.
//!
//! Upstream: `pkg/kubelet/kubelet_pods.go` (getPhase, convertStatusToAPIStatus) and
//! `pkg/kubelet/status/generate.go`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use api::k8s::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use api::meta::apis::meta::v1::Time;
use jiff::Timestamp;

use super::actions::{self, Memory, Role, should_restart, time_of};
use super::observed::{Container, Observed, State};
use super::resources::{is_sidecar, qos};

/// The conditions that are ours; all others are somebody else's.
const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The status to build upon: what we last said, with the conditions that others have in the API.
pub fn base(kept: Option<PodStatus>, api: Option<&PodStatus>) -> Option<PodStatus> {
    let Some(mut kept) = kept else { return api.cloned() };
    let mut conditions = kept.conditions.take().unwrap_or_default();
    conditions.retain(|c| OURS.contains(&c.type_.as_str()));
    let others = api.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.extend(others.iter().filter(|c| !OURS.contains(&c.type_.as_str())).cloned());
    kept.conditions = Some(conditions);
    Some(kept)
}

/// Why a container waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: String,
    /// Words.
    pub message: String,
}

/// A phase that no container decides: rejected, evicted, past its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `OutOfcpu`, `Evicted` …
    pub reason: String,
    /// Words.
    pub message: String,
}

/// Everything a status is made from.
#[derive(Debug)]
pub struct View<'a> {
    /// The pod, with the status it has in the API.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub seen: &'a Observed,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// Containers in a restart back-off.
    pub crash_loop: &'a HashMap<String, Duration>,
    /// Containers, by name, whose start met trouble.
    pub trouble: &'a HashMap<String, Waiting>,
    /// Ids of containers whose readiness probe says yes (or that have none).
    pub ready: &'a std::collections::HashSet<String>,
    /// A verdict on the whole pod.
    pub verdict: Option<&'a Verdict>,
    /// The node's addresses.
    pub node_ips: &'a [IpAddr],
    /// When the kubelet first saw the pod.
    pub start_time: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// A time with the precision of the API.
pub fn seconds(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

/// Whether an init container has failed for good.
pub fn init_failed(pod: &Pod, seen: &Observed) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)).any(|c| {
        seen.latest(&c.name)
            .is_some_and(|s| s.state == State::Exited && s.exit_code != 0 && !should_restart(pod, c, Role::Init, s))
    })
}

/// Whether every regular container has ended for good (or an init container has failed for good).
pub fn is_finished(pod: &Pod, seen: &Observed) -> bool {
    let Some(spec) = &pod.spec else { return true };
    if init_failed(pod, seen) && !seen.running().any(|c| spec.containers.iter().any(|s| s.name == c.name)) {
        return true;
    }
    spec.containers.iter().all(|c| {
        seen.latest(&c.name).is_some_and(|s| s.state == State::Exited && !should_restart(pod, c, Role::Regular, s))
    })
}

fn running_state(c: &Container) -> ContainerState {
    let running = ContainerStateRunning { started_at: Some(seconds(time_of(c.started_ns))) };
    ContainerState { running: Some(running), ..Default::default() }
}

fn terminated_state(c: &Container) -> ContainerState {
    let reason = match (c.reason.as_str(), c.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (other, _) => other,
    };
    let t = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", c.id)),
        exit_code: c.exit_code,
        reason: Some(reason.to_owned()),
        message: (!c.message.is_empty()).then(|| c.message.clone()),
        started_at: Some(seconds(time_of(c.started_ns))),
        finished_at: Some(seconds(time_of(c.finished_ns))),
        signal: None,
    };
    ContainerState { terminated: Some(t), ..Default::default() }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let w = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    ContainerState { waiting: Some(w), ..Default::default() }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: Duration) -> String {
    let (s, ms) = (d.as_secs(), d.subsec_millis());
    if s == 0 && ms > 0 {
        return format!("{ms}ms");
    }
    let fraction = format!("{:03}", ms).trim_end_matches('0').to_owned();
    let point = if fraction.is_empty() { "" } else { "." };
    let minutes = if s < 60 { String::new() } else { format!("{}m", s / 60) };
    format!("{minutes}{}{point}{fraction}s", s % 60)
}

fn image_id(c: &Container) -> String {
    c.image_ref.clone()
}

impl View<'_> {
    fn container(&self, spec: &Spec, role: Role, initializing: bool) -> ContainerStatus {
        let mut all = self.seen.named(&spec.name);
        let latest = all.next();
        let previous = all.next();
        let default_wait = if initializing && role == Role::Regular { "PodInitializing" } else { "ContainerCreating" };
        let mut status = ContainerStatus {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            started: Some(false),
            ..Default::default()
        };
        let last = |c: &Container| (c.state == State::Exited).then(|| terminated_state(c));
        match latest {
            None => {
                status.state = Some(match self.trouble.get(&spec.name) {
                    Some(w) => waiting_state(&w.reason, &w.message),
                    None => waiting_state(default_wait, ""),
                });
            }
            Some(c) => {
                status.restart_count = i32::try_from(c.restarts).unwrap_or(i32::MAX);
                status.container_id = Some(format!("containerd://{}", c.id));
                status.image_id = image_id(c);
                if !c.image.is_empty() && !c.image.starts_with("sha256:") {
                    status.image = c.image.clone();
                }
                status.last_state = previous.and_then(last);
                status.user = c.user.as_ref().map(|(uid, gid, groups)| api::k8s::core::v1::ContainerUser {
                    linux: Some(api::k8s::core::v1::LinuxContainerUser {
                        uid: *uid,
                        gid: *gid,
                        supplemental_groups: Some(groups.clone()),
                    }),
                });
                match c.state {
                    State::Running => {
                        status.state = Some(running_state(c));
                        let started = self.memory.started.contains(&c.id);
                        status.started = Some(started);
                        status.ready = match role {
                            Role::Regular | Role::Sidecar => started && self.ready.contains(&c.id),
                            Role::Init | Role::Ephemeral => false,
                        };
                    }
                    State::Exited => self.ended(&mut status, spec, role, c),
                    State::Created | State::Unknown => status.state = Some(waiting_state(default_wait, "")),
                }
            }
        }
        if role == Role::Ephemeral {
            status.started = None;
        }
        status.allocated_resources = spec.resources.as_ref().and_then(|r| r.requests.clone());
        status.resources = spec.resources.clone().filter(|r| r.limits.is_some() || r.requests.is_some());
        status
    }

    fn ended(&self, status: &mut ContainerStatus, spec: &Spec, role: Role, c: &Container) {
        let again = self.verdict.is_none() && role != Role::Ephemeral && should_restart(self.pod, spec, role, c);
        let wait = if let Some(delay) = self.crash_loop.get(&spec.name) {
            Some(Waiting {
                reason: "CrashLoopBackOff".into(),
                message: format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(*delay),
                    spec.name,
                    self.pod.metadata.name.as_deref().unwrap_or_default(),
                    self.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    self.pod.metadata.uid.as_deref().unwrap_or_default()
                ),
            })
        } else {
            self.trouble.get(&spec.name).cloned()
        };
        match wait {
            Some(w) if again => {
                status.last_state = Some(terminated_state(c));
                status.state = Some(waiting_state(&w.reason, &w.message));
            }
            _ => {
                status.state = Some(terminated_state(c));
                status.ready = role == Role::Init && c.exit_code == 0;
            }
        }
    }

    fn phase(&self, init: &[ContainerStatus], regular: &[ContainerStatus]) -> &'static str {
        let Some(spec) = &self.pod.spec else { return "Pending" };
        let anything_runs = self.seen.running().next().is_some();
        if self.verdict.is_some() && !anything_runs {
            return "Failed";
        }
        let past = actions::initialized(self.pod, self.seen);
        let mut pending_init = false;
        for (s, status) in spec.init_containers.iter().flatten().zip(init) {
            if is_sidecar(s) {
                pending_init |= !past && status.started != Some(true);
            } else {
                let done = status.state.as_ref().and_then(|s| s.terminated.as_ref());
                pending_init |= !past && done.is_none_or(|t| t.exit_code != 0);
            }
        }
        if init_failed(self.pod, self.seen) {
            return if anything_runs { "Pending" } else { "Failed" };
        }
        let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
        for status in regular {
            let ended =
                |s: &Option<ContainerState>| s.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
            if status.state.as_ref().is_some_and(|s| s.running.is_some()) {
                running += 1;
            } else if let Some(code) = ended(&status.state) {
                stopped += 1;
                succeeded += i32::from(code == 0);
            } else if ended(&status.last_state).is_some() {
                stopped += 1;
            } else {
                waiting += 1;
            }
        }
        // Without a sandbox all containers may have ended by a reboot: then nothing is pending.
        if pending_init && stopped == 0 {
            return "Pending";
        }
        if waiting > 0 {
            return "Pending";
        }
        if running > 0 {
            return "Running";
        }
        if stopped == 0 {
            return "Pending";
        }
        if !is_finished(self.pod, self.seen) || anything_runs {
            return "Running";
        }
        if stopped == succeeded { "Succeeded" } else { "Failed" }
    }

    fn conditions(
        &self,
        phase: &str,
        init: &[ContainerStatus],
        regular: &[ContainerStatus],
        has_network: bool,
    ) -> Vec<PodCondition> {
        let spec = self.pod.spec.as_ref();
        let mut out = Vec::new();
        let mut add = |kind: &str, yes: bool, reason: &str, message: String| {
            out.push(PodCondition {
                type_: kind.to_owned(),
                status: if yes { "True" } else { "False" }.to_owned(),
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
                message: (!message.is_empty()).then_some(message),
                observed_generation: self.pod.metadata.generation,
                ..Default::default()
            });
        };
        let terminal = matches!(phase, "Succeeded" | "Failed");
        add("PodReadyToStartContainers", has_network, "", String::new());
        let past = actions::initialized(self.pod, self.seen) || phase == "Succeeded";
        let missing_init: Vec<&str> = spec
            .and_then(|s| s.init_containers.as_deref())
            .unwrap_or_default()
            .iter()
            .zip(init)
            .filter(|(s, status)| if is_sidecar(s) { status.started != Some(true) } else { !status.ready })
            .map(|(s, _)| s.name.as_str())
            .collect();
        if past || missing_init.is_empty() {
            add("Initialized", true, if phase == "Succeeded" { "PodCompleted" } else { "" }, String::new());
        } else {
            let message = format!("containers with incomplete status: [{}]", missing_init.join(" "));
            add("Initialized", false, "ContainersNotInitialized", message);
        }
        let sidecars = spec
            .and_then(|s| s.init_containers.as_deref())
            .unwrap_or_default()
            .iter()
            .zip(init)
            .filter(|(s, _)| is_sidecar(s))
            .map(|(_, status)| status);
        let unready: Vec<&str> = sidecars.chain(regular).filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
        let all_ready = unready.is_empty() && !terminal;
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        let (reason, message) = match phase {
            "Succeeded" => ("PodCompleted", String::new()),
            "Failed" => ("PodFailed", String::new()),
            _ if all_ready => ("", String::new()),
            _ => ("ContainersNotReady", message),
        };
        let gates: Vec<&str> = spec
            .and_then(|s| s.readiness_gates.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|g| g.condition_type.as_str())
            .filter(|g| !self.old_conditions().iter().any(|c| c.type_ == **g && c.status == "True"))
            .collect();
        if all_ready && !gates.is_empty() {
            let missing = gates
                .iter()
                .map(|g| {
                    format!("corresponding condition of pod readiness gate \"{g}\" does not exist or is not \"True\".")
                })
                .collect::<Vec<_>>()
                .join(", ");
            add("Ready", false, "ReadinessGatesNotReady", missing);
        } else {
            add("Ready", all_ready, reason, message.clone());
        }
        add("ContainersReady", all_ready, reason, message);
        add("PodScheduled", true, "", String::new());
        for c in &mut out {
            let old = self.old_conditions().iter().find(|o| o.type_ == c.type_ && o.status == c.status);
            c.last_transition_time =
                old.and_then(|o| o.last_transition_time.clone()).or_else(|| Some(seconds(self.now)));
        }
        // What others have written stays: readiness gates, DisruptionTarget …
        out.extend(self.old_conditions().iter().filter(|c| !OURS.contains(&c.type_.as_str())).cloned());
        out
    }

    fn old_conditions(&self) -> &[PodCondition] {
        self.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
    }

    /// The status.
    pub fn status(&self) -> PodStatus {
        let Some(spec) = &self.pod.spec else { return PodStatus::default() };
        let old = self.pod.status.as_ref();
        let init_specs = spec.init_containers.as_deref().unwrap_or_default();
        let past = actions::initialized(self.pod, self.seen);
        let role = |c: &Spec| if is_sidecar(c) { Role::Sidecar } else { Role::Init };
        let init: Vec<ContainerStatus> = init_specs
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let mut s = self.container(c, role(c), false);
                // Those that are not their turn yet.
                let waits_for_others = i > 0 && self.seen.latest(&c.name).is_none() && s.container_id.is_none();
                if waits_for_others && !self.trouble.contains_key(&c.name) {
                    s.state = Some(waiting_state("PodInitializing", ""));
                }
                s
            })
            .collect();
        let initializing = !init_specs.is_empty() && !past;
        let regular: Vec<ContainerStatus> =
            spec.containers.iter().map(|c| self.container(c, Role::Regular, initializing)).collect();
        let ephemeral: Vec<ContainerStatus> = spec
            .ephemeral_containers
            .iter()
            .flatten()
            .map(|c| self.container(&ephemeral_as_container(c), Role::Ephemeral, false))
            .collect();
        let phase = self.phase(&init, &regular);
        let host_network = spec.host_network == Some(true);
        let ips: Vec<String> = if host_network {
            let up = self.seen.ready_sandbox().is_some() || !self.seen.containers.is_empty();
            self.node_ips.iter().filter(|_| up).map(ToString::to_string).collect()
        } else {
            match self.seen.ready_sandbox() {
                Some(s) => s.ips.clone(),
                // A pod keeps its last address until it is gone.
                None => old.and_then(|s| s.pod_ips.clone()).unwrap_or_default().into_iter().map(|i| i.ip).collect(),
            }
        };
        let has_network = self.seen.ready_sandbox().is_some_and(|s| host_network || !s.ips.is_empty());
        let conditions = self.conditions(phase, &init, &regular, has_network);
        let host: Vec<HostIP> = self.node_ips.iter().map(|i| HostIP { ip: i.to_string() }).collect();
        PodStatus {
            phase: Some(phase.to_owned()),
            reason: self.verdict.map(|v| v.reason.clone()),
            message: self.verdict.map(|v| v.message.clone()),
            conditions: Some(conditions),
            init_container_statuses: (!init.is_empty()).then_some(init),
            container_statuses: Some(regular),
            ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
            host_ip: host.first().map(|h| h.ip.clone()),
            host_ips: (!host.is_empty()).then_some(host),
            pod_ip: ips.first().cloned(),
            pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
            qos_class: Some(old.and_then(|s| s.qos_class.clone()).unwrap_or_else(|| qos(self.pod).as_str().to_owned())),
            start_time: Some(old.and_then(|s| s.start_time.clone()).unwrap_or_else(|| seconds(self.start_time))),
            observed_generation: self.pod.metadata.generation,
            ..carried_over(old)
        }
    }
}

/// What others own in a status.
fn carried_over(old: Option<&PodStatus>) -> PodStatus {
    let Some(old) = old else { return PodStatus::default() };
    PodStatus {
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        ..Default::default()
    }
}

/// The common part of an ephemeral container.
pub fn ephemeral_as_container(e: &api::k8s::core::v1::EphemeralContainer) -> Spec {
    let mut value = serde_json::to_value(e).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("targetContainerName");
    }
    serde_json::from_value(value).unwrap_or_default()
}

/// Whether a status says that the pod has ended.
pub fn is_terminal(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
