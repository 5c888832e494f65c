//! Jobs and cron jobs.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, containers, name, selector, since};
use super::{child, list, pod_spec, set, text};
use crate::field::{ErrorList, FieldError};
use crate::resource::{Strategy, field_at};

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
    if spec["template"].get("spec").is_some() {
        pod_spec::default(&mut spec["template"]["spec"]);
    }
}

fn validate_job(spec: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        if let Some(n) = spec[field].as_i64().filter(|n| *n < 0) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), n, "must be greater than or equal to 0"));
        }
    }
    if text(spec, "completionMode") == "Indexed" && spec["completions"].is_null() {
        errors.push(FieldError::required(format!("{path}.completions"), "when completion mode is Indexed"));
    }
    pod_spec::validate(&spec["template"]["spec"], &format!("{path}.template.spec"), errors);
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    if policy == "Always" || policy.is_empty() {
        let field = format!("{path}.template.spec.restartPolicy");
        errors.push(FieldError {
            detail: "valid values: \"OnFailure\", \"Never\"".into(),
            ..FieldError::required(field, "")
        });
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
        o["spec"]["selector"] = json!({"matchLabels": {CONTROLLER_UID: uid}});
    }

    fn default(&self, o: &mut Value) {
        default_job(&mut o["spec"]);
        let labels = o["spec"]["template"]["metadata"]["labels"].clone();
        if o["metadata"].get("labels").is_none() && !labels.is_null() {
            o["metadata"]["labels"] = labels;
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if o["spec"]["selector"].is_null() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        validate_job(&o["spec"], "spec", &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let suspended = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
        for field in
            ["completions", "selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"]
        {
            let elastic = field == "completions"
                && text(&new["spec"], "completionMode") == "Indexed"
                && new["spec"]["completions"] == new["spec"]["parallelism"];
            let scheduling_only = field == "template" && suspended;
            if new["spec"][field] != old["spec"][field] && !elastic && !scheduling_only {
                errors.push(FieldError::invalid(
                    format!("spec.{field}"),
                    new["spec"][field].clone(),
                    "field is immutable",
                ));
            }
        }
        errors
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
        if !matches!(text(spec, "concurrencyPolicy"), "Allow" | "Forbid" | "Replace") {
            errors.push(FieldError::not_supported(
                "spec.concurrencyPolicy",
                spec["concurrencyPolicy"].clone(),
                &["Allow", "Forbid", "Replace"],
            ));
        }
        validate_job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", &mut errors);
        errors
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
}
