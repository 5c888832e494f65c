//! What an update of a pod and of its status may change (upstream: `ValidatePodUpdate`,
//! `ValidatePodStatusUpdate`).

use serde_json::{Map, Value};

use super::{list, list_mut, rules, text};
use crate::field::{ErrorList, FieldError};
use crate::names;

const MIRROR: &str = "kubernetes.io/config.mirror";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const REST: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// All that is wrong with what an update changes.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut ErrorList) {
    annotations(new, old, errors);
    let (is, was) = (&new["spec"], &old["spec"]);
    for field in ["containers", "initContainers"] {
        if list(is, field).count() != list(was, field).count() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
            return;
        }
    }
    if !deadline(is, was, errors) {
        return;
    }
    tolerations(is, was, errors);
    let more = list(is, "schedulingGates").find(|g| !list(was, "schedulingGates").any(|o| o == *g));
    if let Some(gate) = more {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
        errors.push(FieldError::forbidden("spec.schedulingGates", detail));
    }
    if is == was {
        return;
    }
    let mut munged = is.clone();
    for field in ["containers", "initContainers"] {
        let images: Vec<Value> = list(was, field).map(|c| c["image"].clone()).collect();
        for (c, image) in list_mut(&mut munged, field).zip(images) {
            c["image"] = image;
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut munged, was, field);
    }
    let negative = was["terminationGracePeriodSeconds"].as_i64().is_some_and(|n| n < 0);
    if negative && is["terminationGracePeriodSeconds"] == 1 {
        put_back(&mut munged, was, "terminationGracePeriodSeconds");
    }
    if list(was, "schedulingGates").next().is_some() {
        gated(&mut munged, was, errors);
    }
    if munged != *was {
        errors.push(FieldError::forbidden("spec", REST));
    }
}

fn put_back(spec: &mut Value, was: &Value, field: &str) {
    match was.get(field) {
        Some(v) => spec[field] = v.clone(),
        None => drop(spec.as_object_mut().map(|m| m.remove(field))),
    }
}

fn annotations(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (is, was) = (&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
    let mut changed = |from: &Value, to: &Value, word: &str| {
        let differ = from.as_object().into_iter().flatten().filter(|(k, v)| to.get(*k) != Some(*v));
        for k in differ.map(|(k, _)| k) {
            let added = word == "add" && to.get(k).is_some();
            let detail = match k.as_str() {
                _ if added => continue,
                MIRROR => format!("may not {word} mirror pod annotation"),
                k if k.starts_with(APP_ARMOR) => format!("may not {word} AppArmor annotations"),
                _ => continue,
            };
            errors.push(FieldError::forbidden(format!("metadata.annotations[{k}]"), detail));
        }
    };
    changed(was, is, "remove or update");
    changed(is, was, "add");
}

/// Whether anything else is looked at.
fn deadline(is: &Value, was: &Value, errors: &mut ErrorList) -> bool {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    match (is["activeDeadlineSeconds"].as_i64(), was["activeDeadlineSeconds"].as_i64()) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.push(FieldError::invalid(FIELD, n, "must be between 0 and 2147483647, inclusive"));
            false
        }
        (Some(n), Some(before)) if before < n => {
            errors.push(FieldError::invalid(FIELD, n, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(FIELD, Value::Null, detail));
            true
        }
        _ => true,
    }
}

fn tolerations(is: &Value, was: &Value, errors: &mut ErrorList) {
    let without_seconds = |t: &Value| {
        let mut t = t.clone();
        t.as_object_mut().map(|m| m.remove("tolerationSeconds"));
        t
    };
    let now: Vec<Value> = list(is, "tolerations").map(without_seconds).collect();
    if list(was, "tolerations").any(|t| !now.contains(&without_seconds(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

/// A pod that waits for its gates may still be told more narrowly where to run.
fn gated(munged: &mut Value, was: &Value, errors: &mut ErrorList) {
    let empty = Map::new();
    let (new, old) = (munged["nodeSelector"].clone(), was["nodeSelector"].as_object().unwrap_or(&empty));
    if old.iter().any(|(k, v)| new.get(k) != Some(v)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", new, detail));
    }
    put_back(munged, was, "nodeSelector");
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |s: &Value| -> Vec<Value> {
        list(&s["affinity"]["nodeAffinity"][REQUIRED], "nodeSelectorTerms").cloned().collect()
    };
    let (new, old) = (terms(munged), terms(was));
    let path = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if !old.is_empty() && new.len() != old.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, Value::from(new), detail));
    } else if !old.is_empty() {
        let keeps = |n: &Value, o: &Value, f: &str| list(o, f).all(|e| list(n, f).any(|m| m == e));
        for (i, (n, o)) in new.iter().zip(&old).enumerate() {
            if !keeps(n, o, "matchExpressions") || !keeps(n, o, "matchFields") {
                let detail = "only additions are allowed (no mutations or deletions)";
                errors.push(FieldError::invalid(format!("{path}[{i}]"), n.clone(), detail));
            }
        }
    }
    let others = |s: &Value| {
        let mut affinity = s["affinity"].clone();
        affinity.as_object_mut().map(|a| a.remove("nodeAffinity"));
        if affinity.as_object().is_some_and(Map::is_empty) { Value::Null } else { affinity }
    };
    if others(munged) == others(was) {
        put_back(munged, was, "affinity");
    }
}

/// All that is wrong with a status.
pub(super) fn validate_status(new: &Value, old: &Value) -> ErrorList {
    const SYSTEM: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
    let mut errors = ErrorList::new();
    let (is, was) = (&new["status"], &old["status"]);
    for (i, c) in list(is, "conditions").map(|c| text(c, "type")).enumerate().filter(|(_, t)| !SYSTEM.contains(t)) {
        rules::label_name(c, &format!("metadata.conditions[{i}].Type"), &mut errors);
    }
    let node = text(is, "nominatedNodeName");
    if !node.is_empty() && node != text(was, "nominatedNodeName") {
        let wrong = names::dns1123_subdomain_errors(node);
        rules::all_wrong("status.nominatedNodeName", node, wrong, &mut errors);
    }
    let policy = text(&old["spec"], "restartPolicy");
    let kinds = [
        ("containerStatuses", "containers", policy),
        ("initContainerStatuses", "initContainers", policy),
        ("ephemeralContainerStatuses", "ephemeralContainers", "Never"),
    ];
    for (field, containers, policy) in kinds.into_iter().filter(|(_, _, p)| *p != "Always") {
        for (i, before) in list(was, field).enumerate() {
            let ended = &before["state"]["terminated"];
            let own = list(&old["spec"], containers).find(|c| c["name"] == before["name"]);
            // A sidecar, and who has rules of its own, starts again whatever the pod's policy.
            let restarts = own.is_some_and(|c| !c["restartPolicy"].is_null());
            if !ended.is_object() || restarts || (policy == "OnFailure" && ended["exitCode"] != 0) {
                continue;
            }
            let revived = |s: &Value| s["name"] == before["name"] && s["state"]["terminated"].is_null();
            if list(is, field).any(revived) {
                let detail = "may not be transitioned to non-terminated state";
                errors.push(FieldError::forbidden(format!("status.{field}[{i}].state"), detail));
            }
        }
    }
    addresses(is, "podIPs", "pod IPs", &mut errors);
    addresses(is, "hostIPs", "host IPs", &mut errors);
    errors
}

fn addresses(status: &Value, field: &str, what: &str, errors: &mut ErrorList) {
    let all: Vec<&str> = list(status, field).map(|a| text(a, "ip")).collect();
    for (i, ip) in all.iter().enumerate() {
        if ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("status.{field}[{i}]"), *ip, detail));
        }
        if all[..i].contains(ip) {
            errors.push(FieldError::duplicate(format!("status.{field}[{i}]"), *ip));
        }
    }
    if all.len() > 2 {
        let detail = format!("may specify no more than one IP for each IP family, i.e. at most two {what}");
        errors.push(FieldError::invalid(format!("status.{field}"), status[field].clone(), detail));
    }
}
