//! Horizontal pod autoscalers (upstream: `pkg/apis/autoscaling`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{child, list, rows, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::quantity::Quantity;
use crate::resource::Strategy;

/// The sources of a metric, in upstream's order of checks, and the type that each belongs to.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const SECONDS_MOST: i64 = 3600;
const PERIOD_MOST: i64 = 1800;

pub(super) struct HorizontalPodAutoscaler;

/// Fills in one direction of a behaviour.
fn default_rules(behavior: &mut Value, field: &str, window: Option<i64>, policies: Value) {
    let Some(rules) = child(behavior, field) else { return };
    set(rules, "selectPolicy", "Max");
    if let Some(seconds) = window {
        set(rules, "stabilizationWindowSeconds", seconds);
    }
    set(rules, "policies", policies);
}

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        set(spec, "minReplicas", 1);
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            spec.insert("metrics".into(), json!([metric]));
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            default_rules(behavior, "scaleUp", Some(0), json!([pods, percent]));
            default_rules(behavior, "scaleDown", None, json!([percent]));
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        let (least, most) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
        if let Some(n) = least.filter(|n| *n < 1) {
            errors.push(FieldError::invalid("spec.minReplicas", n, "must be greater than or equal to 1"));
        }
        if most < 1 {
            errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than 0"));
        }
        if least.is_some_and(|n| most < n) {
            let detail = "must be greater than or equal to `minReplicas`";
            errors.push(FieldError::invalid("spec.maxReplicas", most, detail));
        }
        reference(&spec["scaleTargetRef"], "spec.scaleTargetRef", &mut errors);
        for (i, m) in list(spec, "metrics").enumerate() {
            metric(m, &format!("spec.metrics[{i}]"), &mut errors);
        }
        for field in ["scaleUp", "scaleDown"] {
            let v = &spec["behavior"][field];
            if v.is_object() {
                scaling_rules(v, &format!("spec.behavior.{field}"), &mut errors);
            }
        }
        errors
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::not_negative(&new["status"], &["currentReplicas", "desiredReplicas"], "status", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::horizontal_pod_autoscaler(o, now)
    }
}

/// Kind and name of something in any version.
fn reference(v: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        rules::named(v, field, path, |n| names::path_segment_name(n).into_iter().collect(), errors);
    }
}

fn metric(m: &Value, path: &str, errors: &mut ErrorList) {
    let kind = text(m, "type");
    let field = |f: &str| format!("{path}.{f}");
    if kind.is_empty() {
        errors.push(FieldError::required(field("type"), "must specify a metric source type"));
    }
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(field("type"), kind, &TYPES));
    }
    let given: Vec<&str> = SOURCES.iter().map(|(s, _)| *s).filter(|s| m[*s].is_object()).collect();
    if let Some(first) = given.first() {
        source(&m[*first], first, &field(first), errors);
    }
    let expected = SOURCES.iter().find(|(_, k)| *k == kind).map(|(s, _)| *s);
    match expected {
        Some(s) if !m[s].is_object() => {
            let detail = "must populate information for the given metric source";
            errors.push(FieldError::required(field(s), detail));
        }
        Some(_) => {}
        None => errors.push(FieldError::not_supported(field("type"), kind, &TYPES)),
    }
    if given.len() != 1 {
        for other in given.into_iter().filter(|s| Some(*s) != expected) {
            errors.push(FieldError::forbidden(field(other), "must populate the given metric source only"));
        }
    }
}

fn wanted(v: &Value, field: &str, what: &str, path: &str, errors: &mut ErrorList) {
    if text(v, field).is_empty() {
        errors.push(FieldError::required(format!("{path}.{field}"), format!("must specify {what}")));
    }
}

fn source(v: &Value, kind: &str, path: &str, errors: &mut ErrorList) {
    let target = &v["target"];
    let at = |f: &str| format!("{path}.target.{f}");
    let has = |f: &str| !target[f].is_null();
    match kind {
        "object" => reference(&v["describedObject"], &format!("{path}.describedObject"), errors),
        "resource" => wanted(v, "name", "a resource name", path, errors),
        "containerResource" => {
            wanted(v, "name", "a resource name", path, errors);
            wanted(v, "container", "a container", path, errors);
        }
        _ => {}
    }
    if v["metric"].is_object() || matches!(kind, "object" | "external" | "pods") {
        let form = |n: &str| names::path_segment_name(n).into_iter().collect();
        rules::named(&v["metric"], "name", &format!("{path}.metric"), form, errors);
    }
    metric_target(target, &format!("{path}.target"), errors);
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            errors.push(FieldError::required(at("averageValue"), "must set either a target value or averageValue"));
        }
        "external" if !has("value") && !has("averageValue") => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.push(FieldError::required(at("averageValue"), detail));
        }
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(at("value"), detail));
        }
        "pods" if !has("averageValue") => {
            errors.push(FieldError::required(at("averageValue"), "must specify a positive target averageValue"));
        }
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            let detail = "must set either a target raw value or a target utilization";
            errors.push(FieldError::required(at("averageUtilization"), detail));
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(at("averageValue"), detail));
        }
        _ => {}
    }
}

fn metric_target(t: &Value, path: &str, errors: &mut ErrorList) {
    const KINDS: [&str; 3] = ["Utilization", "Value", "AverageValue"];
    let kind = text(t, "type");
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), "must specify a metric target type"));
    }
    if !KINDS.contains(&kind) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, detail));
    }
    for field in ["value", "averageValue"] {
        let given = Quantity::from_value(&t[field]).ok().filter(|q| q.sign() <= 0);
        if given.is_some() {
            let shown = t[field].clone();
            errors.push(FieldError::invalid(format!("{path}.{field}"), shown, "must be positive"));
        }
    }
    if let Some(n) = t["averageUtilization"].as_i64().filter(|n| *n < 1) {
        errors.push(FieldError::invalid(format!("{path}.averageUtilization"), n, "must be greater than 0"));
    }
}

fn scaling_rules(v: &Value, path: &str, errors: &mut ErrorList) {
    let window = format!("{path}.stabilizationWindowSeconds");
    match v["stabilizationWindowSeconds"].as_i64() {
        Some(n) if n < 0 => {
            errors.push(FieldError::invalid(window, n, "must be greater than or equal to zero"));
        }
        Some(n) if n > SECONDS_MOST => {
            let detail = format!("must be less than or equal to {SECONDS_MOST}");
            errors.push(FieldError::invalid(window, n, detail));
        }
        _ => {}
    }
    rules::one_of_if_given(v, "selectPolicy", path, &["Disabled", "Max", "Min"], errors);
    if list(v, "policies").next().is_none() {
        errors.push(FieldError::required(format!("{path}.policies"), "must specify at least one Policy"));
    }
    for (i, p) in list(v, "policies").enumerate() {
        let path = format!("{path}.policies[{i}]");
        let kind = text(p, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(FieldError::not_supported(format!("{path}.type"), kind, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            let n = p[field].as_i64().unwrap_or(0);
            if n <= 0 {
                errors.push(FieldError::invalid(format!("{path}.{field}"), n, "must be greater than zero"));
            }
        }
        if let Some(n) = p["periodSeconds"].as_i64().filter(|n| *n > PERIOD_MOST) {
            let detail = format!("must be less than or equal to {PERIOD_MOST}");
            errors.push(FieldError::invalid(format!("{path}.periodSeconds"), n, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_has_defaults_and_is_checked() {
        let mut h =
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {}}});
        HorizontalPodAutoscaler.default(&mut h);
        assert_eq!(h["spec"]["minReplicas"], 1);
        assert_eq!(h["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(h["spec"]["behavior"]["scaleUp"]["policies"].as_array().unwrap().len(), 2);
        assert!(HorizontalPodAutoscaler.validate(&h).is_empty());
        let bad = json!({"spec": {"minReplicas": 0, "maxReplicas": 0, "scaleTargetRef": {}, "metrics": [
            {"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]}});
        let told: Vec<String> = HorizontalPodAutoscaler.validate(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.scaleTargetRef.kind: Required value",
                "spec.scaleTargetRef.name: Required value",
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ]
        );
    }
}
