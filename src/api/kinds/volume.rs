//! Volumes of pods: defaults and validation (upstream: `validateVolumeSource`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container::env::{field_ref, resource_ref};
use super::container::mounts::Volumes;
use super::{claim, list, list_mut, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;

type Check = fn(&Value, &str, &mut ErrorList);

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// Upstream's bounds of a projected token's lifetime.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);

/// The sources in upstream's order, and what is checked of each.
const SOURCES: [(&str, Check); 30] = [
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |v, p, e| rules::required(v, &["pdName"], p, e)),
    ("awsElasticBlockStore", |v, p, e| rules::required(v, &["volumeID"], p, e)),
    ("secret", |v, p, e| keyed(v, "secretName", p, e)),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |v, p, e| rules::required(v, &["endpoints", "path"], p, e)),
    ("flocker", nothing),
    ("persistentVolumeClaim", |v, p, e| rules::required(v, &["claimName"], p, e)),
    ("rbd", |v, p, e| rules::required(v, &["image"], p, e)),
    ("cinder", |v, p, e| rules::required(v, &["volumeID"], p, e)),
    ("cephfs", nothing),
    ("quobyte", |v, p, e| rules::required(v, &["registry", "volume"], p, e)),
    ("downwardAPI", downward),
    ("fc", fibre_channel),
    ("flexVolume", |v, p, e| rules::required(v, &["driver"], p, e)),
    ("configMap", |v, p, e| keyed(v, "name", p, e)),
    ("azureFile", |v, p, e| rules::required(v, &["secretName", "shareName"], p, e)),
    ("vsphereVolume", |v, p, e| rules::required(v, &["volumePath"], p, e)),
    ("photonPersistentDisk", |v, p, e| rules::required(v, &["pdID"], p, e)),
    ("portworxVolume", |v, p, e| rules::required(v, &["volumeID"], p, e)),
    ("azureDisk", |v, p, e| rules::required(v, &["diskName", "diskURI"], p, e)),
    ("storageos", nothing),
    ("projected", projected),
    ("scaleIO", |v, p, e| rules::required(v, &["gateway", "system", "volumeName"], p, e)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

/// Fills in the defaults of a volume.
pub(super) fn default(v: &mut Value) {
    // A volume without a source is an emptyDir.
    if v.as_object().is_some_and(|m| m.len() == 1) {
        v["emptyDir"] = json!({});
    }
    default_source(v);
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(m) = v.get_mut(source).and_then(Value::as_object_mut) {
            set(m, "defaultMode", 420);
        }
    }
    for f in v.get_mut("downwardAPI").into_iter().flat_map(|d| list_mut(d, "items")) {
        default_field_ref(f);
    }
    for source in v.get_mut("projected").into_iter().flat_map(|p| list_mut(p, "sources")) {
        if let Some(t) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
            set(t, "expirationSeconds", 3600);
        }
        for f in source.get_mut("downwardAPI").into_iter().flat_map(|d| list_mut(d, "items")) {
            default_field_ref(f);
        }
    }
    if let Some(m) = v.pointer_mut("/ephemeral/volumeClaimTemplate/spec").and_then(Value::as_object_mut) {
        set(m, "volumeMode", "Filesystem");
    }
    if let Some(m) = v.get_mut("image").and_then(Value::as_object_mut) {
        let policy = super::container::pull_policy(m.get("reference").and_then(Value::as_str).unwrap_or_default());
        set(m, "pullPolicy", policy);
    }
}

/// Fills in the defaults of sources that persistent volumes have, too.
pub(super) fn default_source(v: &mut Value) {
    let defaults: [(&str, &[(&str, Value)]); 5] = [
        ("hostPath", &[("type", "".into())]),
        ("iscsi", &[("iscsiInterface", "default".into())]),
        ("rbd", &[("pool", "rbd".into()), ("user", "admin".into()), ("keyring", "/etc/ceph/keyring".into())]),
        ("scaleIO", &[("storageMode", "ThinProvisioned".into()), ("fsType", "xfs".into())]),
        (
            "azureDisk",
            &[
                ("cachingMode", "ReadWrite".into()),
                ("kind", "Shared".into()),
                ("fsType", "ext4".into()),
                ("readOnly", false.into()),
            ],
        ),
    ];
    for (source, fields) in defaults {
        if let Some(m) = v.get_mut(source).and_then(Value::as_object_mut) {
            for (field, value) in fields {
                set(m, field, value.clone());
            }
        }
    }
}

fn default_field_ref(file: &mut Value) {
    if let Some(f) = file.get_mut("fieldRef").and_then(Value::as_object_mut) {
        set(f, "apiVersion", "v1");
    }
}

/// All that is wrong with a pod's volumes; gives those that mounts may use.
pub(super) fn validate<'a>(spec: &'a Value, pod: Option<&str>, path: &str, errors: &mut ErrorList) -> Volumes<'a> {
    let mut good = Volumes::new();
    let made: BTreeSet<String> = pod
        .into_iter()
        .flat_map(|p| list(spec, "volumes").filter(|v| v["ephemeral"].is_object()).map(move |v| (p, v)))
        .map(|(p, v)| format!("{p}-{}", text(v, "name")))
        .collect();
    for (i, v) in list(spec, "volumes").enumerate() {
        let path = format!("{path}.volumes[{i}]");
        let (before, name) = (errors.len(), text(v, "name"));
        sources(v, &path, errors);
        rules::named(v, "name", &path, names::dns1123_label_errors, errors);
        if good.contains_key(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        if errors.len() == before {
            good.insert(name, v);
        }
        let claim = text(&v["persistentVolumeClaim"], "claimName");
        if made.contains(claim) {
            let field = format!("{path}.persistentVolumeClaim.claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(field, claim, detail));
        }
    }
    good
}

fn sources(v: &Value, path: &str, errors: &mut ErrorList) {
    let mut found = false;
    for (name, check) in SOURCES.iter().filter(|(n, _)| v[*n].is_object()) {
        let field = format!("{path}.{name}");
        if found {
            errors.push(FieldError::forbidden(field, "may not specify more than 1 volume type"));
        } else {
            check(&v[*name], &field, errors);
        }
        found = true;
    }
    if !found {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

/// Checks a source of a persistent volume by the same table.
pub(super) fn source_check(name: &str) -> Option<Check> {
    SOURCES.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
}

fn nothing(_: &Value, _: &str, _: &mut ErrorList) {}

fn empty_dir(v: &Value, path: &str, errors: &mut ErrorList) {
    let limit = crate::quantity::Quantity::from_value(&v["sizeLimit"]);
    if limit.is_ok_and(|q| q.sign() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), detail));
    }
}

fn host_path(v: &Value, path: &str, errors: &mut ErrorList) {
    let given = text(v, "path");
    if given.is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
        return;
    }
    rules::no_backsteps(given, &format!("{path}.path"), errors);
    rules::one_of_if_given(v, "type", path, &HOST_PATH_TYPES, errors);
}

fn git_repo(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::required(v, &["repository"], path, errors);
    rules::descending_path(text(v, "directory"), &format!("{path}.directory"), errors);
}

fn nfs(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::required(v, &["server", "path"], path, errors);
    if !text(v, "path").starts_with('/') {
        errors.push(FieldError::invalid(format!("{path}.path"), text(v, "path"), "must be an absolute path"));
    }
}

fn iscsi(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::required(v, &["targetPortal", "iqn"], path, errors);
    let iqn = text(v, "iqn");
    if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|p| iqn.starts_with(p)) {
        let detail = "must be valid format starting with iqn, eui, or naa";
        errors.push(FieldError::invalid(format!("{path}.iqn"), iqn, detail));
    }
    rules::between(v, "lun", path, 0, 255, errors);
    if (v["chapAuthDiscovery"] == true || v["chapAuthSession"] == true) && v["secretRef"].is_null() {
        errors.push(FieldError::required(format!("{path}.secretRef"), ""));
    }
}

fn fibre_channel(v: &Value, path: &str, errors: &mut ErrorList) {
    let has = |f: &str| list(v, f).next().is_some();
    let field = format!("{path}.targetWWNs");
    match (has("targetWWNs"), has("wwids")) {
        (false, false) => {
            errors.push(FieldError::required(field, "must specify either targetWWNs or wwids, but not both"));
        }
        (true, true) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(FieldError::invalid(field, v["targetWWNs"].clone(), detail));
        }
        _ => {}
    }
    if has("targetWWNs") && v["lun"].is_null() {
        let detail = "lun is required if targetWWNs is specified";
        errors.push(FieldError::required(format!("{path}.lun"), detail));
    }
    rules::between(v, "lun", path, 0, 255, errors);
}

/// A config map or secret: its name, and which of its keys become files.
fn keyed(v: &Value, name: &str, path: &str, errors: &mut ErrorList) {
    rules::required(v, &[name], path, errors);
    rules::file_mode(v, "defaultMode", path, errors);
    key_paths(v, path, errors);
}

fn key_paths(v: &Value, path: &str, errors: &mut ErrorList) {
    for (i, item) in list(v, "items").enumerate() {
        let path = format!("{path}.items[{i}]");
        rules::required(item, &["key", "path"], &path, errors);
        rules::file_path(text(item, "path"), &format!("{path}.path"), errors);
        rules::file_mode(item, "mode", &path, errors);
    }
}

fn downward(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::file_mode(v, "defaultMode", path, errors);
    list(v, "items").for_each(|file| downward_file(file, path, errors));
}

fn downward_file(file: &Value, path: &str, errors: &mut ErrorList) {
    rules::required(file, &["path"], path, errors);
    rules::file_path(text(file, "path"), &format!("{path}.path"), errors);
    match (file["fieldRef"].is_object(), file["resourceFieldRef"].is_object()) {
        (true, both) => {
            field_ref(&file["fieldRef"], &format!("{path}.fieldRef"), true, errors);
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (false, true) => {
            resource_ref(&file["resourceFieldRef"], &format!("{path}.resourceFieldRef"), true, errors);
        }
        (false, false) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    rules::file_mode(file, "mode", path, errors);
}

fn projected(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::file_mode(v, "defaultMode", path, errors);
    let mut paths = BTreeSet::new();
    for (i, source) in list(v, "sources").enumerate() {
        let source_path = format!("{path}.sources[{i}]");
        for kind in ["secret", "configMap"].into_iter().filter(|k| source[*k].is_object()) {
            let field = format!("{source_path}.{kind}");
            rules::required(&source[kind], &["name"], &field, errors);
            key_paths(&source[kind], &field, errors);
            for item in list(&source[kind], "items").map(|i| text(i, "path")) {
                if !item.is_empty() && !paths.insert(item) {
                    let name = text(&source[kind], "name");
                    errors.push(FieldError::invalid(path, name, "conflicting duplicate paths"));
                }
            }
        }
        for file in list(&source["downwardAPI"], "items") {
            downward_file(file, &format!("{source_path}.downwardAPI"), errors);
            let given = text(file, "path");
            if !given.is_empty() && !paths.insert(given) {
                errors.push(FieldError::invalid(path, given, "conflicting duplicate paths"));
            }
        }
        if source["serviceAccountToken"].is_object() {
            token(&source["serviceAccountToken"], path, &source_path, errors);
        }
        if source.as_object().map_or(0, |s| s.values().filter(|v| v.is_object()).count()) > 1 {
            errors.push(FieldError::forbidden(source_path, "may not specify more than 1 volume type"));
        }
    }
}

fn token(v: &Value, path: &str, source_path: &str, errors: &mut ErrorList) {
    let field = format!("{source_path}.serviceAccountToken.expirationSeconds");
    let seconds = v["expirationSeconds"].as_i64().unwrap_or(0);
    if seconds < TOKEN_SECONDS.0 {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(field.clone(), seconds, detail));
    }
    if seconds > TOKEN_SECONDS.1 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(FieldError::invalid(field, seconds, detail));
    }
    rules::required(v, &["path"], path, errors);
}

fn csi(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::csi_driver(v, "driver", path, errors);
    if v["nodePublishSecretRef"].is_object() {
        let field = format!("{path}.nodePublishSecretRef");
        rules::named(&v["nodePublishSecretRef"], "name", &field, names::dns1123_subdomain_errors, errors);
    }
}

fn ephemeral(v: &Value, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.volumeClaimTemplate");
    match &v["volumeClaimTemplate"] {
        Value::Null => errors.push(FieldError::required(path, "")),
        template => claim::validate_spec(&template["spec"], &format!("{path}.spec"), errors),
    }
}

fn image(v: &Value, path: &str, errors: &mut ErrorList) {
    rules::required(v, &["reference"], path, errors);
    rules::one_of(v, "pullPolicy", path, &["Always", "IfNotPresent", "Never"], errors);
}
