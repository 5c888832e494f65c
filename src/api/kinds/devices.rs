//! resource.k8s.io: claims of devices, their templates and classes, and what nodes have
//! (upstream: `pkg/apis/resource/validation`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name};
use super::{list, list_mut, placement, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

const REQUESTS_MOST: usize = 32;
const SELECTORS_MOST: usize = 32;
const CONSTRAINTS_MOST: usize = 32;
const CONFIG_MOST: usize = 32;
const ALTERNATIVES_MOST: usize = 8;
const RESERVED_MOST: usize = 256;
const DEVICES_MOST: usize = 128;
const EXPRESSION_BYTES: usize = 10 << 10;
const MODES: [&str; 2] = ["All", "ExactCount"];

fn at_most(v: &Value, field: &str, most: usize, path: &str, errors: &mut ErrorList) {
    let n = list(v, field).count();
    if n > most {
        errors.push(FieldError::too_many(format!("{path}.{field}"), n, most));
    }
}

/// Names that are each other's.
fn unique<'a>(v: &'a Value, field: &str, path: &str, errors: &mut ErrorList) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, n) in list(v, field).map(|e| text(e, "name")).enumerate() {
        if !n.is_empty() && !seen.insert(n) {
            errors.push(FieldError::duplicate(format!("{path}.{field}[{i}].name"), n));
        }
    }
    seen
}

fn default_request(r: &mut Value) {
    let Some(m) = r.as_object_mut() else { return };
    set(m, "allocationMode", "ExactCount");
    if m["allocationMode"] == "ExactCount" && m.get("count").and_then(Value::as_i64).unwrap_or(0) == 0 {
        m.insert("count".into(), 1.into());
    }
    for t in list_mut(r, "tolerations").filter_map(Value::as_object_mut) {
        set(t, "operator", "Equal");
    }
}

/// Fills in the defaults of a claim's spec.
fn default_spec(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for r in list_mut(devices, "requests") {
        if r["exactly"].is_object() {
            default_request(&mut r["exactly"]);
        }
        list_mut(r, "firstAvailable").for_each(default_request);
    }
}

fn validate_spec(spec: &Value, path: &str, errors: &mut ErrorList) {
    let (v, path) = (&spec["devices"], format!("{path}.devices"));
    at_most(v, "requests", REQUESTS_MOST, &path, errors);
    for (i, r) in list(v, "requests").enumerate() {
        request(r, &format!("{path}.requests[{i}]"), errors);
    }
    unique(v, "requests", &path, errors);
    let known: BTreeSet<String> = list(v, "requests")
        .flat_map(|r| {
            let own = text(r, "name").to_owned();
            let others = list(r, "firstAvailable").map(|s| format!("{}/{}", text(r, "name"), text(s, "name")));
            others.chain(std::iter::once(own)).collect::<Vec<_>>()
        })
        .collect();
    at_most(v, "constraints", CONSTRAINTS_MOST, &path, errors);
    for (i, c) in list(v, "constraints").enumerate() {
        let path = format!("{path}.constraints[{i}]");
        request_refs(c, &known, &path, errors);
        let (match_attribute, distinct) = (&c["matchAttribute"], &c["distinctAttribute"]);
        if match_attribute.is_null() && distinct.is_null() {
            errors.push(FieldError::required(format!("{path}.matchAttribute"), ""));
        }
    }
    at_most(v, "config", CONFIG_MOST, &path, errors);
    for (i, c) in list(v, "config").enumerate() {
        let path = format!("{path}.config[{i}]");
        request_refs(c, &known, &path, errors);
        configuration(c, &path, errors);
    }
}

fn request_refs(v: &Value, known: &BTreeSet<String>, path: &str, errors: &mut ErrorList) {
    for (i, n) in list(v, "requests").filter_map(Value::as_str).enumerate().filter(|(_, n)| !known.contains(*n)) {
        let detail =
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.push(FieldError::invalid(format!("{path}.requests[{i}]"), n, detail));
    }
}

fn configuration(c: &Value, path: &str, errors: &mut ErrorList) {
    let field = format!("{path}.opaque");
    if !c["opaque"].is_object() {
        errors.push(FieldError::required(field, ""));
        return;
    }
    rules::csi_driver(&c["opaque"], "driver", &field, errors);
    match &c["opaque"]["parameters"] {
        Value::Null => errors.push(FieldError::required(format!("{field}.parameters"), "")),
        Value::Object(_) => {}
        other => {
            let detail = "must be a valid JSON object";
            errors.push(FieldError::invalid(format!("{field}.parameters"), other.clone(), detail));
        }
    }
}

fn request(r: &Value, path: &str, errors: &mut ErrorList) {
    rules::named(r, "name", path, names::dns1123_label_errors, errors);
    let several = list(r, "firstAvailable").next().is_some();
    let detail = "exactly one of `exactly` or `firstAvailable` is required";
    match (r["exactly"].is_object(), several) {
        (false, false) => errors.push(FieldError::required(path, detail)),
        (true, true) => {
            errors.push(FieldError { value: None, ..FieldError::invalid(path, Value::Null, detail) });
        }
        (true, false) => one_request(&r["exactly"], &format!("{path}.exactly"), errors),
        (false, true) => {
            at_most(r, "firstAvailable", ALTERNATIVES_MOST, path, errors);
            for (i, s) in list(r, "firstAvailable").enumerate() {
                let path = format!("{path}.firstAvailable[{i}]");
                rules::named(s, "name", &path, names::dns1123_label_errors, errors);
                one_request(s, &path, errors);
            }
            unique(r, "firstAvailable", path, errors);
        }
    }
}

fn one_request(r: &Value, path: &str, errors: &mut ErrorList) {
    rules::named(r, "deviceClassName", path, names::dns1123_subdomain_errors, errors);
    selectors(r, path, errors);
    let (mode, count) = (text(r, "allocationMode"), r["count"].as_i64().unwrap_or(0));
    let field = format!("{path}.count");
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(field, count, detail));
        }
        "ExactCount" if count <= 0 => errors.push(FieldError::invalid(field, count, "must be greater than zero")),
        "All" | "ExactCount" => {}
        other => errors.push(FieldError::not_supported(format!("{path}.allocationMode"), other, &MODES)),
    }
    for (i, t) in list(r, "tolerations").enumerate() {
        let path = format!("{path}.tolerations[{i}]");
        if !text(t, "key").is_empty() {
            rules::label_name(text(t, "key"), &format!("{path}.key"), errors);
        }
        match text(t, "operator") {
            "Exists" if !text(t, "value").is_empty() => {
                let detail = "must be empty for operator `Exists`";
                errors.push(FieldError::invalid(format!("{path}.value"), text(t, "value"), detail));
            }
            "Exists" | "Equal" => {}
            "" => errors.push(FieldError::required(format!("{path}.operator"), "")),
            other => {
                errors.push(FieldError::not_supported(format!("{path}.operator"), other, &["Equal", "Exists"]));
            }
        }
    }
}

fn selectors(v: &Value, path: &str, errors: &mut ErrorList) {
    at_most(v, "selectors", SELECTORS_MOST, path, errors);
    for (i, s) in list(v, "selectors").enumerate() {
        let field = format!("{path}.selectors[{i}].cel");
        match s["cel"]["expression"].as_str() {
            None => errors.push(FieldError::required(field, "")),
            Some(e) if e.len() > EXPRESSION_BYTES => {
                errors.push(FieldError::too_long(format!("{field}.expression"), EXPRESSION_BYTES));
            }
            Some(e) => {
                if let Err(why) = crate::cel::Expression::compile(e, &["device"]) {
                    let detail = format!("compilation failed: {why}");
                    errors.push(FieldError::invalid(format!("{field}.expression"), e, detail));
                }
            }
        }
    }
}

pub(super) struct ResourceClaim;

impl Strategy for ResourceClaim {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn default(&self, o: &mut Value) {
        default_spec(&mut o["spec"]);
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_spec(&o["spec"], "spec", &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(new, old, &["spec"], "", &mut errors);
        errors
    }
    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let (status, before, mut errors) = (&new["status"], &old["status"], ErrorList::new());
        at_most(status, "reservedFor", RESERVED_MOST, "status", &mut errors);
        let mut seen = BTreeSet::new();
        for (i, r) in list(status, "reservedFor").enumerate() {
            let path = format!("status.reservedFor[{i}]");
            rules::required(r, &["resource", "name", "uid"], &path, &mut errors);
            if !seen.insert(text(r, "uid")) {
                errors.push(FieldError::duplicate(format!("{path}.uid"), text(r, "uid")));
            }
        }
        let reserved = |s: &Value| list(s, "reservedFor").cloned().collect::<Vec<_>>();
        if !reserved(status).is_empty() {
            let added = reserved(status).iter().any(|r| !reserved(before).contains(r));
            if !status["allocation"].is_object() {
                let detail = "may not be specified when `allocated` is not set";
                errors.push(FieldError::forbidden("status.reservedFor", detail));
            } else if added && new["metadata"].get("deletionTimestamp").is_some() {
                let detail =
                    "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
                errors.push(FieldError::forbidden("status.reservedFor", detail));
            }
        }
        if before["allocation"].is_object() && status["allocation"].is_object() {
            rules::immutable(status, before, &["allocation"], "status", &mut errors);
        } else if status["allocation"]["nodeSelector"].is_object() {
            let field = "status.allocation.nodeSelector";
            placement::node_selector(&status["allocation"]["nodeSelector"], field, &mut errors);
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let mut states = Vec::new();
        if o["metadata"].get("deletionTimestamp").is_some() {
            states.push("deleted");
        }
        if o["status"]["allocation"].is_object() {
            states.push("allocated");
        } else {
            states.push("pending");
        }
        if o["status"]["allocation"].is_object() && list(&o["status"], "reservedFor").next().is_some() {
            states.push("reserved");
        }
        vec![name(o), states.join(",").into(), age(o, now)]
    }
}

pub(super) struct ResourceClaimTemplate;

impl Strategy for ResourceClaimTemplate {
    fn default(&self, o: &mut Value) {
        if o["spec"].is_object() {
            default_spec(&mut o["spec"]["spec"]);
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let metadata = &o["spec"]["metadata"];
        errors.extend(crate::metadata::validate_labels(&metadata["labels"], "spec.metadata.labels"));
        errors.extend(crate::metadata::validate_annotations(&metadata["annotations"], "spec.metadata.annotations"));
        validate_spec(&o["spec"]["spec"], "spec.spec", &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(new, old, &["spec"], "", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(o), age(o, now)]
    }
}

pub(super) struct DeviceClass;

impl Strategy for DeviceClass {
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        selectors(spec, "spec", &mut errors);
        at_most(spec, "config", CONFIG_MOST, "spec", &mut errors);
        for (i, c) in list(spec, "config").enumerate() {
            configuration(c, &format!("spec.config[{i}]"), &mut errors);
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(o), age(o, now)]
    }
}

pub(super) struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn default(&self, o: &mut Value) {
        let now = crate::time::rfc3339(Timestamp::now());
        for d in o.get_mut("spec").into_iter().flat_map(|s| list_mut(s, "devices")) {
            for t in list_mut(d, "taints").filter_map(Value::as_object_mut) {
                set(t, "timeAdded", now.clone());
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        rules::csi_driver(spec, "driver", "spec", &mut errors);
        let pool = &spec["pool"];
        rules::required(pool, &["name"], "spec.pool", &mut errors);
        if pool["resourceSliceCount"].as_i64().unwrap_or(0) <= 0 {
            let given = pool["resourceSliceCount"].as_i64().unwrap_or(0);
            errors.push(FieldError::invalid("spec.pool.resourceSliceCount", given, "must be greater than zero"));
        }
        rules::not_negative(pool, &["generation"], "spec.pool", &mut errors);
        let places = [
            !text(spec, "nodeName").is_empty(),
            spec["nodeSelector"].is_object(),
            spec["allNodes"] == true,
            spec["perDeviceNodeSelection"] == true,
        ];
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match places.iter().filter(|p| **p).count() {
            0 => errors.push(FieldError::required("spec", detail)),
            1 => {}
            _ => errors.push(FieldError { value: None, ..FieldError::invalid("spec", Value::Null, detail) }),
        }
        rules::named_if_given(spec, "nodeName", "spec", names::dns1123_subdomain_errors, &mut errors);
        if places[1] {
            placement::node_selector(&spec["nodeSelector"], "spec.nodeSelector", &mut errors);
            if list(&spec["nodeSelector"], "nodeSelectorTerms").count() > 1 {
                let field = "spec.nodeSelector.nodeSelectorTerms";
                let given = spec["nodeSelector"]["nodeSelectorTerms"].clone();
                errors.push(FieldError::invalid(field, given, "must have exactly one node selector term"));
            }
        }
        at_most(spec, "devices", DEVICES_MOST, "spec", &mut errors);
        for (i, d) in list(spec, "devices").enumerate() {
            rules::named(d, "name", &format!("spec.devices[{i}]"), names::dns1123_label_errors, &mut errors);
        }
        unique(spec, "devices", "spec", &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let (is, was, mut errors) = (&new["spec"], &old["spec"], ErrorList::new());
        rules::immutable(&is["pool"], &was["pool"], &["name"], "spec.pool", &mut errors);
        rules::immutable(is, was, &["driver", "nodeName", "nodeSelector", "allNodes"], "spec", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &o["spec"];
        let node = match (text(spec, "nodeName"), spec["nodeSelector"].is_object()) {
            ("", true) => "<some>",
            ("", false) => "<all>",
            (n, _) => n,
        };
        vec![name(o), node.into(), text(spec, "driver").into(), text(&spec["pool"], "name").into(), age(o, now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_claim_asks_for_devices_of_a_class() {
        let mut c = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
        ResourceClaim.default(&mut c);
        assert_eq!(
            c["spec"]["devices"]["requests"][0]["exactly"],
            json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1})
        );
        assert!(ResourceClaim.validate(&c).is_empty());
        let bad = json!({"spec": {"devices": {"requests": [{"name": "r"},
            {"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "count": 2}}],
            "constraints": [{"requests": ["x"], "matchAttribute": "a/b"}]}}});
        assert_eq!(
            told(ResourceClaim.validate(&bad)),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1].name: Duplicate value: \"r\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ]
        );
        assert_eq!(told(ResourceClaim.validate_update(&bad, &c)).len(), 1);
    }

    #[test]
    fn a_claim_is_reserved_only_while_it_is_allocated() {
        let old = json!({"metadata": {}, "status": {}});
        let new = json!({"metadata": {}, "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
        assert_eq!(
            told(ResourceClaim.validate_status(&new, &old)),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
    }

    #[test]
    fn a_slice_belongs_to_a_place() {
        let s = json!({"spec": {"driver": "d", "pool": {"name": "p", "resourceSliceCount": 1}, "devices": [{"name": "x"}]}});
        assert_eq!(
            told(ResourceSlice.validate(&s)),
            [
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
            ]
        );
    }
}
