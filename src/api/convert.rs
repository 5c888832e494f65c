//! Conversion between served and stored versions, for the two built-in kinds that have more than one:
//! HorizontalPodAutoscaler (v1 is stored as v2) and Event (`events.k8s.io/v1` is stored as core `v1`).

use serde_json::{Map, Value, json};

use crate::resource::Convert;

/// `autoscaling/v1`.
pub const AUTOSCALER_V1: Convert = Convert::Builtin { to_storage: autoscaler_to_v2, from_storage: autoscaler_to_v1 };
/// `events.k8s.io/v1`.
pub const EVENTS_V1: Convert = Convert::Builtin { to_storage: event_to_core, from_storage: event_from_core };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
}

fn take(object: &mut Value, name: &str) -> Option<Value> {
    object.as_object_mut()?.remove(name)
}

/// The map at `name`, made where it is absent.
fn child<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    map.entry(name).or_insert_with(|| json!({})).as_object_mut()
}

fn annotation(object: &mut Value, name: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    let value = serde_json::from_str(text.as_str()?).ok();
    let empty = annotations.is_empty();
    if empty && let Some(meta) = object.get_mut("metadata") {
        take(meta, "annotations");
    }
    value
}

fn annotate(object: &mut Value, name: &str, value: &Value) {
    let Some(meta) = object.get_mut("metadata") else { return };
    if let Some(annotations) = child(meta, "annotations") {
        annotations.insert(name.to_owned(), Value::String(value.to_string()));
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn autoscaler_to_v2(object: &mut Value) {
    set(object, "apiVersion", json!("autoscaling/v2"));
    let mut metrics = match annotation(object, METRICS) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let behavior = annotation(object, BEHAVIOR);
    let conditions = annotation(object, CONDITIONS);
    let current = annotation(object, CURRENT_METRICS);
    if let Some(spec) = object.get_mut("spec") {
        if let Some(target) = take(spec, "targetCPUUtilizationPercentage") {
            metrics.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}),
            );
        }
        if !metrics.is_empty() {
            set(spec, "metrics", Value::Array(metrics));
        }
        if let Some(behavior) = behavior {
            set(spec, "behavior", behavior);
        }
    }
    let utilization = object.get_mut("status").and_then(|s| take(s, "currentCPUUtilizationPercentage"));
    let mut current = match current {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if let Some(percent) = utilization
        && !current.iter().any(is_cpu_utilization)
    {
        current.insert(
            0,
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
        );
    }
    if let Some(status) = object.get_mut("status") {
        if !current.is_empty() {
            set(status, "currentMetrics", Value::Array(current));
        }
        if let Some(conditions) = conditions {
            set(status, "conditions", conditions);
        }
    }
}

fn autoscaler_to_v1(object: &mut Value) {
    set(object, "apiVersion", json!("autoscaling/v1"));
    let mut metrics = Vec::new();
    let mut behavior = None;
    if let Some(spec) = object.get_mut("spec") {
        behavior = take(spec, "behavior");
        if let Some(Value::Array(list)) = take(spec, "metrics") {
            metrics = list;
        }
        let target = metrics
            .iter()
            .position(|m| is_cpu_utilization(m) && !m["resource"]["target"]["averageUtilization"].is_null());
        if let Some(at) = target {
            let metric = metrics.remove(at);
            set(spec, "targetCPUUtilizationPercentage", metric["resource"]["target"]["averageUtilization"].clone());
        }
    }
    let mut current = None;
    let mut conditions = None;
    if let Some(status) = object.get_mut("status") {
        conditions = take(status, "conditions");
        current = take(status, "currentMetrics");
        let percent = current.as_ref().and_then(Value::as_array).and_then(|list| {
            list.iter().find(|m| is_cpu_utilization(m)).map(|m| m["resource"]["current"]["averageUtilization"].clone())
        });
        if let Some(percent) = percent.filter(|p| !p.is_null()) {
            set(status, "currentCPUUtilizationPercentage", percent);
        }
    }
    if !metrics.is_empty() {
        annotate(object, METRICS, &Value::Array(metrics));
    }
    for (name, value) in [(CURRENT_METRICS, current), (CONDITIONS, conditions), (BEHAVIOR, behavior)] {
        if let Some(value) = value {
            annotate(object, name, &value);
        }
    }
}

/// Field names of `events.k8s.io/v1` and of core `v1`, where they differ.
const EVENT_NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn event_to_core(object: &mut Value) {
    set(object, "apiVersion", json!("v1"));
    for (new, core) in EVENT_NAMES {
        if let Some(value) = take(object, new) {
            set(object, core, value);
        }
    }
}

fn event_from_core(object: &mut Value) {
    set(object, "apiVersion", json!("events.k8s.io/v1"));
    for (new, core) in EVENT_NAMES {
        if let Some(value) = take(object, core) {
            set(object, new, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(convert: Convert, object: Value) -> Value {
        let Convert::Builtin { to_storage, from_storage } = convert else { unreachable!("{object}") };
        let mut stored = object.clone();
        to_storage(&mut stored);
        let mut back = stored.clone();
        from_storage(&mut back);
        assert_eq!(back, object);
        stored
    }

    #[test]
    fn an_autoscaler_keeps_its_cpu_target() {
        let v2 = there_and_back(
            AUTOSCALER_V1,
            json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
                "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}}),
        );
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    }

    #[test]
    fn what_v1_cannot_say_travels_in_annotations() {
        let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {}}, "metrics": [
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 5}}}]},
            "status": {"conditions": [{"type": "AbleToScale"}]}});
        let mut v1 = object.clone();
        autoscaler_to_v1(&mut v1);
        assert!(v1["spec"].get("metrics").is_none() && v1["spec"].get("behavior").is_none());
        assert!(v1["metadata"]["annotations"][BEHAVIOR].is_string());
        autoscaler_to_v2(&mut v1);
        assert_eq!(v1, object);
    }

    #[test]
    fn events_are_renamed() {
        let core = there_and_back(
            EVENTS_V1,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "note": "hi",
                "regarding": {"kind": "Pod"}, "reportingController": "c", "reason": "R"}),
        );
        assert_eq!(core["involvedObject"]["kind"], "Pod");
        assert_eq!(core["message"], "hi");
    }
}
