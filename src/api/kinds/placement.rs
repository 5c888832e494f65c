//! Where a pod may run: affinity, tolerations, spread.

use serde_json::Value;

use super::{list, rules, text};
use crate::field::{ErrorList, FieldError};
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn weight(term: &Value, path: &str, errors: &mut ErrorList) {
    let n = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&n) {
        errors.push(FieldError::invalid(format!("{path}.weight"), n, "must be in the range 1-100"));
    }
}

/// A selector of nodes by terms.
pub(super) fn node_selector(v: &Value, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.nodeSelectorTerms");
    if list(v, "nodeSelectorTerms").next().is_none() {
        errors.push(FieldError::required(path, "must have at least one node selector term"));
        return;
    }
    for (i, t) in list(v, "nodeSelectorTerms").enumerate() {
        node_selector_term(t, &format!("{path}[{i}]"), errors);
    }
}

fn node_selector_term(term: &Value, path: &str, errors: &mut ErrorList) {
    for (i, e) in list(term, "matchExpressions").enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let count = list(e, "values").count();
        if matches!(text(e, "operator"), "Gt" | "Lt") {
            if count != 1 {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(format!("{path}.values"), detail));
            }
        } else {
            rules::operator(e, &path, count == 0, &["In", "NotIn"], errors);
        }
        rules::label_name(text(e, "key"), &format!("{path}.key"), errors);
    }
    for (i, e) in list(term, "matchFields").enumerate() {
        let path = format!("{path}.matchFields[{i}]");
        match text(e, "operator") {
            "In" | "NotIn" => {
                if list(e, "values").count() != 1 {
                    let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    errors.push(FieldError::required(format!("{path}.values"), detail));
                }
            }
            other => {
                errors.push(FieldError::invalid(format!("{path}.operator"), other, "not a valid selector operator"));
            }
        }
        if text(e, "key") != "metadata.name" {
            let detail = "not a valid field selector key";
            errors.push(FieldError::invalid(format!("{path}.key"), text(e, "key"), detail));
            continue;
        }
        for (n, value) in list(e, "values").enumerate() {
            let value = value.as_str().unwrap_or_default();
            let field = format!("{path}.values[{n}]");
            rules::all_wrong(&field, value, names::dns1123_subdomain_errors(value), errors);
        }
    }
}

fn pod_affinity_term(term: &Value, path: &str, errors: &mut ErrorList) {
    for selector in ["labelSelector", "namespaceSelector"] {
        rules::label_selector(&term[selector], &format!("{path}.{selector}"), errors);
    }
    label_keys(term, "matchLabelKeys", path, errors);
    label_keys(term, "mismatchLabelKeys", path, errors);
    for n in list(term, "namespaces").filter_map(Value::as_str) {
        rules::all_wrong(&format!("{path}.namespace"), n, names::dns1123_label_errors(n), errors);
    }
    let (field, key) = (format!("{path}.topologyKey"), text(term, "topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(field.clone(), "can not be empty"));
    }
    rules::label_name(key, &field, errors);
}

/// Keys of labels that join a selector.
fn label_keys(v: &Value, name: &str, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.{name}");
    if list(v, name).next().is_none() {
        return;
    }
    let selector = &v["labelSelector"];
    if selector.is_null() {
        errors.push(FieldError::forbidden(path.clone(), "must not be specified when labelSelector is not set"));
    }
    for (i, key) in list(v, name).filter_map(Value::as_str).enumerate() {
        let field = format!("{path}[{i}]");
        rules::label_name(key, &field, errors);
        let selected = selector["matchLabels"].get(key).is_some();
        if selected && name == "matchLabelKeys" {
            errors.push(FieldError::invalid(field, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}

/// Affinity to nodes, and to and against pods.
pub(super) fn affinity(spec: &Value, path: &str, errors: &mut ErrorList) {
    let (v, path) = (&spec["affinity"], format!("{path}.affinity"));
    let (node, node_path) = (&v["nodeAffinity"], format!("{path}.nodeAffinity"));
    if node[REQUIRED].is_object() {
        node_selector(&node[REQUIRED], &format!("{node_path}.{REQUIRED}"), errors);
    }
    for (i, t) in list(node, PREFERRED).enumerate() {
        let path = format!("{node_path}.{PREFERRED}[{i}]");
        weight(t, &path, errors);
        node_selector_term(&t["preference"], &format!("{path}.preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (i, t) in list(&v[kind], REQUIRED).enumerate() {
            pod_affinity_term(t, &format!("{path}.{kind}.{REQUIRED}[{i}]"), errors);
        }
        for (i, t) in list(&v[kind], PREFERRED).enumerate() {
            let path = format!("{path}.{kind}.{PREFERRED}[{i}]");
            weight(t, &path, errors);
            pod_affinity_term(&t["podAffinityTerm"], &format!("{path}.podAffinityTerm"), errors);
        }
    }
}

/// The effect of a taint or toleration.
pub(super) fn effect(v: &Value, path: &str, errors: &mut ErrorList) {
    let given = text(v, "effect");
    if !EFFECTS.contains(&given) {
        errors.push(FieldError::not_supported(format!("{path}.effect"), given, &EFFECTS));
    }
}

/// The taints that pods stand, of a pod or runtime class.
pub(super) fn tolerations(v: &Value, path: &str, errors: &mut ErrorList) {
    for (i, t) in list(v, "tolerations").enumerate() {
        let path = format!("{path}.tolerations[{i}]");
        let (key, operator, value) = (text(t, "key"), text(t, "operator"), text(t, "value"));
        let field = format!("{path}.operator");
        if !key.is_empty() {
            rules::label_name(key, &format!("{path}.key"), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(field.clone(), operator, detail));
        }
        if !t["tolerationSeconds"].is_null() && text(t, "effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(format!("{path}.effect"), text(t, "effect"), detail));
        }
        match operator {
            "" | "Equal" => {
                let wrong = names::label_value_errors(value);
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(field, value, wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(field, t.clone(), detail));
            }
            "Exists" => {}
            other => errors.push(FieldError::not_supported(field, other, &["Equal", "Exists"])),
        }
        if !text(t, "effect").is_empty() {
            effect(t, &path, errors);
        }
    }
}

/// How pods are spread over the parts of a topology.
pub(super) fn spread(spec: &Value, path: &str, errors: &mut ErrorList) {
    const WHEN: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let all: Vec<&Value> = list(spec, "topologySpreadConstraints").collect();
    for (i, c) in all.iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{i}]");
        let (key, when) = (text(c, "topologyKey"), text(c, "whenUnsatisfiable"));
        let positive = |field: &str, errors: &mut ErrorList| {
            if let Some(n) = c[field].as_i64().filter(|n| *n <= 0) {
                errors.push(FieldError::invalid(format!("{path}.{field}"), n, "must be greater than zero"));
            }
        };
        positive("maxSkew", errors);
        if key.is_empty() {
            errors.push(FieldError::required(format!("{path}.topologyKey"), "can not be empty"));
        }
        if !WHEN.contains(&when) {
            errors.push(FieldError::not_supported(format!("{path}.whenUnsatisfiable"), when, &WHEN));
        }
        let same = |o: &&Value| text(o, "topologyKey") == key && text(o, "whenUnsatisfiable") == when;
        if all[i + 1..].iter().any(same) {
            let field = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            errors.push(FieldError::duplicate(field, format!("{{{key}, {when}}}")));
        }
        positive("minDomains", errors);
        if let Some(n) = c["minDomains"].as_i64().filter(|_| when != WHEN[0]) {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            errors.push(FieldError::invalid(format!("{path}.minDomains"), n, detail));
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            rules::one_of_if_given(c, policy, &path, &["Honor", "Ignore"], errors);
        }
        label_keys(c, "matchLabelKeys", &path, errors);
        rules::label_selector(&c["labelSelector"], &format!("{path}.labelSelector"), errors);
    }
}
