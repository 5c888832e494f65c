//! Validation of `metadata`, with upstream's messages (`apimachinery/pkg/api/validation/objectmeta.go`
//! and, for built-in kinds, the finalizer check of `pkg/apis/core/validation`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::schema::Schemas;

/// The most bytes that all annotations of an object may have together.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

const IMMUTABLE: &str = "field is immutable";
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// All that is wrong with the metadata of a new object. `name_error` checks names and `generateName`
/// prefixes as the kind wants them.
pub fn validate_object_meta(
    object: &Value,
    namespaced: bool,
    name_error: impl Fn(&str) -> Option<String>,
) -> ErrorList {
    let meta = &object["metadata"];
    let mut errors = ErrorList::new();
    let text = |name: &str| meta[name].as_str().unwrap_or_default();
    let prefix = text("generateName");
    if !prefix.is_empty()
        && let Some(wrong) = name_error(&names::mask_trailing_dash(prefix))
    {
        errors.push(FieldError::invalid("metadata.generateName", prefix, wrong));
    }
    let name = text("name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(wrong) = name_error(name).or_else(|| names::path_segment_name(name)) {
        errors.push(FieldError::invalid("metadata.name", name, wrong));
    }
    let namespace = text("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required("metadata.namespace", "")),
        (true, false) => {
            for wrong in names::dns1123_label_errors(namespace) {
                errors.push(FieldError::invalid("metadata.namespace", namespace, wrong));
            }
        }
        (false, false) => errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type")),
        (false, true) => {}
    }
    if meta["generation"].as_i64().is_some_and(|g| g < 0) {
        errors.push(FieldError::invalid(
            "metadata.generation",
            meta["generation"].clone(),
            "must be greater than or equal to 0",
        ));
    }
    errors.extend(validate_labels(&meta["labels"], "metadata.labels"));
    errors.extend(validate_annotations(&meta["annotations"], "metadata.annotations"));
    errors.extend(owner_references(&meta["ownerReferences"]));
    errors.extend(finalizers(&meta["finalizers"]));
    if is_builtin(object) {
        errors.extend(standard_finalizers(&meta["finalizers"]));
    }
    errors
}

/// All that is wrong with a change of metadata.
pub fn validate_object_meta_update(new: &Value, old: &Value) -> ErrorList {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let mut errors = ErrorList::new();
    if !old["deletionTimestamp"].is_null() {
        errors.extend(no_new_finalizers(&new["finalizers"], &old["finalizers"]));
    }
    if new["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::invalid("metadata.resourceVersion", "", "must be specified for an update"));
    }
    if new["generation"].as_i64().unwrap_or(0) < old["generation"].as_i64().unwrap_or(0) {
        errors.push(FieldError::invalid(
            "metadata.generation",
            new["generation"].as_i64().unwrap_or(0),
            "must not be decremented",
        ));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if blank(&new[field]) != blank(&old[field]) {
            errors.push(FieldError::invalid(format!("metadata.{field}"), new[field].clone(), IMMUTABLE));
        }
    }
    errors.extend(validate_labels(&new["labels"], "metadata.labels"));
    errors.extend(validate_annotations(&new["annotations"], "metadata.annotations"));
    errors.extend(owner_references(&new["ownerReferences"]));
    errors
}

/// Absent, null and empty are the same to Go.
fn blank(value: &Value) -> Option<&Value> {
    match value {
        Value::Null => None,
        Value::String(s) if s.is_empty() => None,
        other => Some(other),
    }
}

fn is_builtin(object: &Value) -> bool {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // Upstream checks definitions and API services as it does custom resources: their own
    // finalizer has no path.
    if matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io") {
        return false;
    }
    Schemas::builtin().type_of(group, version, object["kind"].as_str().unwrap_or_default()).is_some()
}

fn entries(map: &Value) -> impl Iterator<Item = (&String, &str)> {
    map.as_object().into_iter().flatten().map(|(k, v)| (k, v.as_str().unwrap_or_default()))
}

/// All that is wrong with labels, also those of pod templates.
pub fn validate_labels(labels: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in entries(labels) {
        for wrong in names::qualified_name_errors(key) {
            errors.push(FieldError::invalid(path, key.as_str(), wrong));
        }
        for wrong in names::label_value_errors(value) {
            errors.push(FieldError::invalid(path, value, wrong));
        }
    }
    errors
}

/// All that is wrong with annotations, also those of pod templates.
pub fn validate_annotations(annotations: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut bytes = 0;
    for (key, value) in entries(annotations) {
        // Upper case is allowed in the prefix of an annotation's key.
        for wrong in names::qualified_name_errors(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key.as_str(), wrong));
        }
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
    errors
}

fn owner_references(owners: &Value) -> ErrorList {
    const PATH: &str = "metadata.ownerReferences";
    let mut errors = ErrorList::new();
    let mut controller: Option<&str> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |name: &str| owner[name].as_str().unwrap_or_default();
        let api_version = text("apiVersion");
        let version = api_version.split_once('/').map_or(api_version, |(_, v)| v);
        if version.is_empty() {
            errors.push(FieldError::invalid(format!("{PATH}.apiVersion"), api_version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                let message = format!("{field} must not be empty");
                errors.push(FieldError::invalid(format!("{PATH}.{field}"), "", message));
            }
        }
        if text("kind") == "Event" && api_version == "v1" {
            errors.push(FieldError::invalid(PATH, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner["controller"] == true {
            match controller {
                None => controller = Some(text("name")),
                Some(first) => errors.push(FieldError::invalid(
                    PATH,
                    owners.clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                        text("name")
                    ),
                )),
            }
        }
    }
    errors
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn finalizers(list: &Value) -> ErrorList {
    const PATH: &str = "metadata.finalizers";
    let mut errors = ErrorList::new();
    let all = strings(list);
    for finalizer in &all {
        for wrong in names::qualified_name_errors(finalizer) {
            errors.push(FieldError::invalid(PATH, *finalizer, wrong));
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        errors.push(FieldError::invalid(
            PATH,
            list.clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    errors
}

/// Finalizers of built-in kinds are standard ones or have a domain.
fn standard_finalizers(list: &Value) -> ErrorList {
    let bad = strings(list).into_iter().enumerate();
    bad.filter(|(_, f)| !f.contains('/') && !STANDARD_FINALIZERS.contains(f))
        .map(|(i, f)| {
            FieldError::invalid(
                format!("metadata.finalizers[{i}]"),
                f,
                "name is neither a standard finalizer name nor is it fully qualified",
            )
        })
        .collect()
}

fn no_new_finalizers(new: &Value, old: &Value) -> ErrorList {
    let old: BTreeSet<&str> = strings(old).into_iter().collect();
    let extra: BTreeSet<&str> = strings(new).into_iter().filter(|f| !old.contains(f)).collect();
    if extra.is_empty() {
        return ErrorList::new();
    }
    let list: Vec<String> = extra.iter().map(|f| format!("{f:?}")).collect();
    vec![FieldError::forbidden(
        "metadata.finalizers",
        format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(object: Value, namespaced: bool) -> Vec<String> {
        validate_object_meta(&object, namespaced, names::dns1123_subdomain).iter().map(ToString::to_string).collect()
    }

    fn pod(metadata: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
    }

    #[test]
    fn a_good_object_has_no_errors() {
        let meta = json!({"name": "a", "namespace": "b", "labels": {"a/b": "c"}, "annotations": {"X.y/Z": "anything at all"},
            "finalizers": ["example.org/x", "orphan"], "generateName": "a-"});
        assert_eq!(told(pod(meta), true), Vec::<String>::new());
    }

    #[test]
    fn names_and_namespaces() {
        assert_eq!(
            told(pod(json!({})), true),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert_eq!(
            told(pod(json!({"name": "a", "namespace": "b"})), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        assert!(
            told(pod(json!({"name": "A", "namespace": "b"})), true)[0]
                .starts_with("metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must")
        );
    }

    #[test]
    fn finalizers_and_owners() {
        let owner =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        let errors = told(
            pod(
                json!({"name": "a", "namespace": "b", "finalizers": ["x"], "ownerReferences": [owner("o"), owner("p"), {}]}),
            ),
            true,
        );
        assert!(
            errors[0].contains(
                "Only one reference can have Controller set to true. Found \"true\" in references for o and p"
            )
        );
        assert_eq!(errors[1], "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty");
        assert_eq!(
            errors.last().unwrap(),
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
        );
        let custom =
            json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "a", "finalizers": ["x"]}});
        assert!(told(custom, false).is_empty());
    }

    #[test]
    fn annotations_have_a_limit() {
        let big = "x".repeat(ANNOTATIONS_BYTES_MAX);
        assert_eq!(
            told(pod(json!({"name": "a", "namespace": "b", "annotations": {"k": big}})), true),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }

    #[test]
    fn updates_keep_identity() {
        let old =
            pod(json!({"name": "a", "uid": "1", "resourceVersion": "5", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        let new =
            pod(json!({"name": "a", "uid": "2", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}));
        let errors: Vec<String> = validate_object_meta_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }
}
