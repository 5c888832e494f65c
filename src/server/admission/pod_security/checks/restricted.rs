//! What the restricted level forbids beyond the baseline.

use serde_json::Value;

use super::baseline::{OWN_USERS, seccomp_is_good, seccomp_profile as seccomp_baseline};
use super::{Found, Minor, Pod, Violation, name, named_containers, plural, quoted, setters, violation};

/// Volumes that a pod may have.
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
/// The version since which pods for Windows are not asked for what only Linux has.
const WINDOWS: Minor = 25;

fn is_exempt(pod: Pod<'_>, version: Minor) -> bool {
    version >= WINDOWS && pod.is_windows()
}

pub(super) fn allow_privilege_escalation(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    if is_exempt(pod, version) {
        return None;
    }
    let bad = pod.containers_that(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", named_containers(&bad)),
    )
}

fn capability_list<'a>(c: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    c["securityContext"]["capabilities"][field].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn capabilities(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    if is_exempt(pod, version) {
        return None;
    }
    let keeps = pod.containers_that(|c| !capability_list(c, "drop").any(|d| d == "ALL"));
    let adds = pod.containers_that(|c| capability_list(c, "add").any(|a| a != "NET_BIND_SERVICE"));
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named_containers(&keeps)));
    }
    if !adds.is_empty() {
        let found: Found<'_> =
            pod.containers().flat_map(|c| capability_list(c, "add")).filter(|a| *a != "NET_BIND_SERVICE").collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named_containers(&adds),
            quoted(found)
        ));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn volumes(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    fn source(v: &Value) -> Option<&str> {
        let fields = || v.as_object().into_iter().flatten().filter(|(_, s)| s.is_object()).map(|(k, _)| k.as_str());
        if fields().any(|f| VOLUMES.contains(&f)) { None } else { Some(fields().next().unwrap_or("unknown")) }
    }
    let bad: Vec<&str> = pod.volumes().filter(|v| source(v).is_some()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: Found<'_> = pod.volumes().filter_map(source).collect();
    let (word, uses) = (plural("volume", "volumes", bad.len()), plural("uses", "use", bad.len()));
    let kind = plural("restricted volume type", "restricted volume types", kinds.len());
    violation("restricted volume types", format!("{word} {} {uses} {kind} {}", quoted(bad), quoted(kinds)))
}

pub(super) fn run_as_non_root(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if version >= OWN_USERS && pod.has_own_users() {
        return None;
    }
    let set = |v: &Value| v["securityContext"]["runAsNonRoot"].as_bool();
    let own = set(pod.spec);
    let set_by = setters(own == Some(false), &pod.containers_that(|c| set(c) == Some(false)));
    if !set_by.is_empty() {
        return violation(REASON, format!("{set_by} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.containers_that(|c| set(c).is_none() && own != Some(true));
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named_containers(&silent)))
}

pub(super) fn run_as_user(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= OWN_USERS && pod.has_own_users() {
        return None;
    }
    let is_root = |v: &Value| v["securityContext"]["runAsUser"] == 0;
    let set_by = setters(is_root(pod.spec), &pod.containers_that(is_root));
    if set_by.is_empty() { None } else { violation("runAsUser=0", format!("{set_by} must not set runAsUser=0")) }
}

pub(super) fn seccomp_profile(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    if is_exempt(pod, version) {
        return None;
    }
    if let Some(explicit) = seccomp_baseline(pod, version) {
        return Some(explicit);
    }
    let own = seccomp_is_good(&pod.spec["securityContext"]["seccompProfile"]);
    let silent = pod.containers_that(|c| !own && !c["securityContext"]["seccompProfile"].is_object());
    if silent.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named_containers(&silent)
        ),
    )
}
