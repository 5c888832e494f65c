//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, rules, text};
use crate::field::{ErrorList, FieldError};

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_MAX: usize = 253;
const SYSCTL_FORM: &str = "^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([\\./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$";

/// A profile that the runtime knows or that lies on the node; `what` names the mechanism.
fn profile(v: &Value, path: &str, field: &str, what: &str, errors: &mut ErrorList) {
    if !v.is_object() {
        return;
    }
    let (kind, local) = (format!("{path}.type"), format!("{path}.localhostProfile"));
    match text(v, "type") {
        "" => errors.push(FieldError::required(kind, format!("type is required when {field} is set"))),
        given if !PROFILES.contains(&given) => errors.push(FieldError::not_supported(kind, given, &PROFILES)),
        _ => {}
    }
    match (text(v, "type"), v["localhostProfile"].as_str()) {
        ("Localhost", None) => {
            errors.push(FieldError::required(local, format!("must be set when {what} type is Localhost")));
        }
        ("Localhost", Some(given)) => rules::descending_path(given, &local, errors),
        (_, Some(given)) => {
            let detail = format!("can only be set when {what} type is Localhost");
            errors.push(FieldError::invalid(local, given, detail));
        }
        (_, None) => {}
    }
}

fn profiles(v: &Value, path: &str, errors: &mut ErrorList) {
    profile(&v["seccompProfile"], &format!("{path}.seccompProfile"), "seccompProfile", "seccomp", errors);
    profile(&v["appArmorProfile"], &format!("{path}.appArmorProfile"), "appArmorProfile", "AppArmor", errors);
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |p: &str| {
        let b = p.as_bytes();
        let inner = b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'));
        inner && edge(b.first()) && edge(b.last())
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(part)
}

fn sysctls(v: &Value, path: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, s) in list(v, "sysctls").enumerate() {
        let (field, name) = (format!("{path}.sysctls[{i}].name"), text(s, "name"));
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if !is_sysctl(name) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_FORM}");
            errors.push(FieldError::invalid(field, name, detail));
        } else if seen.contains(name) {
            errors.push(FieldError::duplicate(field, name));
        }
        seen.insert(name);
    }
}

/// A pod's.
pub(super) fn of_pod(spec: &Value, path: &str, errors: &mut ErrorList) {
    let (v, path) = (&spec["securityContext"], format!("{path}.securityContext"));
    if !v.is_object() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        rules::id(v, field, &path, errors);
    }
    for (i, g) in list(v, "supplementalGroups").enumerate() {
        if let Some(n) = g.as_i64().filter(|n| *n < 0 || *n > i64::from(i32::MAX)) {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{path}.supplementalGroups[{i}]"), n, detail));
        }
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{path}.shareProcessNamespace"), true, detail));
    }
    sysctls(v, &path, errors);
    rules::one_of_if_given(v, "fsGroupChangePolicy", &path, &["Always", "OnRootMismatch"], errors);
    rules::one_of_if_given(v, "supplementalGroupsPolicy", &path, &["Merge", "Strict"], errors);
    rules::one_of_if_given(v, "seLinuxChangePolicy", &path, &["MountOption", "Recursive"], errors);
    profiles(v, &path, errors);
}

/// A container's.
pub(super) fn of_container(c: &Value, path: &str, errors: &mut ErrorList) {
    let (v, path) = (&c["securityContext"], format!("{path}.securityContext"));
    if !v.is_object() {
        return;
    }
    rules::id(v, "runAsUser", &path, errors);
    rules::id(v, "runAsGroup", &path, errors);
    rules::one_of_if_given(v, "procMount", &path, &["Default", "Unmasked"], errors);
    profiles(v, &path, errors);
    if v["allowPrivilegeEscalation"] == false {
        let whole = |detail: &str| FieldError::invalid(path.clone(), v.clone(), detail);
        if v["privileged"] == true {
            errors.push(whole("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        if list(&v["capabilities"], "add").any(|a| a == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(whole(detail));
        }
    }
}

/// What a pod says of its operating system, and what it may not say then.
pub(super) fn of_system(spec: &Value, path: &str, errors: &mut ErrorList) {
    const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
    if !spec["os"].is_object() {
        return;
    }
    let forbidden: (&[&str], &str) = match text(&spec["os"], "name") {
        "" => {
            errors.push(FieldError::required(format!("{path}.os.name"), "cannot be empty"));
            return;
        }
        "linux" => (&["windowsOptions"], "windows options cannot be set for a linux pod"),
        "windows" => (
            &[
                "seLinuxOptions",
                "seccompProfile",
                "fsGroup",
                "fsGroupChangePolicy",
                "sysctls",
                "runAsUser",
                "runAsGroup",
                "supplementalGroups",
                "capabilities",
                "readOnlyRootFilesystem",
                "privileged",
                "allowPrivilegeEscalation",
                "procMount",
            ],
            "cannot be set for a windows pod",
        ),
        other => {
            errors.push(FieldError::not_supported(format!("{path}.os"), other, &["linux", "windows"]));
            return;
        }
    };
    let (fields, detail) = forbidden;
    let mut at = |v: &Value, path: String| {
        for f in fields.iter().filter(|f| !v["securityContext"][**f].is_null()) {
            errors.push(FieldError::forbidden(format!("{path}.securityContext.{f}"), detail));
        }
    };
    at(spec, path.to_owned());
    for l in LISTS {
        for (i, c) in list(spec, l).enumerate() {
            at(c, format!("{path}.{l}[{i}]"));
        }
    }
}
