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

impl Strategy for Namespace {
    fn prepare_create(&self, o: &mut Value) {
        o["status"] = json!({"phase": "Active"});
        if let Some(s) = child(o, "spec") {
            s.insert("finalizers".into(), json!(["kubernetes"]));
        }
    }
    fn default(&self, o: &mut Value) {
        let n = o["metadata"]["name"].clone();
        if n.as_str().is_some_and(|s| !s.is_empty())
            && let Some(labels) = child(&mut o["metadata"], "labels")
        {
            labels.insert("kubernetes.io/metadata.name".into(), n);
        }
    }
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
        if new["spec"]["finalizers"].is_null()
            && let Some(s) = new["spec"].as_object_mut()
        {
            s.remove("finalizers");
        }
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

pub(super) struct Event;

impl Strategy for Event {
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
