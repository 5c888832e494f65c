//! Claims of storage and the volumes that they are bound to
//! (upstream: `ValidatePersistentVolumeClaim`, `ValidatePersistentVolume`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{child, list, placement, rows, rules, set, text, volume};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::quantity::Quantity;
use crate::resource::Strategy;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The sources of a persistent volume in upstream's order.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn access_modes(spec: &Value, path: &str, missing: &str, errors: &mut ErrorList) {
    let field = format!("{path}.accessModes");
    let modes: Vec<&str> = list(spec, "accessModes").filter_map(Value::as_str).collect();
    if modes.is_empty() {
        errors.push(FieldError::required(field.clone(), missing));
    }
    for m in modes.iter().filter(|m| !ACCESS_MODES.contains(m)) {
        errors.push(FieldError::not_supported(field.clone(), *m, &ACCESS_MODES));
    }
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(|m| *m != "ReadWriteOncePod") {
        errors.push(FieldError::forbidden(field, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// An amount of storage, which must be some.
fn storage(q: &Value, field: &str, errors: &mut ErrorList) {
    if rules::amount(q, field, errors).is_some_and(|q| q.sign() <= 0) {
        errors.push(FieldError::invalid(field, q.clone(), "must be greater than zero"));
    }
}

/// All that is wrong with the spec of a claim, or of the template of one.
pub(super) fn validate_spec(spec: &Value, path: &str, errors: &mut ErrorList) {
    access_modes(spec, path, "at least 1 access mode is required", errors);
    rules::label_selector(&spec["selector"], &format!("{path}.selector"), errors);
    let field = format!("{path}.resources[storage]");
    match &spec["resources"]["requests"]["storage"] {
        Value::Null => errors.push(FieldError::required(field, "")),
        q => storage(q, &field, errors),
    }
    rules::named_if_given(spec, "storageClassName", path, names::dns1123_subdomain_errors, errors);
    rules::one_of_if_given(spec, "volumeMode", path, &VOLUME_MODES, errors);
    for source in ["dataSource", "dataSourceRef"].into_iter().filter(|s| spec[*s].is_object()) {
        let (v, field) = (&spec[source], format!("{path}.{source}"));
        rules::required(v, &["name", "kind"], &field, errors);
        if text(v, "apiGroup").is_empty() && text(v, "kind") != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(field.clone(), text(v, "kind"), detail));
        }
        rules::named_if_given(v, "apiGroup", &field, names::dns1123_subdomain_errors, errors);
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if source.is_object() && reference.is_object() {
        if !text(reference, "namespace").is_empty() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(FieldError::invalid(path, format!("{path}.dataSource"), detail));
        } else if source != reference {
            errors.push(FieldError::invalid(path, format!("{path}.dataSource"), "must match dataSourceRef"));
        }
    }
    rules::named_if_given(spec, "volumeAttributesClassName", path, names::dns1123_subdomain_errors, errors);
}

pub(super) struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn prepare_create(&self, o: &mut Value) {
        o["status"] = json!({"phase": "Pending"});
    }
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        set(spec, "volumeMode", "Filesystem");
        // The two ways to name what a volume is filled from are kept in step.
        let source = spec.get("dataSource").cloned();
        match (source, spec.get("dataSourceRef").cloned()) {
            (Some(s), None) => drop(spec.insert("dataSourceRef".into(), s)),
            (None, Some(r)) if text(&r, "namespace").is_empty() => drop(spec.insert("dataSource".into(), r)),
            _ => {}
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_spec(&o["spec"], "spec", &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (mut is, was) = (new["spec"].clone(), &old["spec"]);
        let mut keep = |field: &str| match was.get(field) {
            Some(v) => is[field] = v.clone(),
            None => drop(is.as_object_mut().map(|m| m.remove(field))),
        };
        if text(was, "volumeName").is_empty() {
            keep("volumeName");
        }
        // A class may come late, when there was none at first.
        let old_class = &old["metadata"]["annotations"][OLD_CLASS];
        if was["storageClassName"].is_null() && (old_class.is_null() || *old_class == new["spec"]["storageClassName"]) {
            keep("storageClassName");
        }
        let bound = new["status"]["phase"] == "Bound";
        if bound {
            keep("volumeAttributesClassName");
            if is["resources"]["requests"].is_object() {
                is["resources"]["requests"]["storage"] = was["resources"]["requests"]["storage"].clone();
            }
        }
        if is != *was {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.push(FieldError::forbidden("spec", detail));
        }
        let size = |o: &Value| Quantity::from_value(&o["spec"]["resources"]["requests"]["storage"]).ok();
        let capacity = Quantity::from_value(&old["status"]["capacity"]["storage"]).ok();
        if size(new) < size(old) && capacity.is_none_or(|c| size(new).is_some_and(|s| s <= c)) && capacity.is_some() {
            let field = "spec.resources.requests.storage";
            errors.push(FieldError::forbidden(field, "field can not be less than status.capacity"));
        }
        if new["spec"]["volumeMode"] != was["volumeMode"] {
            let given = new["spec"]["volumeMode"].clone();
            errors.push(FieldError::invalid("volumeMode", given, rules::IMMUTABLE));
        }
        if new["metadata"]["annotations"][OLD_CLASS] != *old_class {
            let field = format!("metadata.annotations[{OLD_CLASS}]");
            let given = new["metadata"]["annotations"][OLD_CLASS].clone();
            errors.push(FieldError::invalid(field, given, rules::IMMUTABLE));
        }
        let class = |o: &Value| o["spec"]["volumeAttributesClassName"].as_str().map(str::to_owned);
        if class(old).is_some() && class(new).is_none() {
            let detail = "update from non-nil value to nil is forbidden";
            errors.push(FieldError::forbidden("spec.volumeAttributesClassName", detail));
        }
        errors
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::persistent_volume_claim(o, now)
    }
}

pub(super) struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn prepare_create(&self, o: &mut Value) {
        let since = o["metadata"]["creationTimestamp"].clone();
        o["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": since});
    }
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        // A phase and the time since when it holds go together.
        let same = new["status"]["phase"] == old["status"]["phase"];
        let given = new["status"]["lastPhaseTransitionTime"] != old["status"]["lastPhaseTransitionTime"];
        if !same && !given {
            new["status"]["lastPhaseTransitionTime"] = crate::time::rfc3339(Timestamp::now()).into();
        }
    }
    fn default(&self, o: &mut Value) {
        if let Some(spec) = child(o, "spec") {
            set(spec, "persistentVolumeReclaimPolicy", "Retain");
            set(spec, "volumeMode", "Filesystem");
        }
        volume::default_source(&mut o["spec"]);
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        volume_spec(&o["spec"], "spec", &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let sources = |o: &Value| -> Vec<Value> {
            let mut all: Vec<Value> = SOURCES.iter().map(|s| o["spec"][*s].clone()).collect();
            // The secret for growing may come late.
            let csi = &mut all[SOURCES.len() - 1];
            if old["spec"]["csi"]["controllerExpandSecretRef"].is_null()
                && let Some(m) = csi.as_object_mut()
            {
                m.remove("controllerExpandSecretRef");
            }
            all
        };
        if sources(new) != sources(old) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
        }
        let (is, was) = (&new["spec"], &old["spec"]);
        if is["volumeMode"] != was["volumeMode"] {
            errors.push(FieldError::invalid("volumeMode", is["volumeMode"].clone(), rules::IMMUTABLE));
        }
        if was["nodeAffinity"].is_object() && is["nodeAffinity"] != was["nodeAffinity"] {
            errors.push(FieldError::invalid("nodeAffinity", is["nodeAffinity"].clone(), rules::IMMUTABLE));
        }
        errors
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::persistent_volume(o, now)
    }
}

/// All that is wrong with the spec of a volume.
pub(super) fn volume_spec(spec: &Value, path: &str, errors: &mut ErrorList) {
    access_modes(spec, path, "", errors);
    let (capacity, field) = (&spec["capacity"], format!("{path}.capacity"));
    let named: Vec<(&String, &Value)> = capacity.as_object().into_iter().flatten().collect();
    if named.is_empty() {
        errors.push(FieldError::required(field.clone(), ""));
    }
    if capacity.get("storage").is_none() || named.len() > 1 {
        errors.push(FieldError::not_supported(field.clone(), capacity.clone(), &["storage"]));
    }
    for (name, q) in named {
        storage(q, &format!("{field}[{name}]"), errors);
    }
    rules::one_of_if_given(spec, "persistentVolumeReclaimPolicy", path, &["Delete", "Recycle", "Retain"], errors);
    let affinity = &spec["nodeAffinity"];
    if affinity.is_object() {
        let field = format!("{path}.nodeAffinity.required");
        match &affinity["required"] {
            Value::Null => errors.push(FieldError::required(field, "must specify required node constraints")),
            required => placement::node_selector(required, &field, errors),
        }
    }
    sources(spec, path, errors);
    let root = text(&spec["hostPath"], "path") == "/";
    if root && text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        let detail = "may not be 'Recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(format!("{path}.persistentVolumeReclaimPolicy"), detail));
    }
    rules::named_if_given(spec, "storageClassName", path, names::dns1123_subdomain_errors, errors);
    rules::one_of_if_given(spec, "volumeMode", path, &VOLUME_MODES, errors);
    rules::named_if_given(spec, "volumeAttributesClassName", path, names::dns1123_subdomain_errors, errors);
}

fn sources(spec: &Value, path: &str, errors: &mut ErrorList) {
    let mut found = false;
    for name in SOURCES.into_iter().filter(|s| spec[*s].is_object()) {
        let (v, field) = (&spec[name], format!("{path}.{name}"));
        match name {
            _ if found => errors.push(FieldError::forbidden(field, "may not specify more than 1 volume type")),
            "local" => {
                rules::required(v, &["path"], &field, errors);
                rules::no_backsteps(text(v, "path"), &format!("{field}.path"), errors);
                if spec["nodeAffinity"].is_null() {
                    let detail = "Local volume requires node affinity";
                    errors.push(FieldError::required("metadata.annotations", detail));
                }
            }
            "csi" => {
                rules::csi_driver(v, "driver", &field, errors);
                rules::required(v, &["volumeHandle"], &field, errors);
            }
            other => {
                if let Some(check) = volume::source_check(other) {
                    check(v, &field, errors);
                }
            }
        }
        found = true;
    }
    if !found {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn claim() -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})
    }

    #[test]
    fn claims_say_how_much_and_for_whom() {
        let mut c = json!({"spec": {}});
        PersistentVolumeClaim.default(&mut c);
        PersistentVolumeClaim.prepare_create(&mut c);
        assert_eq!(c, json!({"spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}));
        assert_eq!(
            told(PersistentVolumeClaim.validate(&c)),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
        assert!(PersistentVolumeClaim.validate(&claim()).is_empty());
    }

    #[test]
    fn a_bound_claim_grows_and_stays_else() {
        let change = |path: &str, v: Value| {
            let mut new = claim();
            *new.pointer_mut(path).unwrap() = v;
            told(PersistentVolumeClaim.validate_update(&new, &claim()))
        };
        assert!(change("/spec/resources/requests/storage", "2Gi".into()).is_empty());
        assert_eq!(
            change("/spec/resources/requests/storage", "512Mi".into()),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        assert_eq!(
            change("/spec/accessModes", json!(["ReadOnlyMany"])),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
            ]
        );
    }

    #[test]
    fn a_volume_has_one_source_and_keeps_it() {
        let mut v = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}});
        PersistentVolume.default(&mut v);
        assert_eq!(v["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(v["spec"]["hostPath"]["type"], "");
        assert!(PersistentVolume.validate(&v).is_empty());
        let mut other = v.clone();
        other["spec"]["hostPath"]["path"] = "/b".into();
        assert_eq!(
            told(PersistentVolume.validate_update(&other, &v)),
            ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
        );
        other["spec"]["local"] = json!({"path": "/c"});
        assert_eq!(
            told(PersistentVolume.validate(&other)),
            ["spec.local: Forbidden: may not specify more than 1 volume type"]
        );
        assert_eq!(
            told(PersistentVolume.validate(&json!({"spec": {}}))),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                "spec: Required value: must specify a volume type",
            ]
        );
    }
}
