//! The checks of the pod security standards: a table of who forbids what since when, with
//! upstream's words (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).

mod baseline;
mod restricted;

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, LevelVersion, Minor};

/// Why a pod is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In general.
    pub reason: String,
    /// Where; may be empty.
    pub detail: String,
}

/// What a check looks at: pods and pod templates are the same to it.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// `metadata`
    pub metadata: &'a Value,
    /// `spec`
    pub spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// All containers, in upstream's order.
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |f| self.spec[f].as_array().into_iter().flatten())
    }

    /// The names of the containers for which something holds.
    fn containers_that(self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| holds(c)).map(name).collect()
    }

    fn volumes(self) -> impl Iterator<Item = &'a Value> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }

    fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.metadata["annotations"].as_object().into_iter().flatten();
        all.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
    }

    fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Whether the pod's users are not the host's: then root in it is nobody outside.
    fn has_own_users(self) -> bool {
        self.spec["hostUsers"] == false
    }
}

fn name(v: &Value) -> &str {
    v["name"].as_str().unwrap_or_default()
}

fn plural<'a>(one: &'a str, many: &'a str, n: usize) -> &'a str {
    if n == 1 { one } else { many }
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
fn named_containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

/// `pod and container "a"`: who sets something; empty when nobody does.
fn setters(pod: bool, containers: &[&str]) -> String {
    match (pod, containers.is_empty()) {
        (true, true) => "pod".to_owned(),
        (true, false) => format!("pod and {}", named_containers(containers)),
        (false, false) => named_containers(containers),
        (false, true) => String::new(),
    }
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// Collects the values of a field, sorted, once each.
type Found<'a> = BTreeSet<&'a str>;

struct Check {
    level: Level,
    /// The first version that has it.
    since: Minor,
    /// The first version that has it no more.
    until: Minor,
    /// The version of the restricted level from which another check says more.
    overridden: Minor,
    run: fn(Pod<'_>, Minor) -> Option<Violation>,
}

const NEVER: Minor = Minor::MAX;

const fn baseline_check(since: Minor, run: fn(Pod<'_>, Minor) -> Option<Violation>) -> Check {
    Check { level: Level::Baseline, since, until: NEVER, overridden: NEVER, run }
}

const fn restricted_check(since: Minor, run: fn(Pod<'_>, Minor) -> Option<Violation>) -> Check {
    Check { level: Level::Restricted, since, until: NEVER, overridden: NEVER, run }
}

/// In the order of upstream's names, in which messages list them.
static CHECKS: [Check; 19] = [
    baseline_check(0, baseline::app_armor_profile),
    Check { overridden: 22, ..baseline_check(0, baseline::capabilities) },
    baseline_check(0, baseline::host_namespaces),
    Check { overridden: 0, ..baseline_check(0, baseline::host_path_volumes) },
    baseline_check(0, baseline::host_ports),
    baseline_check(34, baseline::host_of_probes),
    baseline_check(0, baseline::privileged),
    baseline_check(0, baseline::proc_mount),
    baseline_check(0, baseline::se_linux_options),
    Check { until: 19, ..baseline_check(0, baseline::seccomp_annotations) },
    Check { overridden: 19, ..baseline_check(19, baseline::seccomp_profile) },
    baseline_check(0, baseline::sysctls),
    baseline_check(0, baseline::windows_host_process),
    restricted_check(8, restricted::allow_privilege_escalation),
    restricted_check(22, restricted::capabilities),
    restricted_check(0, restricted::volumes),
    restricted_check(0, restricted::run_as_non_root),
    restricted_check(23, restricted::run_as_user),
    restricted_check(19, restricted::seccomp_profile),
];

/// Everything for which a policy forbids a pod.
pub fn evaluate(policy: LevelVersion, pod: Pod<'_>) -> Vec<Violation> {
    let (level, version) = (policy.level, policy.version);
    let applies = |c: &&Check| {
        c.level <= level
            && version >= c.since
            && (version < c.until || c.until == NEVER)
            && !(level == Level::Restricted && c.overridden != NEVER && version >= c.overridden)
    };
    if level == Level::Privileged {
        return Vec::new();
    }
    CHECKS.iter().filter(applies).filter_map(|c| (c.run)(pod, version)).collect()
}

/// `privileged (container "a" must …), host namespaces (hostPID=true)`
pub fn details(violations: &[Violation]) -> String {
    let shown = violations.iter().map(|v| match v.detail.as_str() {
        "" => v.reason.clone(),
        d => format!("{} ({d})", v.reason),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// `privileged, host namespaces`
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
