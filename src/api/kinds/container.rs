//! Containers: defaults and validation (upstream: `pkg/apis/core/{v1/defaults.go,validation}`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{list, list_mut, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::quantity::Quantity;

/// Upstream: images without a tag, or with `latest`, are always pulled.
fn pull_policy(image: &str) -> &'static str {
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
    // A limit without a request requests the limit.
    let limits = c["resources"]["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        if c["resources"]["requests"].get(&name).is_none() {
            c["resources"]["requests"][name] = limit;
        }
    }
}

fn quantities(r: &Value, path: &str, errors: &mut ErrorList) {
    for kind in ["limits", "requests"] {
        for (name, q) in r[kind].as_object().into_iter().flatten() {
            let field = format!("{path}.{kind}[{name}]");
            match Quantity::from_value(q) {
                Err(e) => errors.push(FieldError::invalid(field, q.clone(), e)),
                Ok(parsed) if parsed.sign() < 0 => {
                    errors.push(FieldError::invalid(field, q.clone(), "must be greater than or equal to 0"));
                }
                Ok(_) => {}
            }
        }
    }
    for (name, request) in r["requests"].as_object().into_iter().flatten() {
        let (Ok(a), Some(Ok(b))) = (Quantity::from_value(request), r["limits"].get(name).map(Quantity::from_value))
        else {
            continue;
        };
        if a > b {
            let detail = format!("must be less than or equal to {name} limit of {b}");
            errors.push(FieldError::invalid(format!("{path}.requests"), request.clone(), detail));
        }
    }
}

fn ports(c: &Value, path: &str, errors: &mut ErrorList) {
    let mut names_seen = BTreeSet::new();
    for (i, p) in list(c, "ports").enumerate() {
        let path = format!("{path}.ports[{i}]");
        let name = text(p, "name");
        if !name.is_empty() {
            errors.extend(
                names::port_name_errors(name).into_iter().map(|e| FieldError::invalid(format!("{path}.name"), name, e)),
            );
            if !names_seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        match p["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            n => {
                errors.extend(names::port_number(n).map(|e| FieldError::invalid(format!("{path}.containerPort"), n, e)))
            }
        }
        if let Some(n) = p["hostPort"].as_i64().filter(|n| *n != 0) {
            errors.extend(names::port_number(n).map(|e| FieldError::invalid(format!("{path}.hostPort"), n, e)));
        }
        if !matches!(text(p, "protocol"), "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(
                format!("{path}.protocol"),
                p["protocol"].clone(),
                &["SCTP", "TCP", "UDP"],
            ));
        }
    }
}

fn environment(c: &Value, path: &str, errors: &mut ErrorList) {
    for (i, e) in list(c, "env").enumerate() {
        let path = format!("{path}.env[{i}]");
        match text(e, "name") {
            "" => errors.push(FieldError::required(format!("{path}.name"), "")),
            n => errors.extend(names::env_var_name(n).map(|why| FieldError::invalid(format!("{path}.name"), n, why))),
        }
        if let Some(from) = e["valueFrom"].as_object() {
            let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
            let n = from.keys().filter(|k| sources.contains(&k.as_str())).count();
            let path = format!("{path}.valueFrom");
            if !text(e, "value").is_empty() && n > 0 {
                errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
            } else if n == 0 {
                errors.push(FieldError::invalid(
                    path,
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                ));
            } else if n > 1 {
                errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
            }
        }
    }
}

fn probe(p: &Value, path: &str, liveness: bool, errors: &mut ErrorList) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|h| p.get(**h).is_some()).count();
    if handlers == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    if handlers > 1 {
        errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
    }
    for f in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(n) = p[f].as_i64().filter(|n| *n < 0) {
            errors.push(FieldError::invalid(format!("{path}.{f}"), n, "must be greater than or equal to 0"));
        }
    }
    if liveness && p["successThreshold"].as_i64().unwrap_or(1) != 1 {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            p["successThreshold"].clone(),
            "must be 1",
        ));
    }
}

/// All that is wrong with a container. `volumes` are the names that mounts may use.
pub(super) fn validate(c: &Value, path: &str, volumes: &BTreeSet<&str>, init: bool, errors: &mut ErrorList) {
    match text(c, "name") {
        "" => errors.push(FieldError::required(format!("{path}.name"), "")),
        n => errors.extend(names::dns1123_label(n).map(|e| FieldError::invalid(format!("{path}.name"), n, e))),
    }
    match text(c, "image") {
        "" => errors.push(FieldError::required(format!("{path}.image"), "")),
        i if i.trim() != i => {
            errors.push(FieldError::invalid(
                format!("{path}.image"),
                i,
                "must not have leading or trailing whitespace",
            ));
        }
        _ => {}
    }
    if !matches!(text(c, "imagePullPolicy"), "Always" | "IfNotPresent" | "Never") {
        let given = c["imagePullPolicy"].clone();
        errors.push(FieldError::not_supported(
            format!("{path}.imagePullPolicy"),
            given,
            &["Always", "IfNotPresent", "Never"],
        ));
    }
    if !matches!(text(c, "terminationMessagePolicy"), "File" | "FallbackToLogsOnError") {
        let given = c["terminationMessagePolicy"].clone();
        let field = format!("{path}.terminationMessagePolicy");
        errors.push(FieldError::not_supported(field, given, &["FallbackToLogsOnError", "File"]));
    }
    ports(c, path, errors);
    environment(c, path, errors);
    quantities(&c["resources"], &format!("{path}.resources"), errors);
    let sidecar = text(c, "restartPolicy") == "Always";
    for (field, liveness) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        let Some(p) = c.get(field) else { continue };
        if init && !sidecar {
            errors.push(FieldError::forbidden(
                format!("{path}.{field}"),
                "may not be set for init containers without restartPolicy=Always",
            ));
        } else {
            probe(p, &format!("{path}.{field}"), liveness, errors);
        }
    }
    let mut mounted = BTreeSet::new();
    for (i, m) in list(c, "volumeMounts").enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        match text(m, "name") {
            "" => errors.push(FieldError::required(format!("{path}.name"), "")),
            n if !volumes.contains(n) => errors.push(FieldError::not_found(format!("{path}.name"), n)),
            _ => {}
        }
        match text(m, "mountPath") {
            "" => errors.push(FieldError::required(format!("{path}.mountPath"), "")),
            p if !mounted.insert(p) => {
                errors.push(FieldError::invalid(format!("{path}.mountPath"), p, "must be unique"))
            }
            _ => {}
        }
        if let Some(sub) = m["subPath"].as_str().filter(|s| !s.is_empty()) {
            errors.extend(
                names::local_descending_path(sub).map(|e| FieldError::invalid(format!("{path}.subPath"), sub, e)),
            );
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
    fn a_limit_is_also_a_request_and_a_request_above_it_is_refused() {
        let mut c = json!({"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1"}}});
        default(&mut c);
        assert_eq!(c["resources"]["requests"]["cpu"], "1");
        c["resources"]["requests"]["cpu"] = "2".into();
        let mut errors = ErrorList::new();
        validate(&c, "spec.containers[0]", &BTreeSet::new(), false, &mut errors);
        assert_eq!(
            errors[0].to_string(),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
        );
    }
}
