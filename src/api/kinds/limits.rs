//! What a namespace may use: limit ranges and resource quotas.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{list, list_mut, rows, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::pod_resources::amounts;
use crate::quantity::{Format, Quantity};
use crate::resource::Strategy;

pub(super) struct LimitRange;

impl Strategy for LimitRange {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn default(&self, o: &mut Value) {
        for limit in list_mut(&mut o["spec"], "limits").filter(|l| l["type"] == "Container") {
            let of = |l: &Value, field: &str| l[field].as_object().cloned().unwrap_or_default();
            let (least, most) = (of(limit, "min"), of(limit, "max"));
            let (mut limits, mut requests) = (of(limit, "default"), of(limit, "defaultRequest"));
            fill(&mut limits, &most);
            fill(&mut requests, &limits);
            fill(&mut requests, &least);
            for (field, values) in [("default", limits), ("defaultRequest", requests)] {
                if !values.is_empty() {
                    limit[field] = values.into();
                }
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (mut errors, mut seen) = (ErrorList::new(), Vec::new());
        for (i, limit) in list(&o["spec"], "limits").enumerate() {
            let path = format!("spec.limits[{i}]");
            let kind = text(limit, "type");
            errors.extend(limit_type(kind, &format!("{path}.type")));
            if seen.contains(&kind) {
                errors.push(FieldError::duplicate(format!("{path}.type"), kind));
            }
            seen.push(kind);
            errors.extend(limit_item(limit, kind, &path));
        }
        errors
    }
}

fn fill(to: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (name, q) in from {
        to.entry(name.clone()).or_insert_with(|| q.clone());
    }
}

fn limit_type(kind: &str, field: &str) -> ErrorList {
    let malformed = names::qualified_name_errors(kind);
    if !malformed.is_empty() {
        return malformed.into_iter().map(|e| FieldError::invalid(field, kind, e)).collect();
    }
    if kind.contains('/') || ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
        return ErrorList::new();
    }
    vec![FieldError::invalid(field, kind, "must be a standard limit type or fully qualified")]
}

fn limit_item(limit: &Value, kind: &str, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let of = |field: &str| amounts(&limit[field]);
    let (least, most, ratios) = (of("min"), of("max"), of("maxLimitRequestRatio"));
    let (mut limits, mut requests) = (of("default"), of("defaultRequest"));
    if kind == "Pod" {
        for (field, values) in [("default", &limits), ("defaultRequest", &requests)] {
            if !values.is_empty() {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
            }
        }
        limits.clear();
        requests.clear();
    }
    if kind == "PersistentVolumeClaim" && !least.contains_key("storage") && !most.contains_key("storage") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(format!("{path}.limits"), detail));
    }
    // Each pair must be in order; the value shown is the one that upstream shows.
    let pairs = [
        ("min", &least, "min value", &most, "max value", false),
        ("defaultRequest", &least, "min value", &requests, "default request value", true),
        ("defaultRequest", &requests, "default request value", &most, "max value", false),
        ("defaultRequest", &requests, "default request value", &limits, "default limit value", false),
        ("default", &least, "min value", &limits, "default value", false),
        ("default", &limits, "default value", &most, "max value", true),
    ];
    for (field, low, low_name, high, high_name, show_high) in pairs {
        for (name, a) in low {
            if let Some(b) = high.get(name).filter(|b| a > *b) {
                let shown = if show_high { b } else { a }.to_string();
                let detail = format!("{low_name} {a} is greater than {high_name} {b}");
                errors.push(FieldError::invalid(format!("{path}.{field}[{name}]"), shown, detail));
            }
        }
    }
    for (name, ratio) in ratios {
        let field = format!("{path}.maxLimitRequestRatio[{name}]");
        if ratio < Quantity::from_int(1, Format::DecimalSI) {
            errors.push(FieldError::invalid(field.clone(), ratio.to_string(), format!("ratio {ratio} is less than 1")));
        }
        if let (Some(a), Some(b)) = (least.get(&name), most.get(&name)) {
            let range = b.as_f64() / a.as_f64();
            if ratio.as_f64() > range {
                let detail = format!("ratio {ratio} is greater than max/min = {range:.6}");
                errors.push(FieldError::invalid(field, ratio.to_string(), detail));
            }
        }
    }
    errors
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Amounts that a quota may count.
const AMOUNTS: [&str; 11] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
];
/// Numbers of objects that a quota may count by a name without `count/`.
const NUMBERS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = hard(&o["spec"]["hard"], "spec.hard");
        let scopes: Vec<&str> = list(&o["spec"], "scopes").filter_map(Value::as_str).collect();
        for s in scopes.iter().filter(|s| !SCOPES.contains(s)) {
            errors.push(FieldError::invalid("spec.scopes", *s, "unsupported scope"));
        }
        for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
            if pair.iter().all(|p| scopes.contains(p)) {
                errors.push(FieldError::invalid("spec.scopes", scopes.clone(), "conflicting scopes"));
            }
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let scopes = |o: &Value| {
            let mut all: Vec<String> =
                list(&o["spec"], "scopes").filter_map(Value::as_str).map(str::to_owned).collect();
            all.sort();
            all
        };
        if scopes(new) == scopes(old) {
            return ErrorList::new();
        }
        vec![FieldError::invalid("spec.scopes", new["spec"]["scopes"].clone(), "field is immutable")]
    }
    fn validate_status(&self, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = hard(&new["status"]["hard"], "status.hard");
        errors.extend(hard(&new["status"]["used"], "status.used"));
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::resource_quota(o, now)
    }
}

fn hard(amounts: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    for (name, value) in amounts.as_object().into_iter().flatten() {
        let field = format!("{path}[{name}]");
        let malformed = names::qualified_name_errors(name);
        let number = NUMBERS.contains(&name.as_str());
        let known = number || AMOUNTS.contains(&name.as_str()) || name.contains('/') || is_huge(name);
        if malformed.is_empty() && !known {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid(field.clone(), name.as_str(), detail));
        }
        errors.extend(malformed.into_iter().map(|e| FieldError::invalid(field.clone(), name.as_str(), e)));
        let Ok(q) = Quantity::from_value(value) else { continue };
        if q.sign() < 0 {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(field.clone(), q.to_string(), detail));
        }
        let whole = number || name.starts_with("count/") || is_extended(name);
        if whole && q.milli_value() % 1000 != 0 {
            errors.push(FieldError::invalid(field, q.to_string(), "must be an integer"));
        }
    }
    errors
}

fn is_huge(name: &str) -> bool {
    name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
}

fn is_extended(name: &str) -> bool {
    name.strip_prefix("requests.").is_some_and(|n| n.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn container_defaults_come_from_the_limits_that_are_given() {
        let mut o = json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "50m"}, "max": {"memory": "1Gi"}, "default": {"cpu": "1"}}]}});
        LimitRange.default(&mut o);
        let limit = &o["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "1", "memory": "1Gi"}));
        assert!(LimitRange.validate(&o).is_empty());
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let o = json!({"spec": {"limits": [
            {"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, {"type": "Pod", "default": {"cpu": "1"}}]}});
        let told: Vec<String> = LimitRange.validate(&o).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[1].type: Duplicate value: \"Pod\"",
                "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod'",
            ]
        );
    }

    #[test]
    fn a_quota_counts_known_names_in_whole_numbers() {
        let o = |hard: Value| json!({"spec": {"hard": hard}});
        let good = json!({"pods": "5", "count/x.example.com": "1", "requests.nvidia.com/gpu": "1", "cpu": "500m"});
        assert!(ResourceQuota.validate(&o(good)).is_empty());
        assert_eq!(ResourceQuota.validate(&o(json!({"pods": "500m"}))).len(), 1);
        assert_eq!(ResourceQuota.validate(&o(json!({"things": "1"}))).len(), 1);
        assert_eq!(ResourceQuota.validate(&o(json!({"cpu": "-1"}))).len(), 1);
    }
}
