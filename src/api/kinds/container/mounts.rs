//! Where a container sees volumes: as folders and as devices.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::field::{ErrorList, FieldError};
use crate::kinds::{list, rules, text};

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIVE: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// The volumes of a pod that are in order, by name.
pub(in crate::kinds) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

pub(super) fn validate(c: &Value, volumes: &Volumes<'_>, path: &str, errors: &mut ErrorList) {
    mounts(c, volumes, &format!("{path}.volumeMounts"), errors);
    devices(c, volumes, &format!("{path}.volumeDevices"), errors);
}

fn mounts(c: &Value, volumes: &Volumes<'_>, list_path: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, m) in list(c, "volumeMounts").enumerate() {
        let path = format!("{list_path}[{i}]");
        let (name, at) = (text(m, "name"), text(m, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        if !volumes.contains_key(name) {
            errors.push(FieldError::not_found(format!("{path}.name"), name));
        }
        if at.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        }
        if !seen.insert(at) {
            errors.push(FieldError::invalid(format!("{path}.mountPath"), at, "must be unique"));
        }
        if list(c, "volumeDevices").any(|d| text(d, "name") == name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, "must not already exist in volumeDevices"));
        }
        if list(c, "volumeDevices").any(|d| text(d, "devicePath") == at) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(format!("{path}.mountPath"), at, detail));
        }
        // Upstream names these two without an index.
        let (sub, expression) = (text(m, "subPath"), text(m, "subPathExpr"));
        if !sub.is_empty() {
            rules::descending_path(sub, &format!("{list_path}.subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(format!("{path}.subPathExpr"), expression, detail));
            }
            rules::descending_path(expression, &format!("{list_path}.subPathExpr"), errors);
        }
        propagation(m, c, list_path, errors);
        read_only(m, &path, errors);
    }
}

fn propagation(m: &Value, c: &Value, path: &str, errors: &mut ErrorList) {
    rules::one_of_if_given(m, "mountPropagation", path, &PROPAGATIONS, errors);
    if text(m, "mountPropagation") == "Bidirectional" && c["securityContext"]["privileged"] != true {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(format!("{path}.mountPropagation"), detail));
    }
}

fn read_only(m: &Value, path: &str, errors: &mut ErrorList) {
    let field = format!("{path}.recursiveReadOnly");
    match text(m, "recursiveReadOnly") {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if m["readOnly"] != true {
                errors.push(FieldError::forbidden(field.clone(), "may only be specified when readOnly is true"));
            }
            if !matches!(text(m, "mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(field, detail));
            }
        }
        other => errors.push(FieldError::not_supported(field, other, &RECURSIVE)),
    }
}

fn devices(c: &Value, volumes: &Volumes<'_>, list_path: &str, errors: &mut ErrorList) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, d) in list(c, "volumeDevices").enumerate() {
        let path = format!("{list_path}[{i}]");
        let (name, at) = (text(d, "name"), text(d, "devicePath"));
        let wrong =
            |field: &str, value: &str, detail: &str| FieldError::invalid(format!("{path}.{field}"), value, detail);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        if !name.is_empty() && !names.insert(name) {
            errors.push(wrong("name", name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(FieldError::not_found(format!("{path}.name"), name)),
            Some(v) if v["persistentVolumeClaim"].is_null() && v["ephemeral"].is_null() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(wrong("name", name, detail));
            }
            Some(_) => {}
        }
        if at.is_empty() {
            errors.push(FieldError::required(format!("{path}.devicePath"), ""));
        }
        if paths.contains(at) {
            errors.push(wrong("devicePath", at, "must be unique"));
        }
        if at.split('/').any(|p| p == "..") {
            errors.push(wrong("devicePath", at, "can not contain backsteps ('..')"));
        } else {
            paths.insert(at);
        }
        if list(c, "volumeMounts").any(|m| text(m, "name") == name) {
            errors.push(wrong("name", name, "must not already exist in volumeMounts"));
        }
        if list(c, "volumeMounts").any(|m| text(m, "mountPath") == at) {
            errors.push(wrong("devicePath", at, "must not already exist as a path in volumeMounts"));
        }
    }
}
