//! Containers: defaults and validation (upstream: `pkg/apis/core/{v1/defaults.go,validation}`).

pub(super) mod env;
pub(super) mod mounts;
mod probe;
pub(super) mod resources;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::mounts::Volumes;
use super::{list, list_mut, rules, security, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;

/// Upstream: images without a tag, or with `latest`, are always pulled.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if latest { "Always" } else { "IfNotPresent" }
}

fn default_probe(probe: &mut Value) {
    if let Some(p) = probe.as_object_mut() {
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            if p.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
                p.insert(field.into(), value.into());
            }
        }
    }
    default_handler(probe);
    if let Some(g) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        set(g, "service", "");
    }
}

fn default_handler(handler: &mut Value) {
    if let Some(h) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        if h.get("path").and_then(Value::as_str).unwrap_or_default().is_empty() {
            h.insert("path".into(), "/".into());
        }
        set(h, "scheme", "HTTP");
    }
}

/// Fills in a container's defaults.
pub(super) fn default(c: &mut Value) {
    let policy = pull_policy(text(c, "image"));
    let Some(m) = c.as_object_mut() else { return };
    set(m, "imagePullPolicy", policy);
    set(m, "terminationMessagePath", "/dev/termination-log");
    set(m, "terminationMessagePolicy", "File");
    set(m, "resources", json!({}));
    for port in list_mut(c, "ports") {
        if let Some(p) = port.as_object_mut() {
            set(p, "protocol", "TCP");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.get_mut(probe) {
            default_probe(p);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(h) = c.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            default_handler(h);
        }
    }
    for e in list_mut(c, "env") {
        if let Some(f) = e.pointer_mut("/valueFrom/fieldRef").and_then(Value::as_object_mut) {
            set(f, "apiVersion", "v1");
        }
    }
}

/// Fills in what a container of a pod has beyond one of a template: requests, and what happens
/// with it when they change.
pub(super) fn default_of_pod(c: &mut Value, resizes: bool) {
    // A limit without a request requests the limit.
    let limits = c["resources"]["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        if c["resources"]["requests"].get(&name).is_none() {
            c["resources"]["requests"][name] = limit;
        }
    }
    for name in ["cpu", "memory"].into_iter().filter(|_| resizes) {
        let known = list(c, "resizePolicy").any(|p| p["resourceName"] == name);
        if known || c["resources"]["requests"].get(name).is_none() {
            continue;
        }
        let policy = json!({"resourceName": name, "restartPolicy": "NotRequired"});
        match c["resizePolicy"].as_array_mut() {
            Some(all) => all.push(policy),
            None => c["resizePolicy"] = json!([policy]),
        }
    }
}

fn ports(c: &Value, path: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, p) in list(c, "ports").enumerate() {
        let path = format!("{path}.ports[{i}]");
        let name = text(p, "name");
        if !name.is_empty() {
            let wrong = names::port_name_errors(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            rules::all_wrong(&format!("{path}.name"), name, wrong, errors);
        }
        if p["containerPort"].as_i64().unwrap_or(0) == 0 {
            errors.push(FieldError::required(format!("{path}.containerPort"), ""));
        }
        for field in ["containerPort", "hostPort"] {
            if let Some(n) = p[field].as_i64().filter(|n| *n != 0) {
                errors.extend(names::port_number(n).map(|e| FieldError::invalid(format!("{path}.{field}"), n, e)));
            }
        }
        rules::one_of(p, "protocol", &path, &["SCTP", "TCP", "UDP"], errors);
    }
}

/// Which list of a pod spec a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Regular,
    Init,
    Ephemeral,
}

/// What containers are checked against.
pub(super) struct Around<'a> {
    /// The volumes that they may mount.
    pub(super) volumes: Volumes<'a>,
    /// The names of the pod's resource claims.
    pub(super) claims: BTreeSet<&'a str>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub(super) grace: Option<i64>,
}

/// The fields of an ephemeral container; all others are forbidden.
const EPHEMERAL_FIELDS: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// All that is wrong with a container.
pub(super) fn validate(c: &Value, path: &str, role: Role, around: &Around<'_>, errors: &mut ErrorList) {
    rules::named(c, "name", path, names::dns1123_label_errors, errors);
    rules::required(c, &["image"], path, errors);
    rules::one_of(c, "terminationMessagePolicy", path, &["File", "FallbackToLogsOnError"], errors);
    ports(c, path, errors);
    env::validate(c, path, errors);
    mounts::validate(c, &around.volumes, path, errors);
    rules::one_of(c, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], errors);
    resources::validate(&c["resources"], &around.claims, &format!("{path}.resources"), errors);
    resources::resize_policy(c, path, errors);
    security::of_container(c, path, errors);
    match role {
        Role::Regular => {
            probe::lifecycle(c, path, around.grace, errors);
            probe::probes(c, path, errors);
            restart_policy(c, path, errors);
        }
        Role::Init => init(c, path, around, errors),
        Role::Ephemeral => ephemeral(c, path, errors),
    }
}

fn restart_policy(c: &Value, path: &str, errors: &mut ErrorList) {
    rules::one_of_if_given(c, "restartPolicy", path, &["Always", "Never", "OnFailure"], errors);
    if list(c, "restartPolicyRules").next().is_some() && text(c, "restartPolicy").is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(format!("{path}.restartPolicy"), detail));
    }
}

fn init(c: &Value, path: &str, around: &Around<'_>, errors: &mut ErrorList) {
    restart_policy(c, path, errors);
    if text(c, "restartPolicy") == "Always" {
        probe::lifecycle(c, path, around.grace, errors);
        probe::probes(c, path, errors);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if c[field].is_object() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
    if list(c, "resizePolicy").next().is_some() {
        let detail = "must not be set for init containers";
        errors.push(FieldError::invalid(format!("{path}.resizePolicy"), c["resizePolicy"].clone(), detail));
    }
}

fn ephemeral(c: &Value, path: &str, errors: &mut ErrorList) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    let is_empty = |v: &Value| v.as_object().is_some_and(|m| m.is_empty()) || v.as_array().is_some_and(Vec::is_empty);
    for (field, v) in c.as_object().into_iter().flatten() {
        if !EPHEMERAL_FIELDS.contains(&field.as_str()) && !is_empty(v) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), DETAIL));
        }
    }
    for (i, m) in list(c, "volumeMounts").enumerate() {
        for field in ["subPath", "subPathExpr"].into_iter().filter(|f| !text(m, f).is_empty()) {
            errors.push(FieldError::forbidden(format!("{path}.volumeMounts[{i}].{field}"), DETAIL));
        }
    }
}

/// Two containers that run at once cannot have the same port of the host.
pub(super) fn host_port_conflicts<'a>(
    containers: impl Iterator<Item = (usize, &'a Value)>,
    path: &str,
    errors: &mut ErrorList,
) {
    let mut seen = BTreeSet::new();
    for (i, c) in containers {
        for (n, p) in list(c, "ports").enumerate() {
            let port = p["hostPort"].as_i64().unwrap_or(0);
            let key = format!("{}/{}/{port}", text(p, "protocol"), text(p, "hostIP"));
            if port != 0 && !seen.insert(key.clone()) {
                errors.push(FieldError::duplicate(format!("{path}[{i}].ports[{n}].hostPort"), key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("h:5000/nginx", "Always"),
            ("nginx@sha256:aa", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_limit_is_also_a_request_in_a_pod() {
        let mut c = json!({"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1"}}});
        default(&mut c);
        assert!(c["resources"].get("requests").is_none());
        default_of_pod(&mut c, true);
        assert_eq!(c["resources"]["requests"]["cpu"], "1");
        assert_eq!(c["resizePolicy"], json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]));
    }
}
