//! storage.k8s.io: classes, drivers, attachments (upstream: `pkg/apis/storage`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{child, claim, list, rows, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

const PARAMETERS: usize = 512;
const PARAMETER_BYTES: usize = 256 << 10;
const METADATA_BYTES: usize = 256 << 10;
const MESSAGE_BYTES: usize = 1024;
const NODE_ID_BYTES: usize = 256;
const FS_GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];

fn parameters(v: &Value, field: &str, errors: &mut ErrorList) {
    let all: Vec<(&String, &Value)> = v.as_object().into_iter().flatten().collect();
    if all.len() > PARAMETERS {
        errors.push(FieldError::too_long(field, PARAMETERS));
        return;
    }
    if all.iter().any(|(k, _)| k.is_empty()) {
        errors.push(FieldError::invalid(field, "", "field can not be empty."));
    }
    let bytes: usize = all.iter().map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len()).sum();
    if bytes > PARAMETER_BYTES {
        errors.push(FieldError::too_long(field, PARAMETER_BYTES));
    }
}

/// Fields whose update is refused in these kinds' own words.
fn forbidden(new: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    for f in fields.iter().filter(|f| new[**f] != old[**f]) {
        errors.push(FieldError::forbidden(*f, format!("updates to {f} are forbidden.")));
    }
}

pub(super) struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, o: &mut Value) {
        if let Some(m) = o.as_object_mut() {
            set(m, "reclaimPolicy", "Delete");
            set(m, "volumeBindingMode", "Immediate");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let provisioner = text(o, "provisioner");
        if provisioner.is_empty() {
            errors.push(FieldError::required("provisioner", ""));
        } else {
            let wrong = names::qualified_name_errors(&provisioner.to_lowercase());
            rules::all_wrong("provisioner", &provisioner.to_lowercase(), wrong, &mut errors);
        }
        parameters(&o["parameters"], "parameters", &mut errors);
        for (field, supported) in
            [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"])]
        {
            if let Some(given) = o[field].as_str().filter(|g| !supported.contains(g)) {
                errors.push(FieldError::not_supported(field, given, &supported));
            }
        }
        for (i, term) in list(o, "allowedTopologies").enumerate() {
            topology_term(term, &format!("allowedTopologies[{i}]"), &mut errors);
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        forbidden(new, old, &["parameters", "provisioner", "reclaimPolicy"], &mut errors);
        rules::immutable(new, old, &["volumeBindingMode"], "", &mut errors);
        errors
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::storage_class(o, now)
    }
}

fn topology_term(term: &Value, path: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, e) in list(term, "matchLabelExpressions").enumerate() {
        let path = format!("{path}.matchLabelExpressions[{i}]");
        let key = text(e, "key");
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(format!("{path}.key"), key));
        }
        if list(e, "values").next().is_none() {
            errors.push(FieldError::required(format!("{path}.values"), ""));
        }
        let mut values = BTreeSet::new();
        for (n, v) in list(e, "values").filter_map(Value::as_str).enumerate() {
            if !values.insert(v) {
                errors.push(FieldError::duplicate(format!("{path}.values[{n}]"), v));
            }
        }
        rules::label_name(key, &format!("{path}.key"), errors);
    }
}

pub(super) struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match text(o, "driverName") {
            "" => errors.push(FieldError::required("driverName", "")),
            name => {
                if name.len() > 63 {
                    errors.push(FieldError::too_long("driverName", 63));
                }
                let wrong = names::dns1123_subdomain_errors(&name.to_lowercase());
                rules::all_wrong("driverName", name, wrong, &mut errors);
            }
        }
        if o["parameters"].as_object().is_none_or(serde_json::Map::is_empty) {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required("parameters", detail));
        } else {
            parameters(&o["parameters"], "parameters", &mut errors);
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        forbidden(new, old, &["driverName"], &mut errors);
        forbidden(new, old, &["parameters"], &mut errors);
        errors
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::volume_attributes_class(o, now)
    }
}

pub(super) struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn prepare_create(&self, o: &mut Value) {
        o["status"] = serde_json::json!({"attached": false});
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        rules::csi_driver(spec, "attacher", "spec", &mut errors);
        let (source, path) = (&spec["source"], "spec.source");
        let (name, inline) = (source["persistentVolumeName"].as_str(), &source["inlineVolumeSpec"]);
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (name, inline.is_object()) {
            (None, false) => errors.push(FieldError::required(path, detail)),
            (Some(_), true) => errors.push(FieldError::forbidden(path, detail)),
            (Some(""), false) => {
                let detail = "must specify non empty persistentVolumeName";
                errors.push(FieldError::required(format!("{path}.persistentVolumeName"), detail));
            }
            (Some(_), false) => {
                let form = names::dns1123_subdomain_errors;
                rules::named(source, "persistentVolumeName", path, form, &mut errors);
            }
            (None, true) => claim::volume_spec(inline, &format!("{path}.inlineVolumeSpec"), &mut errors),
        }
        let node = text(spec, "nodeName");
        rules::all_wrong("spec.nodeName", node, names::dns1123_subdomain_errors(node), &mut errors);
        errors.extend(attachment_status(o));
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(new, old, &["spec"], "", &mut errors);
        errors
    }
    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        attachment_status(new)
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::volume_attachment(o, now)
    }
}

fn attachment_status(o: &Value) -> ErrorList {
    let (status, mut errors) = (&o["status"], ErrorList::new());
    let metadata = status["attachmentMetadata"].as_object().into_iter().flatten();
    let bytes: usize = metadata.map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len()).sum();
    if bytes > METADATA_BYTES {
        errors.push(FieldError::too_long("status.attachmentMetadata", METADATA_BYTES));
    }
    for field in ["attachError", "detachError"] {
        if text(&status[field], "message").len() > MESSAGE_BYTES {
            errors.push(FieldError::too_long(format!("status.{field}.message"), MESSAGE_BYTES));
        }
    }
    errors
}

pub(super) struct CsiNode;

fn csi_drivers(o: &Value, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, d) in list(&o["spec"], "drivers").enumerate() {
        let path = format!("spec.drivers[{i}]");
        rules::csi_driver(d, "name", &path, errors);
        let id = text(d, "nodeID");
        rules::required(d, &["nodeID"], &path, errors);
        if id.len() > NODE_ID_BYTES {
            let detail = format!("must be {NODE_ID_BYTES} characters or less");
            errors.push(FieldError::invalid(format!("{path}.nodeID"), id, detail));
        }
        rules::not_negative(&d["allocatable"], &["count"], &format!("{path}.allocatable"), errors);
        if !seen.insert(text(d, "name")) {
            errors.push(FieldError::duplicate(format!("{path}.name"), text(d, "name")));
        }
        let mut keys = BTreeSet::new();
        for key in list(d, "topologyKeys").filter_map(Value::as_str) {
            if key.is_empty() {
                errors.push(FieldError::required(path.clone(), ""));
            }
            if !keys.insert(key) {
                errors.push(FieldError::duplicate(path.clone(), key));
            }
            rules::label_name(key, &path, errors);
        }
    }
}

impl Strategy for CsiNode {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        csi_drivers(o, &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        // How many volumes fit may change.
        let fixed = |d: &Value| [d["nodeID"].clone(), d["topologyKeys"].clone()];
        for was in list(&old["spec"], "drivers") {
            let now = list(&new["spec"], "drivers").find(|d| d["name"] == was["name"]);
            if let Some(now) = now.filter(|d| fixed(d) != fixed(was)) {
                errors.push(FieldError::invalid("CSINodeDriver", now.clone(), rules::IMMUTABLE));
            }
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::csi_node(o, now)
    }
}

pub(super) struct CsiDriver;

impl Strategy for CsiDriver {
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        set(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set(spec, field, false);
        }
        set(spec, "fsGroupPolicy", FS_GROUP_POLICIES[2]);
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".into(), serde_json::json!(["Persistent"]));
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        rules::one_of_if_given(spec, "fsGroupPolicy", "spec", &FS_GROUP_POLICIES, &mut errors);
        let mut seen = BTreeSet::new();
        for (i, t) in list(spec, "tokenRequests").enumerate() {
            let path = format!("spec.tokenRequests[{i}]");
            if !seen.insert(text(t, "audience")) {
                errors.push(FieldError::duplicate(format!("{path}.audience"), text(t, "audience")));
                continue;
            }
            let field = format!("{path}.expirationSeconds");
            match t["expirationSeconds"].as_i64() {
                Some(n) if n < 600 => {
                    let detail = "may not specify a duration less than 10 minutes";
                    errors.push(FieldError::invalid(field, n, detail));
                }
                Some(n) if n > 1 << 32 => {
                    let detail = "may not specify a duration larger than 2^32 seconds";
                    errors.push(FieldError::invalid(field, n, detail));
                }
                _ => {}
            }
        }
        const MODES: [&str; 2] = ["Persistent", "Ephemeral"];
        for m in list(spec, "volumeLifecycleModes").filter_map(Value::as_str).filter(|m| !MODES.contains(m)) {
            errors.push(FieldError::not_supported("spec.volumeLifecycleModes", m, &MODES));
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let (is, was, mut errors) = (&new["spec"], &old["spec"], ErrorList::new());
        // Upstream misspells the first.
        if is["attachRequired"] != was["attachRequired"] {
            let given = is["attachRequired"].clone();
            errors.push(FieldError::invalid("spec.attachedRequired", given, rules::IMMUTABLE));
        }
        rules::immutable(is, was, &["volumeLifecycleModes"], "spec", &mut errors);
        errors
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::csi_driver(o, now)
    }
}

pub(super) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::label_selector(&o["nodeTopology"], "nodeTopology", &mut errors);
        let class = text(o, "storageClassName");
        rules::all_wrong("storageClassName", class, names::dns1123_subdomain_errors(class), &mut errors);
        if !o["capacity"].is_null() {
            rules::amount(&o["capacity"], "capacity", &mut errors);
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(new, old, &["nodeTopology", "storageClassName"], "", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::csi_storage_capacity(o, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_class_has_defaults_and_stays_as_it_is() {
        let mut c = json!({"provisioner": "a/b"});
        StorageClass.default(&mut c);
        assert_eq!(c, json!({"provisioner": "a/b", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}));
        assert!(StorageClass.validate(&c).is_empty());
        let new = json!({"provisioner": "a/c", "reclaimPolicy": "Recycle", "volumeBindingMode": "Immediate"});
        assert_eq!(
            told(StorageClass.validate(&new)),
            ["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\""]
        );
        assert_eq!(
            told(StorageClass.validate_update(&new, &c)),
            [
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            ]
        );
    }

    #[test]
    fn an_attachment_names_one_source() {
        let spec = |source: Value| json!({"spec": {"attacher": "a", "nodeName": "n", "source": source}});
        assert!(VolumeAttachment.validate(&spec(json!({"persistentVolumeName": "v"}))).is_empty());
        assert_eq!(
            told(VolumeAttachment.validate(&spec(json!({})))),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
    }

    #[test]
    fn a_driver_has_defaults() {
        let mut d = json!({"spec": {}});
        CsiDriver.default(&mut d);
        assert_eq!(d["spec"]["attachRequired"], true);
        assert_eq!(d["spec"]["volumeLifecycleModes"], json!(["Persistent"]));
        assert!(CsiDriver.validate(&d).is_empty());
    }
}
