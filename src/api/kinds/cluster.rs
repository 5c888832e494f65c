//! Namespaces, events, leases, priority classes, disruption budgets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, name, number, since};
use super::workload::share;
use super::{child, list, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::{Strategy, field_at};

pub(super) struct Namespace;

/// The finalizer of the controller that empties namespaces.
const KEPT_BY: &str = "kubernetes";

/// What is wrong with a finalizer of a namespace's spec; upstream's path has no index.
fn finalizer(name: &str, errors: &mut ErrorList) {
    let path = "spec.finalizers";
    let wrong = names::qualified_name_errors(name);
    errors.extend(wrong.into_iter().map(|e| FieldError::invalid(path, name, e)));
    if !name.contains('/') && ![KEPT_BY, "orphan", "foregroundDeletion"].contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

impl Strategy for Namespace {
    fn prepare_create(&self, o: &mut Value) {
        o["status"] = json!({"phase": "Active"});
        if !list(&o["spec"], "finalizers").any(|f| f == KEPT_BY)
            && let Some(s) = child(o, "spec")
            && let Some(all) = s.entry("finalizers").or_insert_with(|| json!([])).as_array_mut()
        {
            all.push(KEPT_BY.into());
        }
    }
    fn default(&self, o: &mut Value) {
        let n = o["metadata"]["name"].clone();
        if n.as_str().is_some_and(|s| !s.is_empty())
            && let Some(labels) = child(&mut o["metadata"], "labels")
        {
            labels.insert("kubernetes.io/metadata.name".into(), n);
        }
        if let Some(status) = child(o, "status") {
            set(status, "phase", "Active");
        }
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let (phase, deleted) = (text(&new["status"], "phase"), !new["metadata"]["deletionTimestamp"].is_null());
        let detail = match (deleted, phase) {
            (false, "Active") | (true, "Terminating") => return ErrorList::new(),
            (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
            (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
        };
        vec![FieldError::invalid("status.Phase", phase, detail)]
    }
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
        if new["spec"]["finalizers"].is_null()
            && let Some(s) = new["spec"].as_object_mut()
        {
            s.remove("finalizers");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for name in list(&o["spec"], "finalizers").filter_map(Value::as_str) {
            finalizer(name, &mut errors);
        }
        errors
    }
    fn begin_deletion(&self, o: &mut Value) {
        o["status"]["phase"] = "Terminating".into();
    }
    fn holds_deletion(&self, o: &Value) -> bool {
        list(&o["spec"], "finalizers").next().is_some()
    }
    fn name_error(&self, name: &str) -> Option<String> {
        names::dns1123_label(name)
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(o), o["status"]["phase"].clone(), age(o, now)]
    }
}

/// Events as core has them, and those of the newer group, which are checked in full.
pub(super) struct Event {
    pub(super) newer: bool,
}

impl Strategy for Event {
    fn is_transient(&self) -> bool {
        true
    }

    fn name_error(&self, name: &str) -> Option<String> {
        // Older events may have any name.
        if self.newer { names::dns1123_subdomain(name) } else { None }
    }

    fn field(&self, o: &Value, path: &str) -> Option<String> {
        // Both spellings: core's and that of events.k8s.io.
        let path = path.replace("regarding", "involvedObject").replace("reportingController", "reportingComponent");
        if path == "source" {
            // New events name their source as the controller only.
            let component = field_at(o, "source.component").filter(|c| !c.is_empty());
            return component.or_else(|| field_at(o, "reportingComponent"));
        }
        field_at(o, &path)
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        event(o, &mut errors);
        if self.newer {
            newer_event(o, &mut errors);
        }
        errors
    }
    // What was made as a core event may still be changed by the newer group, as upstream.
    fn validate_changed(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        event(new, &mut errors);
        errors
    }
    fn creates_on_update(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let non_empty = |f: &str| o[f].as_str().filter(|s| !s.is_empty());
        let created = o["metadata"]["creationTimestamp"].as_str();
        let first = non_empty("firstTimestamp").or(non_empty("eventTime")).or(created);
        let last = o["series"]["lastObservedTime"].as_str().or(non_empty("lastTimestamp")).or(first);
        let about = &o["involvedObject"];
        let object = match text(about, "name") {
            "" => text(about, "kind").to_lowercase(),
            n => format!("{}/{n}", text(about, "kind").to_lowercase()),
        };
        let source = match (text(&o["source"], "component"), text(&o["source"], "host")) {
            ("", _) => match (text(o, "reportingComponent"), text(o, "reportingInstance")) {
                (c, "") => c.to_owned(),
                (c, i) => format!("{c}, {i}"),
            },
            (c, "") => c.to_owned(),
            (c, h) => format!("{c}, {h}"),
        };
        let count = o["series"]["count"].as_i64().or(o["count"].as_i64()).filter(|n| *n > 0).unwrap_or(1);
        vec![
            since(last, now),
            text(o, "type").into(),
            text(o, "reason").into(),
            object.into(),
            text(about, "fieldPath").into(),
            source.into(),
            text(o, "message").trim().into(),
            since(first, now),
            count.into(),
            name(o),
        ]
    }
}

/// What an event of the newer group must be like on top: timed, of a known type, and without what
/// that group only shows.
fn newer_event(o: &Value, errors: &mut ErrorList) {
    if text(o, "eventTime").is_empty() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let series = &o["series"];
    if series.is_object() && series["count"].as_i64().unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series.is_object() && text(series, "lastObservedTime").is_empty() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
    let kind = text(o, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    let source = o["source"].as_object().is_some_and(|s| !s.is_empty());
    let given = |field: &str| o.get(field).is_some_and(|v| !v.is_null());
    let count = o["count"].as_i64().unwrap_or(0) != 0;
    for (field, given) in [
        ("firstTimestamp", given("firstTimestamp")),
        ("lastTimestamp", given("lastTimestamp")),
        ("count", count),
        ("source", source),
    ] {
        if given {
            errors.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
}

/// What every event must be like. Those of the newer kind, which have a time, say who reports what.
fn event(o: &Value, errors: &mut ErrorList) {
    let (own, about) = (text(&o["metadata"], "namespace"), text(&o["involvedObject"], "namespace"));
    let timed = !text(o, "eventTime").is_empty();
    let fits = match about {
        "" => own == "default" || own.is_empty() || (timed && own == "kube-system"),
        about => timed || about == own,
    };
    if !fits {
        errors.push(FieldError::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
    if !timed {
        return;
    }
    let reporter = text(o, "reportingComponent");
    if reporter.is_empty() {
        errors.push(FieldError::required("reportingComponent", ""));
    }
    rules::label_name(reporter, "reportingComponent", errors);
    for (field, most, needed) in
        [("reportingInstance", 128, true), ("action", 128, true), ("reason", 128, true), ("message", 1024, false)]
    {
        if needed && text(o, field).is_empty() {
            errors.push(FieldError::required(field, ""));
        }
        if text(o, field).len() > most {
            errors.push(FieldError::invalid(field, "", format!("can have at most {most} characters")));
        }
    }
}

pub(super) struct Lease;

impl Strategy for Lease {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for f in ["leaseDurationSeconds", "leaseTransitions"] {
            let least = i64::from(f == "leaseDurationSeconds");
            if let Some(n) = o["spec"][f].as_i64().filter(|n| *n < least) {
                let detail = if least == 1 { "must be greater than 0" } else { "must be greater than or equal to 0" };
                errors.push(FieldError::invalid(format!("spec.{f}"), n, detail));
            }
        }
        errors
    }
    fn creates_on_update(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(o), text(&o["spec"], "holderIdentity").into(), age(o, now)]
    }
}

pub(super) struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn cells(&self, o: &Value, _: Timestamp) -> Vec<Value> {
        let healthy = list(o, "conditions").find(|c| c["type"] == "Healthy");
        let status = healthy.map_or("Unknown", |c| if c["status"] == "True" { "Healthy" } else { "Unhealthy" });
        let said = |field| healthy.map_or("", |c| text(c, field)).into();
        vec![name(o), status.into(), said("message"), said("error")]
    }
}

pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, o: &mut Value) {
        if let Some(m) = o.as_object_mut() {
            set(m, "preemptionPolicy", "PreemptLowerPriority");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let reserved = ["system-node-critical", "system-cluster-critical"].contains(&text(&o["metadata"], "name"));
        let mut errors = ErrorList::new();
        if o["value"].as_i64().unwrap_or(0) > 1_000_000_000 && !reserved {
            let detail = "maximum allowed value of a user defined priority is 1000000000";
            errors.push(FieldError::forbidden("value", detail));
        }
        if text(&o["metadata"], "name").starts_with("system-") && !reserved {
            errors.push(FieldError::forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only",
            ));
        }
        let policies = ["PreemptLowerPriority", "Never"];
        if let Some(given) = o["preemptionPolicy"].as_str().filter(|p| !policies.contains(p)) {
            errors.push(FieldError::not_supported("preemptionPolicy", given, &policies));
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if new["value"] != old["value"] {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        rules::immutable(new, old, &["preemptionPolicy"], "", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let global = o["globalDefault"].as_bool().unwrap_or(false);
        vec![name(o), number(&o["value"]), global.into(), age(o, now), o["preemptionPolicy"].clone()]
    }
}

pub(super) struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (min, max) = (o["spec"].get("minAvailable"), o["spec"].get("maxUnavailable"));
        if min.is_some() && max.is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid("spec", o["spec"].clone(), detail));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            share(&o["spec"][field], &format!("spec.{field}"), true, &mut errors);
        }
        rules::label_selector(&o["spec"]["selector"], "spec.selector", &mut errors);
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        rules::one_of_if_given(&o["spec"], "unhealthyPodEvictionPolicy", "spec", &policies, &mut errors);
        errors
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let fields = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        rules::not_negative(&new["status"], &fields, "status", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let show = |f: &str| match &o["spec"][f] {
            Value::Null => "N/A".into(),
            Value::String(s) => Value::from(s.as_str()),
            n => n.to_string().into(),
        };
        vec![
            name(o),
            show("minAvailable"),
            show("maxUnavailable"),
            number(&o["status"]["disruptionsAllowed"]),
            age(o, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finalizer_of_a_namespace_is_qualified_and_ours_is_added() {
        let made = |spec: Value| {
            let mut n = json!({"metadata": {"name": "n"}, "spec": spec});
            Namespace.prepare_create(&mut n);
            n
        };
        assert_eq!(made(json!({}))["spec"]["finalizers"], json!(["kubernetes"]));
        let own = made(json!({"finalizers": ["example.com/a"]}));
        assert_eq!(own["spec"]["finalizers"], json!(["example.com/a", "kubernetes"]));
        assert!(Namespace.validate(&own).is_empty());
        let said = Namespace.validate(&made(json!({"finalizers": ["foo"]})));
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        assert_eq!(said[0].to_string(), format!("spec.finalizers: Invalid value: \"foo\": {detail}"));
    }

    #[test]
    fn an_event_of_the_newer_group_has_a_time_and_a_known_type() {
        let said = |newer: bool, o: &Value| {
            let all = Event { newer }.validate(o);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut e =
            json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "type": "Bad", "count": 1});
        assert!(said(false, &e).is_empty());
        assert_eq!(
            said(true, &e),
            [
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: Bad",
                "count: Invalid value: \"\": needs to be unset"
            ]
        );
        e["count"] = Value::Null;
        e["type"] = "Normal".into();
        e["eventTime"] = "2024-01-01T00:00:00.000000Z".into();
        for (field, value) in
            [("reportingComponent", "c"), ("reportingInstance", "i"), ("action", "a"), ("reason", "r")]
        {
            e[field] = value.into();
        }
        assert!(said(true, &e).is_empty());
    }
}
