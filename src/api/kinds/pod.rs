//! Pods and pod templates.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, name};
use super::{list, pod_aspects, pod_spec, pod_update, pod_warnings, text};
use crate::field::{ErrorList, FieldError};
use crate::resource::{Strategy, field_at};

pub(super) struct Pod;

/// Guaranteed, Burstable or BestEffort (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>).
pub(super) fn qos(spec: &Value) -> &'static str {
    let all: Vec<&Value> = list(spec, "containers").chain(list(spec, "initContainers")).collect();
    let set = |c: &Value, kind: &str, r: &str| c["resources"][kind].get(r).cloned();
    let resources = ["cpu", "memory"];
    let any =
        all.iter().any(|c| resources.iter().any(|r| set(c, "requests", r).is_some() || set(c, "limits", r).is_some()));
    if !any {
        return "BestEffort";
    }
    let full = all.iter().all(|c| {
        resources.iter().all(|r| set(c, "limits", r).is_some() && set(c, "requests", r) == set(c, "limits", r))
    });
    if full { "Guaranteed" } else { "Burstable" }
}

/// The one address and the list of all say the same; where they differ, the one is right.
fn same_address(status: &mut Value) {
    let (one, first) = (text(status, "podIP").to_owned(), text(&status["podIPs"][0], "ip").to_owned());
    if !one.is_empty() && one != first {
        status["podIPs"] = json!([{"ip": one}]);
    } else if one.is_empty() && !first.is_empty() {
        status["podIP"] = first.into();
    }
}

impl Strategy for Pod {
    fn field(&self, o: &Value, path: &str) -> Option<String> {
        field_at(o, path).or_else(|| (path == "spec.hostNetwork").then(|| "false".to_owned()))
    }
    fn default(&self, o: &mut Value) {
        pod_spec::default(&mut o["spec"]);
        pod_spec::default_of_pod(&mut o["spec"]);
        if o["status"].is_object() {
            same_address(&mut o["status"]);
        }
    }

    fn prepare_create(&self, o: &mut Value) {
        pod_spec::default(&mut o["spec"]);
        pod_spec::default_of_pod(&mut o["spec"]);
        o["status"] = json!({"phase": "Pending", "qosClass": qos(&o["spec"])});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // Only a binding gives a pod its node.
        if let Some(n) = old["spec"].get("nodeName")
            && new["spec"].get("nodeName").is_none()
        {
            new["spec"]["nodeName"] = n.clone();
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        if let Some(q) = old["status"].get("qosClass") {
            new["status"]["qosClass"] = q.clone();
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        pod_spec::validate_pod(o, &mut errors);
        if list(&o["spec"], "ephemeralContainers").next().is_some() {
            errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
        }
        let gated = list(&o["spec"], "schedulingGates").next().is_some();
        if gated && !text(&o["spec"], "nodeName").is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden("spec.nodeName", detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        pod_update::validate(new, old, &mut errors);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        pod_spec::validate_pod(new, &mut errors);
        errors.extend(self.validate_update(new, old));
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        pod_update::validate_status(new, old)
    }

    fn warnings(&self, o: &Value) -> Vec<String> {
        let mut all = pod_warnings::of_name(o, "the Pod's hostname");
        all.extend(pod_warnings::of(o, ""));
        all
    }

    fn update_warnings(&self, _: &Value, _: &Value) -> Vec<String> {
        Vec::new()
    }

    fn prepare_aspect(&self, aspect: &str, new: &mut Value, old: &Value) {
        pod_aspects::prepare(aspect, new, old);
    }

    fn validate_aspect(&self, aspect: &str, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        pod_spec::validate_pod(new, &mut errors);
        pod_aspects::validate(aspect, new, old, &mut errors);
        errors
    }

    fn default_grace_seconds(&self, o: &Value) -> Option<i64> {
        let unscheduled = text(&o["spec"], "nodeName").is_empty();
        if unscheduled || matches!(text(&o["status"], "phase"), "Succeeded" | "Failed") {
            return Some(0);
        }
        Some(o["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30))
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let (ready, status, restarts) = summary(o, now);
        let dash = |s: &str| if s.is_empty() { "<none>".to_owned() } else { s.to_owned() };
        let gates: Vec<&Value> = list(&o["spec"], "readinessGates").collect();
        let passed = gates.iter().filter(|g| condition(o, text(g, "conditionType")) == "True").count();
        let gate_cell = if gates.is_empty() { "<none>".to_owned() } else { format!("{passed}/{}", gates.len()) };
        vec![
            name(o),
            ready.into(),
            status.into(),
            restarts.into(),
            age(o, now),
            dash(text(&o["status"], "podIP")).into(),
            dash(text(&o["spec"], "nodeName")).into(),
            dash(text(&o["status"], "nominatedNodeName")).into(),
            gate_cell.into(),
        ]
    }
}

fn condition<'a>(o: &'a Value, kind: &str) -> &'a str {
    list(&o["status"], "conditions").find(|c| c["type"] == kind).map(|c| text(c, "status")).unwrap_or_default()
}

/// `2/3`, `CrashLoopBackOff`, `4 (2m ago)`: upstream's printer.
fn summary(o: &Value, now: Timestamp) -> (String, String, String) {
    let (spec, status) = (&o["spec"], &o["status"]);
    let mut reason = match text(status, "reason") {
        "" => text(status, "phase").to_owned(),
        r => r.to_owned(),
    };
    if list(status, "conditions").any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let sidecar =
        |n: &str| list(spec, "initContainers").any(|c| text(c, "name") == n && text(c, "restartPolicy") == "Always");
    let (mut restarts, mut last, mut ready) = (0, None::<String>, 0);
    let mut total = list(spec, "containers").count();
    total += list(spec, "initContainers").filter(|c| text(c, "restartPolicy") == "Always").count();
    let mut initializing = false;
    let inits: Vec<&Value> = list(status, "initContainerStatuses").collect();
    for (i, c) in inits.iter().enumerate() {
        restarts += c["restartCount"].as_i64().unwrap_or(0);
        last = last.max(c.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str).map(str::to_owned));
        let ended = &c["state"]["terminated"];
        if ended["exitCode"] == 0 && !ended.is_null() {
            continue;
        }
        if sidecar(text(c, "name")) && c["started"] == true {
            ready += usize::from(c["ready"] == true);
            continue;
        }
        initializing = true;
        reason = if !ended.is_null() {
            match (text(ended, "reason"), ended["signal"].as_i64().unwrap_or(0)) {
                ("", 0) => format!("Init:ExitCode:{}", ended["exitCode"]),
                ("", s) => format!("Init:Signal:{s}"),
                (r, _) => format!("Init:{r}"),
            }
        } else {
            match text(&c["state"]["waiting"], "reason") {
                "" | "PodInitializing" => format!("Init:{i}/{}", list(spec, "initContainers").count()),
                r => format!("Init:{r}"),
            }
        };
        break;
    }
    if !initializing || condition(o, "Initialized") == "True" {
        let mut running = false;
        if !inits.is_empty() && !inits.iter().any(|c| sidecar(text(c, "name"))) {
            restarts = 0;
            last = None;
        }
        for c in list(status, "containerStatuses").collect::<Vec<_>>().into_iter().rev() {
            restarts += c["restartCount"].as_i64().unwrap_or(0);
            last = last.max(c.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str).map(str::to_owned));
            let (waiting, ended) = (&c["state"]["waiting"], &c["state"]["terminated"]);
            if !text(waiting, "reason").is_empty() {
                reason = text(waiting, "reason").to_owned();
            } else if !text(ended, "reason").is_empty() {
                reason = text(ended, "reason").to_owned();
            } else if !ended.is_null() {
                reason = match ended["signal"].as_i64().unwrap_or(0) {
                    0 => format!("ExitCode:{}", ended["exitCode"]),
                    s => format!("Signal:{s}"),
                };
            } else if c["ready"] == true && !c["state"]["running"].is_null() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if condition(o, "Ready") == "True" { "Running" } else { "NotReady" }.into();
        }
    }
    if o["metadata"].get("deletionTimestamp").is_some() {
        if text(status, "reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(text(status, "phase"), "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    let restarts = match last {
        Some(t) if restarts > 0 => format!("{restarts} ({} ago)", crate::time::age(now, &t)),
        _ => restarts.to_string(),
    };
    (format!("{ready}/{total}"), reason, restarts)
}

pub(super) struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, o: &mut Value) {
        if o["template"].get("spec").is_some() {
            pod_spec::default(&mut o["template"]["spec"]);
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        pod_spec::validate_template(&o["template"], "template", &mut errors);
        errors
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        pod_warnings::of(&o["template"], "template.")
    }
    fn cells(&self, o: &Value, _: Timestamp) -> Vec<Value> {
        let [containers, images] = super::cells::containers(&o["template"]["spec"]);
        vec![name(o), containers, images, super::cells::labels(&o["template"]["metadata"]["labels"])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
    }

    #[test]
    fn a_minimal_pod_gets_upstreams_defaults_and_is_valid() {
        let mut p = pod();
        Pod.prepare_create(&mut p);
        Pod.default(&mut p);
        assert_eq!(p["spec"]["restartPolicy"], "Always");
        assert_eq!(p["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(Pod.validate(&p), ErrorList::new());
        let again = {
            let mut q = p.clone();
            Pod.default(&mut q);
            q
        };
        assert_eq!(again, p, "defaults are idempotent");
    }

    #[test]
    fn the_image_may_change_and_the_command_may_not() {
        let mut old = pod();
        Pod.default(&mut old);
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "i:2".into();
        assert!(Pod.validate_update(&new, &old).is_empty());
        new["spec"]["containers"][0]["command"] = json!(["x"]);
        assert_eq!(Pod.validate_update(&new, &old).len(), 1);
    }

    #[test]
    fn the_status_column_says_what_the_containers_do() {
        let mut p = pod();
        p["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 2, "ready": false,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}}]});
        let now = "2026-01-01T00:02:00Z".parse().unwrap();
        assert_eq!(summary(&p, now), ("0/1".into(), "CrashLoopBackOff".into(), "2 (2m ago)".into()));
    }
}

#[cfg(test)]
#[path = "pod/tests.rs"]
mod rules_tests;
