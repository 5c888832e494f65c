//! Config maps, secrets, service accounts.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name};
use super::{child, list, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

/// Most bytes in all values of a config map or secret.
const MAX_BYTES: usize = 1024 * 1024;

fn keys(o: &Value, field: &str, errors: &mut ErrorList) {
    for (k, _) in o[field].as_object().into_iter().flatten() {
        errors.extend(names::config_map_key(k).map(|e| FieldError::invalid(format!("{field}[{k}]"), k.as_str(), e)));
    }
}

fn immutable(new: &Value, old: &Value, fields: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    if old["immutable"] != true {
        return errors;
    }
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for f in fields {
        if new[*f] != old[*f] {
            errors.push(FieldError::forbidden(*f, "field is immutable when `immutable` is set"));
        }
    }
    errors
}

pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        keys(o, "data", &mut errors);
        keys(o, "binaryData", &mut errors);
        for (k, _) in o["data"].as_object().into_iter().flatten() {
            if o["binaryData"].get(k).is_some() {
                errors.push(FieldError::invalid(
                    format!("data[{k}]"),
                    k.as_str(),
                    "duplicate of key present in binaryData",
                ));
            }
        }
        let size = |f: &str| {
            o[f].as_object().into_iter().flatten().map(|(_, v)| v.as_str().unwrap_or_default().len()).sum::<usize>()
        };
        if size("data") + size("binaryData") > MAX_BYTES {
            errors.push(FieldError::too_long("", MAX_BYTES));
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        immutable(new, old, &["data", "binaryData"])
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let count = |f: &str| o[f].as_object().map_or(0, serde_json::Map::len);
        vec![name(o), (count("data") + count("binaryData")).to_string().into(), age(o, now)]
    }
}

pub(super) struct Secret;

impl Strategy for Secret {
    fn default(&self, o: &mut Value) {
        if let Some(m) = o.as_object_mut() {
            set(m, "type", "Opaque");
        }
        // `stringData` is a way to write `data` without base64; it is never stored.
        let plain = o.as_object_mut().and_then(|m| m.remove("stringData"));
        if let Some(Value::Object(plain)) = plain
            && let Some(data) = child(o, "data")
        {
            for (k, v) in plain {
                data.insert(k, BASE64_STANDARD.encode(v.as_str().unwrap_or_default()).into());
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        keys(o, "data", &mut errors);
        let bytes = |v: &Value| BASE64_STANDARD.decode(v.as_str().unwrap_or_default()).unwrap_or_default();
        let size: usize = o["data"].as_object().into_iter().flatten().map(|(_, v)| bytes(v).len()).sum();
        if size > MAX_BYTES {
            errors.push(FieldError::too_long("data", MAX_BYTES));
        }
        let required: &[&str] = match text(o, "type") {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/basic-auth" if ["username", "password"].iter().all(|k| o["data"].get(*k).is_none()) => {
                &["username", "password"]
            }
            _ => &[],
        };
        for k in required {
            if o["data"].get(k).is_none() {
                errors.push(FieldError::required(format!("data[{k}]"), ""));
            } else if k.starts_with('.') {
                docker_config(&bytes(&o["data"][k]), &format!("data[{k}]"), &mut errors);
            }
        }
        if text(o, "type") == "kubernetes.io/service-account-token"
            && o["metadata"]["annotations"].get("kubernetes.io/service-account.name").is_none()
        {
            errors.push(FieldError::required("metadata.annotations[kubernetes.io/service-account.name]", ""));
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = immutable(new, old, &["data"]);
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            name(o),
            o["type"].clone(),
            o["data"].as_object().map_or(0, serde_json::Map::len).to_string().into(),
            age(o, now),
        ]
    }
}

/// The credentials of registries must be a JSON object, whose contents no message shows.
fn docker_config(bytes: &[u8], field: &str, errors: &mut ErrorList) {
    let detail = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        _ if bytes.is_empty() => "unexpected end of JSON input",
        Ok(_) => "json: cannot unmarshal into Go value of type map[string]interface {}",
        Err(_) => "invalid character in JSON",
    };
    errors.push(FieldError::invalid(field, "<secret contents redacted>", detail));
}

pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn returns_deleted(&self) -> bool {
        true
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(o), list(o, "secrets").count().to_string().into(), age(o, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_becomes_data_and_a_tls_secret_needs_its_keys() {
        let mut s = json!({"stringData": {"a": "b"}});
        Secret.default(&mut s);
        assert_eq!(s, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
        s["type"] = "kubernetes.io/tls".into();
        assert_eq!(Secret.validate(&s).len(), 2);
    }

    #[test]
    fn an_immutable_config_map_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        assert!(ConfigMap.validate_update(&old, &old).is_empty());
        assert_eq!(ConfigMap.validate_update(&json!({"immutable": true, "data": {}}), &old).len(), 1);
    }
}
