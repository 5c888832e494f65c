//! From what a client sent to what is written: versions, names, and the fields that are not its to
//! change.

use std::sync::Arc;

use api::codec::Decoded;
use api::protobuf::{Unset, drop_unset, put_unset};
use api::{Object, Resource, Status};
use serde_json::{Map, Value};

use super::deletion::uid_conflict;
use super::{FieldValidation, WriteContext};

/// Applies `fieldValidation` to what the decoder found, and checks kind and version.
pub(crate) fn accept(
    ctx: &WriteContext,
    resource: &Resource,
    body: Decoded,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let problems: Vec<String> = body
        .unknown
        .iter()
        .map(|f| format!("unknown field {f:?}"))
        .chain(body.duplicate.iter().map(|f| format!("duplicate field {f:?}")))
        .collect();
    match ctx.field_validation {
        FieldValidation::Strict if !problems.is_empty() => {
            return Err(Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                resource.kind,
                resource.version,
                resource.kind,
                problems.join(", ")
            )));
        }
        FieldValidation::Warn => warnings.extend(problems),
        _ => {}
    }
    let mut value = body.value;
    let expected = resource.api_version();
    let Some(m) = value.as_object_mut() else {
        return Err(Status::bad_request("the body of the request is not an object"));
    };
    for (field, expected) in [("apiVersion", expected.as_str()), ("kind", resource.kind.as_str())] {
        match m.get(field).and_then(Value::as_str) {
            None | Some("") => {
                m.insert(field.into(), expected.into());
            }
            Some(v) if v == expected => {}
            Some(v) if field == "apiVersion" => {
                return Err(Status::bad_request(format!(
                    "the API version in the data ({v}) does not match the expected API version ({expected})"
                )));
            }
            Some(v) => {
                return Err(Status::bad_request(format!(
                    "{v} in version {:?} cannot be handled as a {expected}",
                    resource.version
                )));
            }
        }
    }
    if !m.get("metadata").is_some_and(Value::is_object) {
        m.insert("metadata".into(), Value::Object(Map::new()));
    }
    if let Some(c) = &resource.convert {
        c.to_storage(resource, &mut value);
    }
    Ok(value)
}

/// A stored object in the version that the resource serves.
pub fn served<'a>(resource: &Resource, stored: &'a Value) -> std::borrow::Cow<'a, Value> {
    match &resource.convert {
        None => std::borrow::Cow::Borrowed(stored),
        Some(_) if stored.is_null() => std::borrow::Cow::Borrowed(stored),
        Some(c) => {
            let mut v = stored.clone();
            c.from_storage(&mut v);
            std::borrow::Cow::Owned(v)
        }
    }
}

/// Fills in defaults: where a field is absent, and where Go does not tell its value from that.
pub(super) fn default(resource: &Resource, object: &mut Value) {
    drop_unset(object);
    put_unset(object, Unset::Structs);
    resource.strategy.default(object);
    put_unset(object, Unset::Values);
}

/// The object as it is stored and shown: with what JSON always has of its kind.
pub(super) fn finish(mut object: Value) -> Value {
    put_unset(&mut object, Unset::All);
    object
}

/// A new object, as a dry run shows it.
pub(super) fn shown(object: Value) -> Result<Arc<Object>, Status> {
    Ok(Arc::new(Object::from_value(&finish(object)).map_err(Status::internal)?))
}

/// Checks that what is to replace an object says which.
pub(super) fn named(object: &Value, name: &str) -> Result<(), Status> {
    if object["metadata"]["name"].as_str().is_some_and(|n| !n.is_empty()) {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    )))
}

/// Checks and sets namespace and name as the URL has them.
pub(super) fn place(resource: &Resource, object: &mut Value, namespace: &str, name: &str) -> Result<(), Status> {
    let meta = &mut object["metadata"];
    let text = |m: &Value, f: &str| m[f].as_str().unwrap_or_default().to_owned();
    let (given_ns, given_name) = (text(meta, "namespace"), text(meta, "name"));
    if resource.namespaced {
        if !given_ns.is_empty() && given_ns != namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta["namespace"] = namespace.into();
    } else if let Some(m) = meta.as_object_mut() {
        m.remove("namespace");
    }
    if !name.is_empty() {
        if given_name.is_empty() {
            meta["name"] = name.into();
        } else if given_name != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given_name}) does not match the name on the URL ({name})"
            )));
        }
    }
    Ok(())
}

pub(super) fn preconditions(resource: &Resource, name: &str, new: &Value, current: &Object) -> Result<(), Status> {
    let given = |f: &str| new["metadata"][f].as_str().filter(|s| !s.is_empty());
    if let Some(uid) = given("uid")
        && uid != current.meta().uid
    {
        return Err(uid_conflict(resource, name, uid, current.meta().uid));
    }
    if let Some(rv) = given("resourceVersion")
        && rv != current.meta().resource_version
    {
        return Err(Status::stale(&resource.group, &resource.plural, name));
    }
    if given("resourceVersion").is_none() && !resource.unconditional_update {
        // The value is upstream's revision in the way Go prints it here.
        let mut e = api::field::FieldError::invalid("metadata.resourceVersion", Value::Null, "");
        (e.value, e.detail) = (None, "0x0: must be specified for an update".to_owned());
        return Err(Status::invalid(&resource.group, &resource.plural, name, &vec![e]));
    }
    Ok(())
}

/// What a client may not change in `metadata`, whatever it sends.
pub(super) fn keep_system_metadata(new: &mut Value, old: &Value) {
    let Some(m) = new["metadata"].as_object_mut() else { return };
    m.remove("selfLink");
    m.remove("managedFields");
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"]
    {
        match old["metadata"].get(field) {
            Some(v) => m.insert(field.into(), v.clone()),
            None => m.remove(field),
        };
    }
}

pub(super) fn keep_all_but_status(new: &mut Value, old: &Value, keeps: &[&str]) {
    let (Some(n), Some(o)) = (new.as_object_mut(), old.as_object()) else { return };
    n.retain(|k, _| k == "status" || k == "metadata");
    for (k, v) in o {
        if k != "status" && k != "metadata" {
            n.insert(k.clone(), v.clone());
        }
    }
    if let Some(m) = n.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["ownerReferences", "finalizers"].iter().chain(keeps) {
            match old["metadata"].get(*field) {
                Some(v) => m.insert((*field).into(), v.clone()),
                None => m.remove(*field),
            };
        }
    }
}
