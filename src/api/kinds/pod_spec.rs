//! The pod spec, in pods and in templates: defaults and validation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{container, list, list_mut, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;

/// Fills in the defaults of a pod spec.
pub(super) fn default(spec: &mut Value) {
    let Some(m) = spec.as_object_mut() else { return };
    set(m, "restartPolicy", "Always");
    set(m, "terminationGracePeriodSeconds", 30);
    set(m, "dnsPolicy", "ClusterFirst");
    set(m, "schedulerName", "default-scheduler");
    set(m, "securityContext", json!({}));
    // The old name of the field is kept in step.
    if let Some(name) = m.get("serviceAccountName").or(m.get("serviceAccount")).cloned() {
        m.insert("serviceAccountName".into(), name.clone());
        m.insert("serviceAccount".into(), name);
    }
    if m.get("hostNetwork") == Some(&Value::Bool(true)) {
        for field in ["containers", "initContainers"] {
            for c in list_mut(spec, field) {
                for p in list_mut(c, "ports") {
                    let port = p["containerPort"].clone();
                    if p["hostPort"].as_i64().unwrap_or(0) == 0 {
                        p["hostPort"] = port;
                    }
                }
            }
        }
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        list_mut(spec, field).for_each(container::default);
    }
    list_mut(spec, "volumes").for_each(default_volume);
    for c in list_mut(spec, "topologySpreadConstraints") {
        if let Some(m) = c.as_object_mut() {
            set(m, "nodeAffinityPolicy", "Honor");
            set(m, "nodeTaintsPolicy", "Ignore");
        }
    }
}

fn default_volume(v: &mut Value) {
    // A volume without a source is an emptyDir.
    if v.as_object().is_some_and(|m| m.len() == 1) {
        v["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(m) = v.get_mut(source).and_then(Value::as_object_mut) {
            set(m, "defaultMode", 420);
        }
    }
    if let Some(m) = v.get_mut("hostPath").and_then(Value::as_object_mut) {
        set(m, "type", "");
    }
    for items in ["/downwardAPI/items", "/projected/sources"] {
        for i in v.pointer_mut(items).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(t) = i.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                set(t, "expirationSeconds", 3600);
            }
            let own = i.get_mut("fieldRef").and_then(Value::as_object_mut);
            if let Some(f) = own {
                set(f, "apiVersion", "v1");
            }
            for nested in i.pointer_mut("/downwardAPI/items").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(f) = nested.get_mut("fieldRef").and_then(Value::as_object_mut) {
                    set(f, "apiVersion", "v1");
                }
            }
        }
    }
}

fn volumes<'a>(spec: &'a Value, path: &str, errors: &mut ErrorList) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, v) in list(spec, "volumes").enumerate() {
        let path = format!("{path}.volumes[{i}]");
        match text(v, "name") {
            "" => errors.push(FieldError::required(format!("{path}.name"), "")),
            n => {
                errors.extend(names::dns1123_label(n).map(|e| FieldError::invalid(format!("{path}.name"), n, e)));
                if !seen.insert(n) {
                    errors.push(FieldError::duplicate(format!("{path}.name"), n));
                }
            }
        }
        let sources: Vec<&String> =
            v.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
        for extra in sources.iter().skip(1) {
            errors.push(FieldError::forbidden(format!("{path}.{extra}"), "may not specify more than 1 volume type"));
        }
    }
    seen
}

fn tolerations(spec: &Value, path: &str, errors: &mut ErrorList) {
    for (i, t) in list(spec, "tolerations").enumerate() {
        let path = format!("{path}.tolerations[{i}]");
        let (key, operator) = (text(t, "key"), text(t, "operator"));
        if !key.is_empty() {
            errors.extend(
                names::qualified_name_errors(key)
                    .into_iter()
                    .map(|e| FieldError::invalid(format!("{path}.key"), key, e)),
            );
        } else if operator != "Exists" {
            errors.push(FieldError::invalid(
                format!("{path}.operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if operator == "Exists" && !text(t, "value").is_empty() {
            errors.push(FieldError::invalid(
                format!("{path}.operator"),
                t["value"].clone(),
                "value must be empty when `operator` is 'Exists'",
            ));
        }
        if t.get("tolerationSeconds").is_some() && text(t, "effect") != "NoExecute" {
            errors.push(FieldError::invalid(
                format!("{path}.effect"),
                t["effect"].clone(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        if !matches!(operator, "" | "Equal" | "Exists") {
            errors.push(FieldError::not_supported(format!("{path}.operator"), operator, &["Equal", "Exists"]));
        }
    }
}

/// All that is wrong with a pod spec at `path`.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut ErrorList) {
    let volumes = volumes(spec, path, errors);
    let mut seen = BTreeSet::new();
    for (field, init) in [("containers", false), ("initContainers", true)] {
        for (i, c) in list(spec, field).enumerate() {
            let path = format!("{path}.{field}[{i}]");
            container::validate(c, &path, &volumes, init, errors);
            if !seen.insert(text(c, "name")) {
                errors.push(FieldError::duplicate(format!("{path}.name"), text(c, "name")));
            }
        }
    }
    if list(spec, "containers").next().is_none() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    if !matches!(text(spec, "restartPolicy"), "Always" | "OnFailure" | "Never") {
        let given = spec["restartPolicy"].clone();
        errors.push(FieldError::not_supported(
            format!("{path}.restartPolicy"),
            given,
            &["Always", "OnFailure", "Never"],
        ));
    }
    if !matches!(text(spec, "dnsPolicy"), "ClusterFirstWithHostNet" | "ClusterFirst" | "Default" | "None") {
        let given = spec["dnsPolicy"].clone();
        errors.push(FieldError::not_supported(
            format!("{path}.dnsPolicy"),
            given,
            &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        ));
    }
    if let Some(n) = spec["terminationGracePeriodSeconds"].as_i64().filter(|n| *n < 0) {
        errors.push(FieldError::invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            n,
            "must be greater than or equal to 0",
        ));
    }
    if let Some(n) = spec["activeDeadlineSeconds"].as_i64().filter(|n| *n < 1) {
        errors.push(FieldError::invalid(
            format!("{path}.activeDeadlineSeconds"),
            n,
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for (k, v) in spec["nodeSelector"].as_object().into_iter().flatten() {
        errors.extend(
            names::qualified_name_errors(k)
                .into_iter()
                .map(|e| FieldError::invalid(format!("{path}.nodeSelector"), k.as_str(), e)),
        );
        let v = v.as_str().unwrap_or_default();
        errors.extend(
            names::label_value_errors(v).into_iter().map(|e| FieldError::invalid(format!("{path}.nodeSelector"), v, e)),
        );
    }
    for (field, check) in [
        ("hostname", names::dns1123_label as fn(&str) -> Option<String>),
        ("subdomain", names::dns1123_label),
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
    ] {
        if let Some(n) = spec[field].as_str().filter(|n| !n.is_empty()) {
            errors.extend(check(n).map(|e| FieldError::invalid(format!("{path}.{field}"), n, e)));
        }
    }
    tolerations(spec, path, errors);
}
