//! Jobs and cron jobs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, containers, name, selector, since};
use super::{child, list, list_mut, pod_spec, pod_warnings, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::{Strategy, field_at};
use crate::selector::LabelSelector;

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

fn default_job(spec: &mut Value) {
    let Some(s) = spec.as_object_mut() else { return };
    if s.get("completions").is_none() && s.get("parallelism").is_none() {
        s.insert("completions".into(), 1.into());
    }
    set(s, "parallelism", 1);
    let per_index = s.contains_key("backoffLimitPerIndex");
    set(s, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    set(s, "completionMode", "NonIndexed");
    set(s, "suspend", false);
    let policy = if s.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(s, "podReplacementPolicy", policy);
    for rule in spec.get_mut("podFailurePolicy").into_iter().flat_map(|p| list_mut(p, "rules")) {
        for c in list_mut(rule, "onPodConditions").filter_map(Value::as_object_mut) {
            set(c, "status", "True");
        }
    }
    if spec["template"].get("spec").is_some() {
        pod_spec::default(&mut spec["template"]["spec"]);
    }
}

const REPLACEMENTS: [&str; 2] = ["Failed", "TerminatingOrFailed"];
/// The most pods that run at once, and indexes that fail, of an indexed job.
const INDEXED_MOST: i64 = 100_000;

fn validate_job(spec: &Value, path: &str, errors: &mut ErrorList) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    rules::not_negative(spec, &numbers, path, errors);
    let field = |f: &str| format!("{path}.{f}");
    let n = |f: &str| spec[f].as_i64();
    if n("maxFailedIndexes").is_some() && n("backoffLimitPerIndex").is_none() {
        errors.push(FieldError::required(field("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if !text(spec, "managedBy").is_empty() {
        rules::label_name(text(spec, "managedBy"), &field("managedBy"), errors);
    }
    rules::one_of_if_given(spec, "completionMode", path, &["NonIndexed", "Indexed"], errors);
    let wrong = |f: &str, detail: &str| FieldError::invalid(field(f), spec[f].clone(), detail);
    if text(spec, "completionMode") == "Indexed" {
        if n("completions").is_none() {
            errors.push(FieldError::required(field("completions"), "when completion mode is Indexed"));
        }
        if n("parallelism").is_some_and(|p| p > INDEXED_MOST) {
            let detail = format!("must be less than or equal to {INDEXED_MOST} when completion mode is Indexed");
            errors.push(wrong("parallelism", &detail));
        }
        if let (Some(failed), Some(all)) = (n("maxFailedIndexes"), n("completions"))
            && failed > all
        {
            errors.push(wrong("maxFailedIndexes", "must be less than or equal to completions"));
        }
        if n("maxFailedIndexes").is_some_and(|m| m > INDEXED_MOST) {
            errors.push(wrong("maxFailedIndexes", &format!("must be less than or equal to {INDEXED_MOST}")));
        }
    } else {
        for f in ["backoffLimitPerIndex", "maxFailedIndexes"].into_iter().filter(|f| n(f).is_some()) {
            errors.push(wrong(f, "requires indexed completion mode"));
        }
    }
    if spec["podFailurePolicy"].is_object() {
        failure_policy(spec, &field("podFailurePolicy.rules"), errors);
    }
    if spec["successPolicy"].is_object() {
        success_policy(spec, &field("successPolicy"), errors);
    }
    let replacements = if spec["podFailurePolicy"].is_object() { &REPLACEMENTS[..1] } else { &REPLACEMENTS[..] };
    rules::one_of_if_given(spec, "podReplacementPolicy", path, replacements, errors);
    pod_spec::validate_template(&spec["template"], &field("template"), errors);
    let restart = field("template.spec.restartPolicy");
    match text(&spec["template"]["spec"], "restartPolicy") {
        "Always" | "" => {
            errors.push(FieldError::required(restart, "valid values: \"OnFailure\", \"Never\""));
        }
        given if !matches!(given, "OnFailure" | "Never") => {
            errors.push(FieldError::not_supported(restart, given, &["OnFailure", "Never"]));
        }
        given if given != "Never" && spec["podFailurePolicy"].is_object() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(restart, given, detail));
        }
        _ => {}
    }
}

/// A word that must be there, whose absence upstream answers with what it may be.
fn word(v: &Value, field: &str, path: &str, supported: &[&str], errors: &mut ErrorList) {
    if text(v, field).is_empty() {
        let all = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" ");
        errors.push(FieldError::required(format!("{path}.{field}"), format!("valid values: [{all}]")));
    } else {
        rules::one_of_if_given(v, field, path, supported, errors);
    }
}

/// An error that shows no value.
fn without_value(path: &str, detail: &str) -> FieldError {
    FieldError { value: None, ..FieldError::invalid(path, Value::Null, detail) }
}

fn failure_policy(spec: &Value, path: &str, errors: &mut ErrorList) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    const MOST: usize = 20;
    let all: Vec<&Value> = list(&spec["podFailurePolicy"], "rules").collect();
    if all.len() > MOST {
        errors.push(FieldError::too_many(path, all.len(), MOST));
    }
    for (i, rule) in all.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        word(rule, "action", &path, &ACTIONS, errors);
        if text(rule, "action") == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(format!("{path}.action"), "FailIndex", detail));
        }
        let codes = rule["onExitCodes"].is_object();
        if codes {
            exit_codes(spec, &rule["onExitCodes"], &format!("{path}.onExitCodes"), errors);
        }
        let conditions: Vec<&Value> = list(rule, "onPodConditions").collect();
        for (n, c) in conditions.iter().enumerate() {
            let path = format!("{path}.onPodConditions[{n}]");
            rules::label_name(text(c, "type"), &format!("{path}.type"), errors);
            word(c, "status", &path, &["False", "True", "Unknown"], errors);
        }
        let detail = match (codes, conditions.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(without_value(&path, detail));
    }
}

fn exit_codes(spec: &Value, v: &Value, path: &str, errors: &mut ErrorList) {
    const MOST: usize = 255;
    word(v, "operator", path, &["In", "NotIn"], errors);
    let pod = &spec["template"]["spec"];
    let known = |name: &str| list(pod, "containers").chain(list(pod, "initContainers")).any(|c| c["name"] == name);
    if let Some(name) = v["containerName"].as_str().filter(|n| !known(n)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(format!("{path}.containerName"), name, detail));
    }
    let (field, values) = (format!("{path}.values"), list(v, "values").filter_map(Value::as_i64).collect::<Vec<_>>());
    if values.is_empty() {
        errors.push(FieldError::invalid(field.clone(), v["values"].clone(), "at least one value is required"));
    } else if values.len() > MOST {
        errors.push(FieldError::too_many(field.clone(), values.len(), MOST));
    }
    for (i, code) in values.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if *code == 0 && text(v, "operator") == "In" {
            errors.push(FieldError::invalid(field.clone(), 0, "must not be 0 for the In operator"));
        }
        if values[..i].contains(code) {
            errors.push(FieldError::duplicate(field, *code));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(field, v["values"].clone(), "must be ordered"));
    }
}

fn success_policy(spec: &Value, path: &str, errors: &mut ErrorList) {
    const MOST: usize = 20;
    if text(spec, "completionMode") != "Indexed" {
        errors.push(without_value(path, "requires indexed completion mode"));
        return;
    }
    let (field, all) = (format!("{path}.rules"), list(&spec["successPolicy"], "rules").collect::<Vec<_>>());
    if all.is_empty() {
        errors.push(FieldError::required(
            field.clone(),
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    if all.len() > MOST {
        errors.push(FieldError::too_many(field.clone(), all.len(), MOST));
    }
    for (i, rule) in all.into_iter().enumerate() {
        let path = format!("{field}[{i}]");
        rules::not_negative(rule, &["succeededCount"], &path, errors);
        if rule["succeededIndexes"].is_null() && rule["succeededCount"].is_null() {
            errors.push(FieldError::required(
                path,
                "at least one of succeededCount or succeededIndexes must be specified",
            ));
            continue;
        }
        let (count, all) = (rule["succeededCount"].as_i64(), spec["completions"].as_i64());
        if let (Some(count), Some(all)) = (count, all)
            && count > all
        {
            let detail = format!("must be less than or equal to {all} (the number of specified completions)");
            errors.push(FieldError::invalid(format!("{path}.succeededCount"), count, detail));
        }
    }
}

pub(super) struct Job;

impl Strategy for Job {
    fn orphans_by_default(&self) -> bool {
        true
    }
    fn field(&self, o: &Value, path: &str) -> Option<String> {
        // Upstream's name for the number of succeeded pods.
        if path == "status.successful" {
            return field_at(o, "status.succeeded").or_else(|| Some("0".to_owned()));
        }
        field_at(o, path)
    }
    fn prepare_create(&self, o: &mut Value) {
        if o["spec"]["manualSelector"] == true {
            return;
        }
        let uid = o["metadata"]["uid"].clone();
        let name = match text(&o["metadata"], "name") {
            "" => return,
            n => n.to_owned(),
        };
        if let Some(t) = child(&mut o["spec"], "template") {
            let meta = t.entry("metadata").or_insert_with(|| json!({}));
            if let Some(labels) = child(meta, "labels") {
                for (k, v) in [
                    (CONTROLLER_UID, uid.clone()),
                    ("controller-uid", uid.clone()),
                    (JOB_NAME, name.clone().into()),
                    ("job-name", name.into()),
                ] {
                    labels.insert(k.into(), v);
                }
            }
        }
        // A selector of the client's stays, and is refused: it finds more than the job's own pods.
        o["spec"]["selector"]["matchLabels"][CONTROLLER_UID] = uid;
    }

    fn default(&self, o: &mut Value) {
        default_job(&mut o["spec"]);
        let labels = o["spec"]["template"]["metadata"]["labels"].clone();
        if o["metadata"].get("labels").is_none() && !labels.is_null() {
            o["metadata"]["labels"] = labels;
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        if spec["manualSelector"] != true && spec["selector"].is_object() {
            generated_selector(o, &mut errors);
        }
        validate_job(spec, "spec", &mut errors);
        if spec["selector"].is_null() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        rules::label_selector(&spec["selector"], "spec.selector", &mut errors);
        let labels = spec["template"]["metadata"]["labels"].clone();
        let map: BTreeMap<String, String> = serde_json::from_value(labels.clone()).unwrap_or_default();
        if LabelSelector::from_value(&spec["selector"]).is_ok_and(|s| !s.matches(&map)) {
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels, detail));
        }
        let last = spec["completions"].as_i64().filter(|n| *n > 0 && text(spec, "completionMode") == "Indexed");
        if let Some(last) = last {
            let name = text(&o["metadata"], "name");
            let hostname = format!("{name}-{}", last - 1);
            if names::dns1123_label(&hostname).is_some() {
                let detail = format!("will not able to create pod with invalid DNS label: {hostname}");
                errors.push(FieldError::invalid("metadata.name", name, detail));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let (is, was, mut errors) = (&new["spec"], &old["spec"], ErrorList::new());
        let indexed = text(is, "completionMode") == "Indexed";
        if !indexed {
            rules::immutable(is, was, &["completions"], "spec", &mut errors);
        } else if is["completions"] != was["completions"] && is["completions"] != is["parallelism"] {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.push(FieldError::invalid("spec.completions", is["completions"].clone(), detail));
        }
        rules::immutable(is, was, &["selector"], "spec", &mut errors);
        // Before it starts, a suspended job may still be told where to run.
        let movable = was["suspend"] == true && old["status"]["startTime"].is_null();
        let fixed = |s: &Value| if movable { without_directives(&s["template"]) } else { s["template"].clone() };
        if fixed(is) != fixed(was) {
            errors.push(FieldError::invalid("spec.template", is["template"].clone(), rules::IMMUTABLE));
        }
        let fields = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
        rules::immutable(is, was, &fields, "spec", &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let fields = ["active", "succeeded", "failed", "ready", "terminating"];
        rules::not_negative(&new["status"], &fields, "status", &mut errors);
        let mut seen = std::collections::BTreeSet::new();
        for part in ["succeeded", "failed"] {
            for (i, uid) in list(&new["status"]["uncountedTerminatedPods"], part).filter_map(Value::as_str).enumerate()
            {
                let field = format!("status.uncountedTerminatedPods.{part}[{i}]");
                if uid.is_empty() {
                    errors.push(FieldError::invalid(field, uid, "must not be empty"));
                } else if !seen.insert(uid) {
                    errors.push(FieldError::duplicate(field, uid));
                }
            }
        }
        errors
    }

    fn warnings(&self, o: &Value) -> Vec<String> {
        let mut all = pod_warnings::of_name(o, "Pod names and hostnames");
        all.extend(pod_warnings::of(&o["spec"]["template"], "spec.template."));
        all
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        if new["metadata"]["generation"] == old["metadata"]["generation"] {
            return Vec::new();
        }
        pod_warnings::of(&new["spec"]["template"], "spec.template.")
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&o["spec"], &o["status"]);
        let succeeded = status["succeeded"].as_i64().unwrap_or(0);
        let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64().unwrap_or(0)) {
            (Some(n), _) => format!("{succeeded}/{n}"),
            (None, p) if p > 1 => format!("{succeeded}/1 of {p}"),
            _ => format!("{succeeded}/1"),
        };
        let has = |kind: &str| list(status, "conditions").any(|c| c["type"] == kind && c["status"] == "True");
        let state = [
            ("Complete", "Complete"),
            ("Failed", "Failed"),
            ("Suspended", "Suspended"),
            ("FailureTarget", "FailureTarget"),
            ("SuccessCriteriaMet", "SuccessCriteriaMet"),
        ];
        let state = state.iter().find(|(k, _)| has(k)).map_or("Running", |(_, s)| s);
        let state = if o["metadata"].get("deletionTimestamp").is_some() { "Terminating" } else { state };
        let duration = match (status["startTime"].as_str(), status["completionTime"].as_str()) {
            (None, _) => String::new(),
            (Some(start), None) => crate::time::age(now, start),
            (Some(start), Some(end)) => crate::time::parse(end).map(|e| crate::time::age(e, start)).unwrap_or_default(),
        };
        let [names, images] = containers(&spec["template"]["spec"]);
        vec![
            name(o),
            state.into(),
            completions.into(),
            duration.into(),
            age(o, now),
            names,
            images,
            selector(&spec["selector"]),
        ]
    }
}

/// The labels by which a job finds its pods are its own.
fn generated_selector(o: &Value, errors: &mut ErrorList) {
    let (uid, name) = (text(&o["metadata"], "uid"), text(&o["metadata"], "name"));
    if uid.is_empty() {
        errors.push(FieldError::required("metadata.uid", ""));
    }
    let wanted = [("controller-uid", uid), ("job-name", name), (CONTROLLER_UID, uid), (JOB_NAME, name)];
    let labels = &o["spec"]["template"]["metadata"]["labels"];
    for (key, value) in wanted {
        let field = "spec.template.metadata.labels";
        match labels[key].as_str() {
            None => errors.push(FieldError::required(field, format!("must be '{value}'"))),
            Some(given) if given != value => {
                errors.push(FieldError::invalid(
                    format!("{field}[{key}]"),
                    labels.clone(),
                    format!("must be '{value}'"),
                ));
            }
            Some(_) => {}
        }
    }
    let own: BTreeMap<String, String> = wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    if LabelSelector::from_value(&o["spec"]["selector"]).is_ok_and(|s| !s.matches(&own)) {
        let detail = "`selector` not auto-generated";
        errors.push(FieldError::invalid("spec.selector", o["spec"]["selector"].clone(), detail));
    }
}

/// A template without what says where its pods run.
fn without_directives(template: &Value) -> Value {
    let mut t = template.clone();
    if let Some(m) = t["metadata"].as_object_mut() {
        m.remove("labels");
        m.remove("annotations");
    }
    if t["metadata"].as_object().is_some_and(serde_json::Map::is_empty) {
        t["metadata"] = Value::Null;
    }
    if let Some(spec) = t["spec"].as_object_mut() {
        for f in ["nodeSelector", "tolerations", "schedulingGates"] {
            spec.remove(f);
        }
        if let Some(a) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
            a.remove("nodeAffinity");
        }
        if spec.get("affinity").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            spec.remove("affinity");
        }
    }
    t
}

const TIME_ZONE: &str = "spec.timeZone";

fn time_zone(spec: &Value, errors: &mut ErrorList) {
    let Some(zone) = spec["timeZone"].as_str() else { return };
    let is_part = |p: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        !matches!(p, "." | "..") && !p.starts_with('-') && (1..=14).contains(&p.len()) && p.bytes().all(known)
    };
    let detail = if zone.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if zone.eq_ignore_ascii_case("Local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
    } else if !zone.split('/').all(is_part) {
        format!("unknown time zone {zone}")
    } else if !jiff::tz::db().is_definitively_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        // A host without time zones cannot tell, and leaves it to the controller.
        format!("unknown time zone {zone}")
    } else {
        return;
    };
    errors.push(FieldError::invalid(TIME_ZONE, zone, detail));
}

pub(super) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, o: &mut Value) {
        let Some(s) = child(o, "spec") else { return };
        set(s, "concurrencyPolicy", "Allow");
        set(s, "suspend", false);
        set(s, "successfulJobsHistoryLimit", 3);
        set(s, "failedJobsHistoryLimit", 1);
        let template = o.pointer_mut("/spec/jobTemplate/spec/template/spec");
        if let Some(t) = template {
            pod_spec::default(t);
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = &o["spec"];
        let schedule = text(spec, "schedule");
        let fields = schedule.split_whitespace().count();
        if schedule.is_empty() {
            errors.push(FieldError::required("spec.schedule", ""));
        } else if !schedule.starts_with('@') && fields != 5 {
            let detail = format!(
                "expected exactly 5 fields, found {fields}: [{}]",
                schedule.split_whitespace().collect::<Vec<_>>().join(" ")
            );
            errors.push(FieldError::invalid("spec.schedule", schedule, detail));
        }
        if schedule.contains("TZ") && !spec["timeZone"].is_null() {
            let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.push(FieldError::invalid("spec.schedule", schedule, detail));
        }
        rules::not_negative(spec, &["startingDeadlineSeconds"], "spec", &mut errors);
        time_zone(spec, &mut errors);
        rules::one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"], &mut errors);
        let (job, path) = (&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec");
        validate_job(job, path, &mut errors);
        if !job["selector"].is_null() {
            let detail = "`selector` will be auto-generated";
            errors.push(FieldError::invalid(format!("{path}.selector"), job["selector"].clone(), detail));
        }
        if job["manualSelector"] == true {
            errors.push(FieldError::not_supported(format!("{path}.manualSelector"), true, &["nil", "false"]));
        }
        let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
        rules::not_negative(spec, &limits, "spec", &mut errors);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(new);
        // A zone that the host forgot keeps nobody from changing the rest.
        if new["spec"]["timeZone"] == old["spec"]["timeZone"] {
            errors.retain(|e| e.field != TIME_ZONE);
        }
        errors.extend(self.validate_update(new, old));
        errors
    }

    fn name_error(&self, name: &str) -> Option<String> {
        // Jobs get their time behind it.
        let long = (name.len() > 52).then(|| "must be no more than 52 characters".to_owned());
        names::dns1123_subdomain(name).or(long)
    }

    fn warnings(&self, o: &Value) -> Vec<String> {
        let mut all = pod_warnings::of_name(o, "Pod names and hostnames");
        let path = "spec.jobTemplate.spec.template.";
        all.extend(pod_warnings::of(&o["spec"]["jobTemplate"]["spec"]["template"], path));
        if text(&o["spec"], "schedule").contains("TZ") {
            let why = "CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";
            all.push(why.to_owned());
        }
        all
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        if new["spec"] == old["spec"] {
            return Vec::new();
        }
        let template = &new["spec"]["jobTemplate"]["spec"]["template"];
        pod_warnings::of(template, "spec.jobTemplate.spec.template.")
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &o["spec"];
        let zone = spec["timeZone"].as_str().unwrap_or("<none>");
        let last = o["status"]["lastScheduleTime"].as_str();
        let last = last.map_or_else(|| "<none>".into(), |t| since(Some(t), now));
        let [names, images] = containers(&spec["jobTemplate"]["spec"]["template"]["spec"]);
        vec![
            name(o),
            spec["schedule"].clone(),
            zone.into(),
            if spec["suspend"] == true { "True" } else { "False" }.into(),
            list(&o["status"], "active").count().into(),
            last,
            age(o, now),
            names,
            images,
            selector(&spec["jobTemplate"]["spec"]["selector"]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_of_the_clients_is_refused() {
        let mut j = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}}});
        Job.prepare_create(&mut j);
        Job.default(&mut j);
        let said: Vec<String> = Job.validate(&j).iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].ends_with("`selector` not auto-generated"), "{said:?}");
    }

    #[test]
    fn a_time_zone_is_known() {
        let said = |zone: &str| {
            let mut errors = ErrorList::new();
            time_zone(&json!({"timeZone": zone}), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(said("Etc/UTC").is_empty());
        if !jiff::tz::db().is_definitively_empty() {
            assert_eq!(said("x"), ["spec.timeZone: Invalid value: \"x\": unknown time zone x"]);
        }
    }

    #[test]
    fn a_job_selects_its_pods_by_its_own_uid() {
        let mut j = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}}});
        Job.prepare_create(&mut j);
        Job.default(&mut j);
        assert_eq!(j["spec"]["selector"]["matchLabels"][CONTROLLER_UID], "u");
        assert_eq!(j["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(j["spec"]["completions"], 1);
        assert_eq!(Job.validate(&j), ErrorList::new());
    }

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn jobs_are_checked_in_upstreams_words() {
        type Change = fn(&mut Value);
        let cases: [(Change, &[&str]); 6] = [
            (
                |j| j["spec"]["template"]["spec"]["restartPolicy"] = "Always".into(),
                &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
            ),
            (
                |j| j["spec"]["backoffLimitPerIndex"] = 1.into(),
                &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
            ),
            (
                |j| j["spec"]["podFailurePolicy"] = json!({"rules": [{"action": "x"}]}),
                &[
                    "spec.podFailurePolicy.rules[0].action: Unsupported value: \"x\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                    "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                    "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
                ],
            ),
            (
                |j| {
                    j["spec"]["podFailurePolicy"] =
                        json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [2, 0]}}]})
                },
                &[
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0]: must be ordered",
                    "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
                ],
            ),
            (
                |j| j["spec"]["selector"]["matchLabels"][CONTROLLER_UID] = "v".into(),
                &[
                    "spec.selector: Invalid value: {\"matchLabels\":{\"batch.kubernetes.io/controller-uid\":\"v\"}}: `selector` not auto-generated",
                    "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"u\",\"job-name\":\"j\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                |j| {
                    j["spec"]["completionMode"] = "Indexed".into();
                    j["metadata"]["name"] = "a.b".into();
                    j["spec"]["manualSelector"] = true.into();
                },
                &["metadata.name: Invalid value: \"a.b\": will not able to create pod with invalid DNS label: a.b-0"],
            ),
        ];
        for (change, wanted) in cases {
            let mut j = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
            Job.prepare_create(&mut j);
            Job.default(&mut j);
            change(&mut j);
            assert_eq!(told(Job.validate(&j)), wanted);
        }
    }

    #[test]
    fn a_suspended_job_may_be_told_where_to_run() {
        let job = |suspend: bool, zone: &str| json!({"spec": {"suspend": suspend, "template": {"spec": {"nodeSelector": {"zone": zone}}}}});
        assert!(Job.validate_update(&job(true, "b"), &job(true, "a")).is_empty());
        assert_eq!(Job.validate_update(&job(false, "b"), &job(false, "a")).len(), 1);
    }

    #[test]
    fn zones_have_a_form() {
        let of = |zone: &str| {
            let mut errors = ErrorList::new();
            time_zone(&json!({"timeZone": zone}), &mut errors);
            told(errors)
        };
        assert!(of("Etc/GMT+3").is_empty());
        assert_eq!(of("../x"), ["spec.timeZone: Invalid value: \"../x\": unknown time zone ../x"]);
    }
}
