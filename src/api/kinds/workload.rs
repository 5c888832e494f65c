//! Workloads of apps/v1 and replication controllers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, containers, labels, name, number, selector};
use super::{child, pod_spec, pod_warnings, rules, set, text};
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

/// What differs in how upstream checks the kinds that make pods from a template.
struct Rules {
    /// In the message about an empty selector.
    selector: &'static str,
    /// In the message about a deadline.
    kind: &'static str,
    /// Whether a selector must be given.
    required: bool,
}

/// Selector and template must fit, and the template must be a valid pod that always restarts.
fn validate(o: &Value, rules: &Rules) -> ErrorList {
    let (spec, mut errors) = (&o["spec"], ErrorList::new());
    let selector = &spec["selector"];
    rules::not_negative(spec, &["replicas"], "spec", &mut errors);
    if selector.is_null() && rules.required {
        errors.push(FieldError::required("spec.selector", ""));
    }
    rules::label_selector(selector, "spec.selector", &mut errors);
    let empty = |f: &str| selector[f].is_null() || selector[f] == json!({}) || selector[f] == json!([]);
    if selector.is_object() && empty("matchLabels") && empty("matchExpressions") {
        let detail = format!("empty selector is invalid for {}", rules.selector);
        errors.push(FieldError::invalid("spec.selector", selector.clone(), detail));
    }
    match LabelSelector::from_value(selector) {
        Err(_) => errors.push(FieldError::invalid("spec.selector", selector.clone(), "invalid label selector")),
        Ok(s) if !s.is_empty() => matches_template(spec, |labels| s.matches(labels), &mut errors),
        Ok(_) => {}
    }
    template(spec, rules.kind, &mut errors);
    rules::not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], "spec", &mut errors);
    errors
}

type Labels = std::collections::BTreeMap<String, String>;

fn matches_template(spec: &Value, matches: impl Fn(&Labels) -> bool, errors: &mut ErrorList) {
    let labels = spec["template"]["metadata"]["labels"].clone();
    if !matches(&serde_json::from_value(labels.clone()).unwrap_or_default()) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, detail));
    }
}

/// The template of something that keeps its pods running.
fn template(spec: &Value, kind: &str, errors: &mut ErrorList) {
    pod_spec::validate_template(&spec["template"], "spec.template", errors);
    let pod = &spec["template"]["spec"];
    if text(pod, "restartPolicy") != "Always" {
        let given = text(pod, "restartPolicy");
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", given, &["Always"]));
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", detail));
    }
}

/// A number, or a percentage of at most 100.
pub(super) fn share(v: &Value, field: &str, bounded: bool, errors: &mut ErrorList) {
    let Some(s) = v.as_str() else {
        if let Some(n) = v.as_i64().filter(|n| *n < 0) {
            errors.push(FieldError::invalid(field, n, "must be greater than or equal to 0"));
        }
        return;
    };
    let percent = s.strip_suffix('%').filter(|n| n.bytes().all(|b| b.is_ascii_digit())).map(str::parse::<u64>);
    match percent {
        Some(Ok(n)) if n > 100 && bounded => {
            errors.push(FieldError::invalid(field, s, "must not be greater than 100%"));
        }
        Some(Ok(_)) => {}
        _ => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(field, s, detail));
        }
    }
}

fn is_none(v: &Value) -> bool {
    match v {
        Value::String(s) => s.trim_end_matches('%').parse() == Ok(0),
        other => other.as_i64().unwrap_or(0) == 0,
    }
}

/// Numbers of a status that count pods: none below 0, and none above what they are a part of.
fn counts(o: &Value, fields: &[&str], parts: &[(&str, &str)]) -> ErrorList {
    let (status, mut errors) = (&o["status"], ErrorList::new());
    rules::not_negative(status, fields, "status", &mut errors);
    let n = |f: &str| status[f].as_i64().unwrap_or(0);
    for (part, whole) in parts.iter().filter(|(p, w)| n(p) > n(w)) {
        let word = if *whole == "replicas" { "status.replicas" } else { *whole };
        let detail = format!("cannot be greater than {word}");
        errors.push(FieldError::invalid(format!("status.{part}"), n(part), detail));
    }
    errors
}

/// The counts of replica sets and replication controllers, and what each is a part of.
const REPLICA_COUNTS: [&str; 5] =
    ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
const REPLICA_PARTS: [(&str, &str); 4] = [
    ("fullyLabeledReplicas", "replicas"),
    ("readyReplicas", "replicas"),
    ("availableReplicas", "replicas"),
    ("availableReplicas", "readyReplicas"),
];

fn warnings(o: &Value) -> Vec<String> {
    let mut all = pod_warnings::of_name(o, "Pod names and hostnames");
    all.extend(pod_warnings::of(&o["spec"]["template"], "spec.template."));
    all
}

/// Only a change of what pods are made from is warned of again.
fn update_warnings(new: &Value, old: &Value) -> Vec<String> {
    if new["metadata"]["generation"] == old["metadata"]["generation"] {
        return Vec::new();
    }
    pod_warnings::of(&new["spec"]["template"], "spec.template.")
}

fn immutable_selector(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    rules::immutable(&new["spec"], &old["spec"], &["selector"], "spec", &mut errors);
    errors
}

fn wide(o: &Value) -> [Value; 3] {
    let [names, images] = containers(&o["spec"]["template"]["spec"]);
    [names, images, selector(&o["spec"]["selector"])]
}

pub(super) struct Deployment;

impl Strategy for Deployment {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels"]
    }

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
        let rules = Rules { selector: "deployment", kind: "ReplicaSet", required: true };
        let (spec, mut errors) = (&o["spec"], validate(o, &rules));
        let (strategy, path) = (&spec["strategy"], "spec.strategy");
        let rolling = &strategy["rollingUpdate"];
        match text(strategy, "type") {
            "RollingUpdate" => {
                let [unavailable, surge] = ["maxUnavailable", "maxSurge"].map(|f| format!("{path}.rollingUpdate.{f}"));
                share(&rolling["maxUnavailable"], &unavailable, true, &mut errors);
                share(&rolling["maxSurge"], &surge, false, &mut errors);
                if is_none(&rolling["maxSurge"]) && is_none(&rolling["maxUnavailable"]) {
                    let detail = "may not be 0 when `maxSurge` is 0";
                    errors.push(FieldError::invalid(unavailable, rolling["maxUnavailable"].clone(), detail));
                }
            }
            "Recreate" if rolling.is_object() => {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(format!("{path}.rollingUpdate"), detail));
            }
            "Recreate" => {}
            _ => errors.push(FieldError::not_supported(path, strategy.clone(), &["Recreate", "RollingUpdate"])),
        }
        rules::not_negative(spec, &["progressDeadlineSeconds"], "spec", &mut errors);
        let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
        if let Some(n) = spec["progressDeadlineSeconds"].as_i64().filter(|n| *n <= ready) {
            let detail = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", n, detail));
        }
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let fields = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
        ];
        let parts = [
            ("updatedReplicas", "replicas"),
            ("readyReplicas", "replicas"),
            ("availableReplicas", "replicas"),
            ("availableReplicas", "readyReplicas"),
        ];
        let mut errors = counts(new, &fields, &parts);
        let collisions = |o: &Value| o["status"]["collisionCount"].as_i64();
        if collisions(new).unwrap_or(0) < collisions(old).unwrap_or(0) {
            let given = new["status"]["collisionCount"].clone();
            errors.push(FieldError::invalid("status.collisionCount", given, "cannot be decremented"));
        }
        errors
    }

    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o)
    }
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        update_warnings(new, old)
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
        validate(o, &Rules { selector: "deployment", kind: "ReplicaSet", required: true })
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        counts(new, &REPLICA_COUNTS, &REPLICA_PARTS)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o)
    }
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        update_warnings(new, old)
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
    fn orphans_by_default(&self) -> bool {
        true
    }
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
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        rules::not_negative(spec, &["minReadySeconds"], "spec", &mut errors);
        let selector: Labels = serde_json::from_value(spec["selector"].clone()).unwrap_or_default();
        if selector.is_empty() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        rules::not_negative(spec, &["replicas"], "spec", &mut errors);
        if spec["template"].is_null() {
            errors.push(FieldError::required("spec.template", ""));
            return errors;
        }
        matches_template(spec, |labels| selector.iter().all(|(k, v)| labels.get(k) == Some(v)), &mut errors);
        template(spec, "ReplicationController", &mut errors);
        errors
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        counts(new, &REPLICA_COUNTS, &REPLICA_PARTS)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o)
    }
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        update_warnings(new, old)
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

/// How often the template changed, kept where the field of an older version of the API went.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(o: &Value) -> i64 {
    text(&o["metadata"]["annotations"], TEMPLATE_GENERATION).parse().unwrap_or(0)
}

fn set_template_generation(o: &mut Value, generation: i64) {
    if let Some(annotations) = child(&mut o["metadata"], "annotations") {
        annotations.insert(TEMPLATE_GENERATION.into(), generation.max(1).to_string().into());
    }
}

impl Strategy for DaemonSet {
    fn prepare_create(&self, o: &mut Value) {
        set_template_generation(o, template_generation(o));
    }
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // Templates are compared as they are stored.
        self.default(new);
        let changed = new["spec"]["template"] != old["spec"]["template"];
        set_template_generation(new, template_generation(old).max(1) + i64::from(changed));
    }
    fn default(&self, o: &mut Value) {
        default(o, false, true);
        // Upstream's conversion writes the field of the older version.
        if let Some(annotations) = child(&mut o["metadata"], "annotations") {
            set(annotations, TEMPLATE_GENERATION, "0");
        }
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
        let mut errors = validate(o, &Rules { selector: "daemonset", kind: "DaemonSet", required: false });
        let (strategy, path) = (&o["spec"]["updateStrategy"], "spec.updateStrategy");
        let (rolling, field) = (&strategy["rollingUpdate"], |f: &str| format!("{path}.rollingUpdate.{f}"));
        match text(strategy, "type") {
            "OnDelete" => {}
            "RollingUpdate" => {
                let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
                share(unavailable, &field("maxUnavailable"), true, &mut errors);
                share(surge, &field("maxSurge"), true, &mut errors);
                match (is_none(unavailable), is_none(surge)) {
                    (false, false) => {
                        let detail = "may not be set when maxUnavailable is non-zero";
                        errors.push(FieldError::invalid(field("maxSurge"), surge.clone(), detail));
                    }
                    (true, true) => {
                        let detail = "cannot be 0 when maxSurge is 0";
                        errors.push(FieldError::required(field("maxUnavailable"), detail));
                    }
                    _ => {}
                }
            }
            _ => errors.push(FieldError::not_supported(path, strategy.clone(), &["RollingUpdate", "OnDelete"])),
        }
        errors
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let fields = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        counts(new, &fields, &[])
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o)
    }
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        update_warnings(new, old)
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

/// The set as its pods are made from it: with a volume for each of its claims.
fn with_claims(o: &Value) -> Value {
    let mut o = o.clone();
    let claims: Vec<Value> = super::list(&o["spec"], "volumeClaimTemplates")
        .map(|c| &c["metadata"]["name"])
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    let pod = &mut o["spec"]["template"]["spec"];
    let mut volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
    volumes.retain(|v| !claims.iter().any(|c| c["name"] == v["name"]));
    volumes.extend(claims);
    if !volumes.is_empty() && pod.is_object() {
        pod["volumes"] = volumes.into();
    }
    o
}

/// A claim template looks as a claim does after its defaults.
fn set_claim_defaults(claim: &mut Value) {
    if let Some(m) = claim.as_object_mut() {
        set(m, "apiVersion", "v1");
        set(m, "kind", "PersistentVolumeClaim");
        set(m, "status", json!({"phase": "Pending"}));
    }
    if let Some(spec) = child(claim, "spec") {
        set(spec, "volumeMode", "Filesystem");
    }
}

impl Strategy for StatefulSet {
    fn default(&self, o: &mut Value) {
        default(o, true, true);
        let Some(s) = child(o, "spec") else { return };
        set(s, "podManagementPolicy", "OrderedReady");
        set(s, "updateStrategy", json!({}));
        set(s, "persistentVolumeClaimRetentionPolicy", json!({}));
        if let Some(p) = s.get_mut("persistentVolumeClaimRetentionPolicy").and_then(Value::as_object_mut) {
            set(p, "whenDeleted", "Retain");
            set(p, "whenScaled", "Retain");
        }
        let Some(u) = s.get_mut("updateStrategy").and_then(Value::as_object_mut) else { return };
        if !u.contains_key("type") {
            set(u, "type", "RollingUpdate");
            set(u, "rollingUpdate", json!({}));
        }
        if let Some(r) = u.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
            set(r, "partition", 0);
        }
        for claim in super::list_mut(&mut o["spec"], "volumeClaimTemplates") {
            set_claim_defaults(claim);
            if let Some(status) = super::child(claim, "status") {
                set(status, "phase", "Pending");
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        let policy = text(spec, "podManagementPolicy");
        if !matches!(policy, "OrderedReady" | "Parallel") {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid("spec.podManagementPolicy", policy, detail));
        }
        let (strategy, path) = (&spec["updateStrategy"], "spec.updateStrategy");
        let rolling = &strategy["rollingUpdate"];
        match text(strategy, "type") {
            "" => errors.push(FieldError::required(path, "")),
            "OnDelete" if rolling.is_object() => {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(FieldError::invalid(format!("{path}.rollingUpdate"), rolling.clone(), detail));
            }
            "OnDelete" => {}
            "RollingUpdate" => {
                let path = format!("{path}.rollingUpdate");
                rules::not_negative(rolling, &["partition"], &path, &mut errors);
                let (given, field) = (&rolling["maxUnavailable"], format!("{path}.maxUnavailable"));
                if !given.is_null() {
                    share(given, &field, true, &mut errors);
                    if is_none(given) {
                        errors.push(FieldError::invalid(field, given.clone(), "cannot be 0"));
                    }
                }
            }
            _ => {
                let detail = "must be 'RollingUpdate' or 'OnDelete'";
                errors.push(FieldError::invalid(path, strategy.clone(), detail));
            }
        }
        let (retention, path) =
            (&spec["persistentVolumeClaimRetentionPolicy"], "spec.persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            rules::one_of_if_given(retention, field, path, &["Retain", "Delete"], &mut errors);
        }
        rules::not_negative(&spec["ordinals"], &["start"], "spec.ordinals", &mut errors);
        let service = text(spec, "serviceName");
        if !service.is_empty() {
            rules::all_wrong("spec.serviceName", service, crate::names::dns1123_label_errors(service), &mut errors);
        }
        for (i, claim) in super::list(spec, "volumeClaimTemplates").enumerate() {
            super::claim::validate_spec(&claim["spec"], &format!("spec.volumeClaimTemplates[{i}].spec"), &mut errors);
        }
        let rules = Rules { selector: "statefulset", kind: "StatefulSet", required: true };
        errors.extend(validate(&with_claims(o), &rules));
        errors
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let fields = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "observedGeneration",
            "collisionCount",
            "availableReplicas",
        ];
        let parts = [
            ("readyReplicas", "replicas"),
            ("currentReplicas", "replicas"),
            ("updatedReplicas", "replicas"),
            ("availableReplicas", "replicas"),
            ("availableReplicas", "readyReplicas"),
        ];
        counts(new, &fields, &parts)
    }
    fn name_error(&self, name: &str) -> Option<String> {
        // The pods' hostnames begin with it.
        crate::names::dns1123_label(name)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o)
    }
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        update_warnings(new, old)
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
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if o["data"].is_null() {
            errors.push(FieldError::required("data", "data is mandatory"));
        }
        if let Some(n) = o["revision"].as_i64().filter(|n| *n < 0) {
            errors.push(FieldError::invalid("revision", n, "must be greater than or equal to 0"));
        }
        errors
    }
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
    fn a_daemon_set_counts_the_changes_of_its_template() {
        let mut old = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        let sent = old.clone();
        DaemonSet.prepare_create(&mut old);
        DaemonSet.default(&mut old);
        assert_eq!(old["metadata"]["annotations"], json!({TEMPLATE_GENERATION: "1"}));
        let mut new = sent.clone();
        DaemonSet.prepare_update(&mut new, &old);
        assert_eq!(template_generation(&new), 1);
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into();
        DaemonSet.prepare_update(&mut new, &old);
        assert_eq!(template_generation(&new), 2);
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

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn workloads_are_checked_in_upstreams_words() {
        type Change = fn(&mut Value);
        let cases: [(&dyn Strategy, Change, &[&str]); 8] = [
            (
                &Deployment,
                |o| o["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"}),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                &Deployment,
                |o| o["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = "110%".into(),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"110%\": must not be greater than 100%"],
            ),
            (
                &Deployment,
                |o| o["spec"]["progressDeadlineSeconds"] = 0.into(),
                &["spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds"],
            ),
            (
                &ReplicaSet,
                |o| o["spec"]["selector"] = json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            (
                &ReplicaSet,
                |o| o["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 5.into(),
                &[
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
                ],
            ),
            (
                &DaemonSet,
                |o| o["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = 1.into(),
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                ],
            ),
            (
                &StatefulSet,
                |o| o["spec"]["podManagementPolicy"] = "x".into(),
                &["spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"],
            ),
            (
                &StatefulSet,
                |o| {
                    o["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "v"}, "spec": {
                        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
                    o["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                        json!([{"name": "v", "mountPath": "/v"}]);
                },
                &[],
            ),
        ];
        for (kind, change, wanted) in cases {
            let mut o = deployment();
            kind.default(&mut o);
            assert_eq!(told(kind.validate(&o)), Vec::<String>::new());
            change(&mut o);
            assert_eq!(told(kind.validate(&o)), wanted);
        }
    }

    #[test]
    fn a_template_keeps_its_requests_as_they_are() {
        let mut d = deployment();
        d["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
        Deployment.default(&mut d);
        assert_eq!(d["spec"]["template"]["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
    }
}
