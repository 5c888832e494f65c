//! The behaviour of CustomResourceDefinition
//! (upstream: `apiextensions-apiserver/pkg/{apis,registry}/…/customresourcedefinition`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::{structural, text, texts};
use crate::field::{ErrorList, FieldError};
use crate::kinds::admissionregistration::webhook;
use crate::names;
use crate::resource::Strategy;

/// Holds a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// See the module.
pub struct Definition;

fn set_absent(v: &mut Value, field: &str, value: impl FnOnce() -> Value) {
    if let Some(map) = v.as_object_mut()
        && map.get(field).is_none_or(|v| v.is_null() || v == "")
    {
        map.insert(field.to_owned(), value());
    }
}

fn versions(object: &Value) -> impl Iterator<Item = &Value> {
    object["spec"]["versions"].as_array().into_iter().flatten()
}

fn storage_version(object: &Value) -> Option<&str> {
    versions(object).find(|v| v["storage"] == true)?["name"].as_str()
}

/// The version that objects are stored in from now on joins those they were stored in before.
fn remember_storage(object: &mut Value) {
    let Some(storage) = storage_version(object).map(str::to_owned) else { return };
    let mut stored = texts(&object["status"]["storedVersions"]);
    if !stored.contains(&storage) {
        stored.push(storage);
    }
    if !object["status"].is_object() {
        object["status"] = json!({"acceptedNames": {"plural": "", "kind": ""}});
    }
    object["status"]["storedVersions"] = stored.into();
}

impl Strategy for Definition {
    fn default(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        let kind = text(&spec["names"]["kind"]);
        if spec["names"].is_object() {
            set_absent(&mut spec["names"], "singular", || kind.to_lowercase().into());
            set_absent(&mut spec["names"], "listKind", || format!("{kind}List").into());
        }
        set_absent(spec, "conversion", || json!({"strategy": "None"}));
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            set_absent(service, "port", || 443.into());
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        remember_storage(object);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value) {
        remember_storage(new);
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = &object["spec"];
        let wanted = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
        if object["metadata"]["name"] != wanted.as_str() {
            let name = text(&object["metadata"]["name"]);
            let why = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid("metadata.name", name, why));
        }
        group(spec, &mut errors);
        scope(spec, &mut errors);
        all_names(&spec["names"], "spec.names", &mut errors);
        all_versions(object, &mut errors);
        conversion(&spec["conversion"], &mut errors);
        if spec["preserveUnknownFields"] == true {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = stored_versions(new);
        let immutable = |path: &str, errors: &mut ErrorList| {
            let pointer = format!("/{}", path.replace('.', "/"));
            if new.pointer(&pointer) != old.pointer(&pointer) {
                let value = new.pointer(&pointer).cloned().unwrap_or(Value::Null);
                errors.push(FieldError::invalid(path, value, "field is immutable"));
            }
        };
        immutable("spec.group", &mut errors);
        if super::is_true(old, "Established") {
            for path in ["spec.scope", "spec.names.kind", "spec.names.plural"] {
                immutable(path, &mut errors);
            }
        }
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> ErrorList {
        stored_versions(new)
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        // Once it is being deleted, the finalizer holds it.
        object["metadata"]["deletionTimestamp"].is_null()
    }

    fn begin_deletion(&self, object: &mut Value) {
        let mut finalizers = texts(&object["metadata"]["finalizers"]);
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        object["metadata"]["finalizers"] = finalizers.into();
    }
}

fn stored_versions(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let stored = texts(&object["status"]["storedVersions"]);
    for (i, v) in stored.iter().enumerate() {
        if !versions(object).any(|known| known["name"] == v.as_str()) {
            let why = format!(
                "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("status.storedVersions[{i}]"), v.as_str(), why));
        }
    }
    errors
}

fn group(spec: &Value, errors: &mut ErrorList) {
    let group = text(&spec["group"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(e) = names::dns1123_subdomain(&group) {
        errors.push(FieldError::invalid("spec.group", group, e));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
}

fn scope(spec: &Value, errors: &mut ErrorList) {
    match text(&spec["scope"]).as_str() {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
}

fn all_names(all: &Value, path: &str, errors: &mut ErrorList) {
    for (field, lower, needed) in
        [("plural", true, true), ("singular", true, false), ("kind", false, true), ("listKind", false, false)]
    {
        let name = text(&all[field]);
        let at = format!("{path}.{field}");
        if name.is_empty() {
            if needed {
                errors.push(FieldError::required(at, ""));
            }
            continue;
        }
        let checked = if lower { name.clone() } else { name.to_lowercase() };
        if let Some(e) = names::dns1035_label(&checked) {
            let why = if lower { e } else { format!("may have mixed case, but should otherwise match: {e}") };
            errors.push(FieldError::invalid(at, name, why));
        }
    }
    for field in ["shortNames", "categories"] {
        for (i, name) in texts(&all[field]).iter().enumerate() {
            if let Some(e) = names::dns1035_label(name) {
                errors.push(FieldError::invalid(format!("{path}.{field}[{i}]"), name.as_str(), e));
            }
        }
    }
    if all["kind"] == all["listKind"] && all["kind"].is_string() {
        errors.push(FieldError::invalid(
            format!("{path}.listKind"),
            text(&all["listKind"]),
            "kind and listKind may not be the same",
        ));
    }
}

fn all_versions(object: &Value, errors: &mut ErrorList) {
    let mut seen = std::collections::HashSet::new();
    let mut storage = 0;
    for (i, v) in versions(object).enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = text(&v["name"]);
        if let Some(e) = names::dns1035_label(&name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name.as_str(), e));
        }
        if !seen.insert(name.clone()) {
            errors.push(FieldError::invalid("spec.versions", name, "must contain unique version names"));
        }
        storage += usize::from(v["storage"] == true);
        version(v, &path, errors);
    }
    if storage != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", object["spec"]["versions"].clone(), why));
    }
}

fn version(v: &Value, path: &str, errors: &mut ErrorList) {
    let schema = &v["schema"]["openAPIV3Schema"];
    let at = format!("{path}.schema.openAPIV3Schema");
    if schema.is_null() {
        errors.push(FieldError::required(at, "schemas are required"));
    } else {
        structural::check(schema, &at, v["subresources"]["status"].is_object(), errors);
    }
    for (i, c) in v["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
        printer_column(c, &format!("{path}.additionalPrinterColumns[{i}]"), errors);
    }
    let scale = &v["subresources"]["scale"];
    if scale.is_object() {
        for (field, root, needed) in [
            ("specReplicasPath", ".spec.", true),
            ("statusReplicasPath", ".status.", true),
            ("labelSelectorPath", ".s", false),
        ] {
            scale_path(&text(&scale[field]), root, needed, &format!("{path}.subresources.scale.{field}"), errors);
        }
    }
}

fn scale_path(given: &str, root: &str, needed: bool, path: &str, errors: &mut ErrorList) {
    if given.is_empty() {
        if needed {
            errors.push(FieldError::required(path, ""));
        }
        return;
    }
    if let Err(e) = JsonPath::parse(given) {
        errors.push(FieldError::invalid(path, given, e));
    } else if given.contains('[') {
        errors.push(FieldError::invalid(path, given, "should be a json path under .spec or .status without arrays"));
    } else if !given.starts_with(root) {
        let under = if root == ".s" { ".spec or .status" } else { root.trim_end_matches('.') };
        errors.push(FieldError::invalid(path, given, format!("should be a json path under {under}")));
    }
}

fn printer_column(c: &Value, path: &str, errors: &mut ErrorList) {
    const TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];
    if text(&c["name"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    match text(&c["type"]) {
        t if t.is_empty() => errors
            .push(FieldError::required(format!("{path}.type"), "must be one of boolean,date,integer,number,string")),
        t if !TYPES.contains(&t.as_str()) => {
            let why = "must be one of boolean,date,integer,number,string";
            errors.push(FieldError::invalid(format!("{path}.type"), t, why));
        }
        _ => {}
    }
    match text(&c["jsonPath"]) {
        p if p.is_empty() => errors.push(FieldError::required(format!("{path}.jsonPath"), "")),
        p => {
            if let Err(e) = JsonPath::parse(&p) {
                errors.push(FieldError::invalid(format!("{path}.jsonPath"), p, e));
            }
        }
    }
}

/// Upstream names the fields of its internal version, where the webhook's stand one level higher.
fn conversion(conversion: &Value, errors: &mut ErrorList) {
    let webhook = &conversion["webhook"];
    let (config, versions) = ("spec.conversion.webhookClientConfig", "spec.conversion.conversionReviewVersions");
    match text(&conversion["strategy"]).as_str() {
        "Webhook" => {
            match &webhook["clientConfig"] {
                Value::Null => errors.push(FieldError::required(config, "required when strategy is set to Webhook")),
                client => errors.extend(webhook::client(client, config)),
            }
            review_versions(&webhook["conversionReviewVersions"], versions, errors);
        }
        "" => errors.push(FieldError::required("spec.conversion.strategy", "")),
        strategy => {
            if strategy != "None" {
                errors.push(FieldError::not_supported("spec.conversion.strategy", strategy, &["None", "Webhook"]));
            }
            let why = "should not be set when strategy is not set to Webhook";
            if !webhook["clientConfig"].is_null() {
                errors.push(FieldError::forbidden(config, why));
            }
            if !texts(&webhook["conversionReviewVersions"]).is_empty() {
                errors.push(FieldError::forbidden(versions, why));
            }
        }
    }
}

fn review_versions(given: &Value, path: &str, errors: &mut ErrorList) {
    let versions = texts(given);
    if versions.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    errors.extend(webhook::unique_versions(versions.iter().map(String::as_str), path));
    if !versions.iter().any(|v| matches!(v.as_str(), "v1" | "v1beta1")) {
        errors.push(FieldError::invalid(path, given.clone(), "must include at least one of v1, v1beta1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        let mut d = json!({
            "metadata": {"name": "widgets.example.org"},
            "spec": {
                "group": "example.org", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}}}],
            },
        });
        Definition.default(&mut d);
        Definition.prepare_create(&mut d);
        d
    }

    fn errors(change: impl FnOnce(&mut Value)) -> String {
        let mut d = definition();
        change(&mut d);
        Definition.validate(&d).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_good_definition_is_completed() {
        let d = definition();
        assert_eq!(errors(|_| {}), "");
        assert_eq!(
            d["spec"]["names"],
            json!({"plural": "widgets", "kind": "Widget", "singular": "widget", "listKind": "WidgetList"})
        );
        assert_eq!(d["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(d["status"]["storedVersions"], json!(["v1"]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |path: &str, value: Value| errors(|d| *d.pointer_mut(path).unwrap() = value);
        assert!(said("/metadata/name", json!("x")).contains("must be spec.names.plural+\".\"+spec.group"));
        assert!(said("/spec/scope", json!("Galaxy")).contains("spec.scope: Unsupported value: \"Galaxy\""));
        assert!(
            said("/spec/versions/0/storage", json!(false)).contains("exactly one version marked as storage version")
        );
        assert!(said("/spec/versions/0/schema", json!({})).contains("schemas are required"));
        assert!(said("/spec/names/plural", json!("Widgets")).contains("spec.names.plural: Invalid value"));
        let webhook = said("/spec/conversion/strategy", json!("Webhook"));
        assert_eq!(
            webhook,
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook; \
             spec.conversion.conversionReviewVersions: Required value"
        );
        let config = json!({"clientConfig": {}, "conversionReviewVersions": ["v3", "v3"]});
        let webhook = said("/spec/conversion", json!({"strategy": "Webhook", "webhook": config}));
        assert_eq!(
            webhook,
            "spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required; \
             spec.conversion.conversionReviewVersions[1]: Invalid value: \"v3\": duplicate version; \
             spec.conversion.conversionReviewVersions: Invalid value: [\"v3\",\"v3\"]: \
             must include at least one of v1, v1beta1"
        );
        let config = json!({"strategy": "None", "webhook": {"clientConfig": {}, "conversionReviewVersions": ["v1"]}});
        assert!(said("/spec/conversion", config).contains("should not be set when strategy is not set to Webhook"));
    }

    #[test]
    fn a_version_that_holds_objects_stays() {
        let old = definition();
        let mut new = old.clone();
        new["spec"]["versions"][0]["name"] = json!("v2");
        Definition.prepare_update(&mut new, &old);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        let errors = Definition.validate_update(&new, &old);
        assert!(
            errors[0]
                .to_string()
                .starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions")
        );
    }
}
