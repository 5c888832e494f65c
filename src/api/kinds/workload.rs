//! Workloads of apps/v1 and replication controllers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, containers, labels, name, number, selector};
use super::{child, pod_spec, set, text};
use crate::field::{ErrorList, FieldError};
use crate::resource::{Strategy, field_at};
use crate::selector::LabelSelector;

/// Defaults of `spec.replicas`, history limit and the template.
fn default(o: &mut Value, replicas: bool, history: bool) {
    if let Some(s) = child(o, "spec") {
        if replicas {
            set(s, "replicas", 1);
        }
        if history {
            set(s, "revisionHistoryLimit", 10);
        }
    }
    if o["spec"]["template"].get("spec").is_some() {
        pod_spec::default(&mut o["spec"]["template"]["spec"]);
    }
}

fn non_negative(o: &Value, path: &str, errors: &mut ErrorList) {
    let value = &o["spec"][path];
    if let Some(n) = value.as_i64().filter(|n| *n < 0) {
        errors.push(FieldError::invalid(format!("spec.{path}"), n, "must be greater than or equal to 0"));
    }
}

/// Selector and template must fit, and the template must be a valid pod that always restarts.
fn validate(o: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        non_negative(o, field, &mut errors);
    }
    let spec = &o["spec"];
    match LabelSelector::from_value(&spec["selector"]) {
        Err(s) => errors.push(FieldError::invalid("spec.selector", spec["selector"].clone(), s.message)),
        Ok(_) if spec["selector"].is_null() => errors.push(FieldError::required("spec.selector", "")),
        Ok(s) if s.is_empty() => {
            errors.push(FieldError::invalid(
                "spec.selector",
                spec["selector"].clone(),
                "empty selector is invalid for deployment",
            ));
        }
        Ok(s) => {
            let labels = spec["template"]["metadata"]["labels"].clone();
            let map = serde_json::from_value(labels.clone()).unwrap_or_default();
            if !s.matches(&map) {
                let detail = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid("spec.template.metadata.labels", labels, detail));
            }
        }
    }
    pod_spec::validate(&spec["template"]["spec"], "spec.template.spec", &mut errors);
    only_always(o, &mut errors);
    errors
}

fn only_always(o: &Value, errors: &mut ErrorList) {
    let policy = text(&o["spec"]["template"]["spec"], "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
}

fn immutable_selector(new: &Value, old: &Value) -> ErrorList {
    if new["spec"]["selector"] == old["spec"]["selector"] {
        return ErrorList::new();
    }
    vec![FieldError::invalid("spec.selector", new["spec"]["selector"].clone(), "field is immutable")]
}

fn wide(o: &Value) -> [Value; 3] {
    let [names, images] = containers(&o["spec"]["template"]["spec"]);
    [names, images, selector(&o["spec"]["selector"])]
}

pub(super) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, o: &mut Value) {
        default(o, true, true);
        let Some(s) = child(o, "spec") else { return };
        set(s, "progressDeadlineSeconds", 600);
        set(s, "strategy", json!({}));
        let Some(strategy) = s.get_mut("strategy").and_then(Value::as_object_mut) else { return };
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            set(strategy, "rollingUpdate", json!({}));
            if let Some(r) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set(r, "maxUnavailable", "25%");
                set(r, "maxSurge", "25%");
            }
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = validate(o);
        let strategy = &o["spec"]["strategy"];
        match text(strategy, "type") {
            "RollingUpdate" => {}
            "Recreate" if strategy.get("rollingUpdate").is_some_and(|r| !r.is_null()) => {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
            }
            "Recreate" => {}
            t => errors.push(FieldError::not_supported("spec.strategy.type", t, &["Recreate", "RollingUpdate"])),
        }
        let rolling = &strategy["rollingUpdate"];
        let zero = |v: &Value| v == 0 || v == "0%" || v == "0";
        if zero(&rolling["maxSurge"]) && zero(&rolling["maxUnavailable"]) {
            let detail = "may not be 0 when `maxSurge` is 0";
            errors.push(FieldError::invalid(
                "spec.strategy.rollingUpdate.maxUnavailable",
                rolling["maxUnavailable"].clone(),
                detail,
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        immutable_selector(new, old)
    }

    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        // Upstream counts a change of annotations as one of the spec.
        new["spec"] != old["spec"] || new["metadata"]["annotations"] != old["metadata"]["annotations"]
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let st = &o["status"];
        let ready = format!("{}/{}", number(&st["readyReplicas"]), number(&o["spec"]["replicas"]));
        let mut row =
            vec![name(o), ready.into(), number(&st["updatedReplicas"]), number(&st["availableReplicas"]), age(o, now)];
        row.extend(wide(o));
        row
    }
}

pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn field(&self, o: &Value, path: &str) -> Option<String> {
        field_at(o, path).or_else(|| (path == "status.replicas").then(|| "0".to_owned()))
    }
    fn default(&self, o: &mut Value) {
        default(o, true, false);
    }
    fn validate(&self, o: &Value) -> ErrorList {
        validate(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        immutable_selector(new, old)
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let st = &o["status"];
        let mut row = vec![
            name(o),
            number(&o["spec"]["replicas"]),
            number(&st["replicas"]),
            number(&st["readyReplicas"]),
            age(o, now),
        ];
        row.extend(wide(o));
        row
    }
}

pub(super) struct ReplicationController;

impl Strategy for ReplicationController {
    fn field(&self, o: &Value, path: &str) -> Option<String> {
        field_at(o, path).or_else(|| (path == "status.replicas").then(|| "0".to_owned()))
    }
    fn default(&self, o: &mut Value) {
        default(o, true, false);
        let template_labels = o["spec"]["template"]["metadata"]["labels"].clone();
        if !template_labels.is_null() {
            if o["spec"].get("selector").is_none() {
                o["spec"]["selector"] = template_labels.clone();
            }
            if o["metadata"].get("labels").is_none() {
                o["metadata"]["labels"] = template_labels;
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        non_negative(o, "replicas", &mut errors);
        let spec = &o["spec"];
        let selector: std::collections::BTreeMap<String, String> =
            serde_json::from_value(spec["selector"].clone()).unwrap_or_default();
        if selector.is_empty() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        let labels = spec["template"]["metadata"]["labels"].clone();
        if selector.iter().any(|(k, v)| labels[k] != *v) {
            errors.push(FieldError::invalid(
                "spec.template.metadata.labels",
                labels,
                "`selector` does not match template `labels`",
            ));
        }
        pod_spec::validate(&spec["template"]["spec"], "spec.template.spec", &mut errors);
        only_always(o, &mut errors);
        errors
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let st = &o["status"];
        let [names, images] = containers(&o["spec"]["template"]["spec"]);
        vec![
            name(o),
            number(&o["spec"]["replicas"]),
            number(&st["replicas"]),
            number(&st["readyReplicas"]),
            age(o, now),
            names,
            images,
            labels(&o["spec"]["selector"]),
        ]
    }
}

pub(super) struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, o: &mut Value) {
        default(o, false, true);
        let Some(s) = child(o, "spec") else { return };
        set(s, "updateStrategy", json!({}));
        let Some(u) = s.get_mut("updateStrategy").and_then(Value::as_object_mut) else { return };
        set(u, "type", "RollingUpdate");
        if u["type"] == "RollingUpdate" {
            set(u, "rollingUpdate", json!({}));
            if let Some(r) = u.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set(r, "maxUnavailable", 1);
                set(r, "maxSurge", 0);
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        validate(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        immutable_selector(new, old)
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let st = &o["status"];
        let mut row = vec![name(o)];
        for f in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ] {
            row.push(number(&st[f]));
        }
        row.push(labels(&o["spec"]["template"]["spec"]["nodeSelector"]));
        row.push(age(o, now));
        row.extend(wide(o));
        row
    }
}

pub(super) struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, o: &mut Value) {
        default(o, true, true);
        let Some(s) = child(o, "spec") else { return };
        set(s, "podManagementPolicy", "OrderedReady");
        set(s, "updateStrategy", json!({"type": "RollingUpdate"}));
        set(s, "persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
        let Some(u) = s.get_mut("updateStrategy").and_then(Value::as_object_mut) else { return };
        set(u, "type", "RollingUpdate");
        if u["type"] == "RollingUpdate" {
            set(u, "rollingUpdate", json!({}));
            if let Some(r) = u.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set(r, "partition", 0);
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        validate(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let fixed = |o: &Value| {
            let mut s = o["spec"].clone();
            if let Some(m) = s.as_object_mut() {
                for f in [
                    "replicas",
                    "ordinals",
                    "template",
                    "updateStrategy",
                    "revisionHistoryLimit",
                    "persistentVolumeClaimRetentionPolicy",
                    "minReadySeconds",
                ] {
                    m.remove(f);
                }
            }
            s
        };
        if fixed(new) == fixed(old) {
            return ErrorList::new();
        }
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        vec![FieldError::forbidden("spec", detail)]
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let ready = format!("{}/{}", number(&o["status"]["readyReplicas"]), number(&o["spec"]["replicas"]));
        let [names, images] = containers(&o["spec"]["template"]["spec"]);
        vec![name(o), ready.into(), age(o, now), names, images]
    }
}

pub(super) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        if new["data"] == old["data"] {
            return ErrorList::new();
        }
        vec![FieldError::invalid("data", new["data"].clone(), "field is immutable")]
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let owners = super::list(&o["metadata"], "ownerReferences");
        let controller = owners.into_iter().find(|r| r["controller"] == true);
        let controller = controller.map_or_else(
            || "<none>".to_owned(),
            |r| {
                let group = text(r, "apiVersion").split_once('/').map_or("", |(g, _)| g);
                format!("{}/{}", crate::status::qualified(group, &text(r, "kind").to_lowercase()), text(r, "name"))
            },
        );
        vec![name(o), controller.into(), number(&o["revision"]), age(o, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn a_deployment_gets_its_defaults_and_is_valid() {
        let mut d = deployment();
        Deployment.default(&mut d);
        assert_eq!(
            d["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!((&d["spec"]["replicas"], &d["spec"]["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(Deployment.validate(&d), ErrorList::new());
    }

    #[test]
    fn a_selector_that_misses_its_template_is_refused() {
        let mut d = deployment();
        d["spec"]["selector"]["matchLabels"]["a"] = "c".into();
        Deployment.default(&mut d);
        assert_eq!(Deployment.validate(&d)[0].field, "spec.template.metadata.labels");
    }
}
