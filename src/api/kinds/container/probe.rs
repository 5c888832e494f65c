//! Probes and lifecycle hooks.

use serde_json::Value;

use crate::field::{ErrorList, FieldError};
use crate::kinds::{list, rules, text};

type Check = fn(&Value, &str, &mut ErrorList);

/// The handlers in upstream's order.
const HANDLERS: [(&str, Check); 4] =
    [("exec", exec), ("httpGet", http_get), ("tcpSocket", rules::port_or_name), ("grpc", rules::port_or_name)];

fn exec(v: &Value, path: &str, errors: &mut ErrorList) {
    if list(v, "command").next().is_none() {
        errors.push(FieldError::required(format!("{path}.command"), ""));
    }
}

fn http_get(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::required(v, &["path"], path, errors);
    rules::port_or_name(v, path, errors);
    if !matches!(text(v, "scheme"), "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(format!("{path}.scheme"), text(v, "scheme"), &["HTTP", "HTTPS"]));
    }
    for header in list(v, "httpHeaders").map(|h| text(h, "name")) {
        if header.is_empty() || !header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(FieldError::invalid(format!("{path}.httpHeaders"), header, detail));
        }
    }
}

fn handler(v: &Value, path: &str, grace: Option<i64>, errors: &mut ErrorList) {
    let mut found = 0;
    for (name, check) in HANDLERS {
        if !v[name].is_object() {
            continue;
        }
        found += 1;
        let field = format!("{path}.{name}");
        if found > 1 {
            errors.push(FieldError::forbidden(field, "may not specify more than 1 handler type"));
        } else {
            check(&v[name], &field, errors);
        }
    }
    if v["sleep"].is_object() {
        found += 1;
        let field = format!("{path}.sleep");
        let (seconds, most) = (v["sleep"]["seconds"].as_i64().unwrap_or(0), grace.unwrap_or(30));
        if found > 1 {
            errors.push(FieldError::forbidden(field, "may not specify more than 1 handler type"));
        } else if seconds < 0 || seconds > most {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({most})");
            errors.push(FieldError::invalid(field, seconds, detail));
        }
    }
    if found == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

/// A container's three probes.
pub(super) fn probes(c: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if c[field].is_object() {
            probe(&c[field], &format!("{path}.{field}"), field, errors);
        }
    }
}

fn probe(p: &Value, path: &str, name: &str, errors: &mut ErrorList) {
    handler(p, path, None, errors);
    let numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    rules::not_negative(p, &numbers, path, errors);
    let grace = format!("{path}.terminationGracePeriodSeconds");
    if let Some(n) = p["terminationGracePeriodSeconds"].as_i64() {
        if n <= 0 {
            errors.push(FieldError::invalid(grace.clone(), n, "must be greater than 0"));
        }
        if name == "readinessProbe" {
            errors.push(FieldError::invalid(grace, n, "must not be set for readinessProbes"));
        }
    }
    let threshold = p["successThreshold"].as_i64().unwrap_or(1);
    if name != "readinessProbe" && threshold != 1 {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), threshold, "must be 1"));
    }
}

/// What runs after the start and before the end.
pub(super) fn lifecycle(c: &Value, path: &str, grace: Option<i64>, errors: &mut ErrorList) {
    for hook in ["postStart", "preStop"] {
        if c["lifecycle"][hook].is_object() {
            handler(&c["lifecycle"][hook], &format!("{path}.lifecycle.{hook}"), grace, errors);
        }
    }
}
