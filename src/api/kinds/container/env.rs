//! Environment variables, and the fields of pod and container that they and volumes show.

use serde_json::Value;

use crate::field::{ErrorList, FieldError};
use crate::kinds::{list, rules, text};
use crate::names;
use crate::quantity::Quantity;

/// Fields that a variable shows.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file shows.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const UNITS: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

/// A field of the pod, for a variable or a file.
pub(in crate::kinds) fn field_ref(v: &Value, path: &str, file: bool, errors: &mut ErrorList) {
    for field in ["apiVersion", "fieldPath"] {
        if text(v, field).is_empty() {
            errors.push(FieldError::required(format!("{path}.{field}"), ""));
            return;
        }
    }
    let given = text(v, "fieldPath");
    let field = format!("{path}.fieldPath");
    if let Some((base, key)) = given.strip_suffix("']").and_then(|g| g.split_once("['")) {
        match base {
            "metadata.annotations" => rules::label_name(&key.to_lowercase(), path, errors),
            "metadata.labels" => rules::label_name(key, path, errors),
            _ => errors.push(FieldError::invalid(path, base, "does not support subscript")),
        }
        return;
    }
    let known: &[&str] = if file { &FILE_FIELDS } else { &ENV_FIELDS };
    let exists = ENV_FIELDS.contains(&given) || FILE_FIELDS.contains(&given);
    if !exists {
        let detail = format!("error converting fieldPath: field label not supported: {given}");
        errors.push(FieldError::invalid(field, given, detail));
    } else if !known.contains(&given) {
        errors.push(FieldError::not_supported(field, given, known));
    }
}

/// A resource of a container, for a variable or a file.
pub(in crate::kinds) fn resource_ref(v: &Value, path: &str, file: bool, errors: &mut ErrorList) {
    let resource = text(v, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.starts_with(p));
    if file && text(v, "containerName").is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.push(FieldError::not_supported(format!("{path}.resource"), resource, &RESOURCES));
    }
    let divisor = Quantity::from_value(&v["divisor"]).ok().filter(|d| !d.is_zero());
    let Some(divisor) = divisor.map(|d| d.to_string()) else { return };
    let kind = resource.split_once('.').map_or("", |(_, k)| k);
    let (allowed, detail) = match kind {
        "cpu" => (
            matches!(divisor.as_str(), "1" | "1m"),
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned(),
        ),
        other => {
            let name = match other {
                "memory" => "memory",
                "ephemeral-storage" => "local ephemeral storage",
                _ => "hugepages",
            };
            let fits = UNITS.split(", ").any(|u| u == divisor);
            (fits, format!("only divisor's values {UNITS} are supported with the {name} resource"))
        }
    };
    if !allowed {
        errors.push(FieldError::invalid(format!("{path}.divisor"), resource, detail));
    }
}

/// A key of a config map or secret.
fn key_ref(v: &Value, path: &str, errors: &mut ErrorList) {
    let (name, key) = (text(v, "name"), text(v, "key"));
    rules::all_wrong(&format!("{path}.name"), name, names::dns1123_subdomain_errors(name), errors);
    if key.is_empty() {
        errors.push(FieldError::required(format!("{path}.key"), ""));
    } else {
        rules::all_wrong(&format!("{path}.key"), key, names::config_map_key(key), errors);
    }
}

/// A container's variables.
pub(super) fn validate(c: &Value, path: &str, errors: &mut ErrorList) {
    for (i, e) in list(c, "env").enumerate() {
        let path = format!("{path}.env[{i}]");
        rules::named(e, "name", &path, |n| names::env_var_name(n).into_iter().collect(), errors);
        if e["valueFrom"].is_object() {
            value_from(e, &format!("{path}.valueFrom"), errors);
        }
    }
    let path = format!("{path}.envFrom");
    for (i, e) in list(c, "envFrom").enumerate() {
        rules::named_if_given(
            e,
            "prefix",
            &format!("{path}[{i}]"),
            |n| names::env_var_name(n).into_iter().collect(),
            errors,
        );
        let given = ["configMapRef", "secretRef"].into_iter().filter(|s| e[*s].is_object());
        for s in given.clone() {
            rules::named(&e[s], "name", &format!("{path}[{i}].{s}"), names::dns1123_subdomain_errors, errors);
        }
        let detail = match given.count() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(path.clone(), "", detail));
    }
}

fn value_from(e: &Value, path: &str, errors: &mut ErrorList) {
    let from = &e["valueFrom"];
    let given: Vec<&str> = SOURCES.into_iter().filter(|s| from[*s].is_object()).collect();
    for source in &given {
        let (v, path) = (&from[*source], format!("{path}.{source}"));
        match *source {
            "fieldRef" => field_ref(v, &path, false, errors),
            "resourceFieldRef" => resource_ref(v, &path, false, errors),
            "fileKeyRef" => rules::required(v, &["volumeName", "path", "key"], &path, errors),
            _ => key_ref(v, &path, errors),
        }
    }
    let detail = match given.len() {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if !text(e, "value").is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}
