//! One API object as everyone in the process shares it: its serialized bytes once,
//! its metadata, and its typed form while that is needed.

mod decoded;
pub mod labels;
mod meta;
mod text;

use std::any::Any;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::decoded::Decoded;
pub use self::meta::{Meta, OwnerRef};
use self::text::Text;
use crate::resource::Resource;
use crate::status::Status;

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default, borrow)]
    metadata: meta::Read<'a>,
}

/// An immutable API object. Cheap to share behind an `Arc`.
pub struct Object {
    text: Text,
    meta: meta::Held,
    revision: u64,
    typed: Decoded,
    selectable: OnceLock<Box<[String]>>,
    /// The conversion that is known to leave it as it is; 0 for none.
    left_by: AtomicU64,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Object({}@{})", self.key(), self.revision)
    }
}

impl Object {
    /// Takes the JSON of an object, with `metadata.resourceVersion` where it has one.
    ///
    /// # Errors
    /// The JSON error when the bytes are not a JSON object with fitting metadata.
    pub fn from_bytes(bytes: Bytes) -> Result<Object, serde_json::Error> {
        let head: Head<'_> = serde_json::from_slice(&bytes)?;
        let revision = head.metadata.resource_version.parse().unwrap_or(0);
        let sets = head.metadata.field_sets(&bytes);
        let meta = head.metadata.held(&bytes)?;
        Ok(Object {
            text: Text::new(bytes, &sets),
            meta,
            revision,
            typed: Decoded::default(),
            selectable: OnceLock::new(),
            left_by: AtomicU64::new(0),
        })
    }

    /// Serializes a value into an object.
    ///
    /// # Errors
    /// As [`Object::from_bytes`].
    pub fn from_value(value: &Value) -> Result<Object, serde_json::Error> {
        Object::from_bytes(Bytes::from(serde_json::to_vec(value)?))
    }

    /// The JSON, as served, in one piece.
    pub fn json(&self) -> Bytes {
        self.text.bytes()
    }

    /// The length of the JSON in bytes.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// Appends the JSON.
    pub fn write_json(&self, out: &mut BytesMut) {
        self.text.write(out);
    }

    /// Reads a part of the object, of which the managed fields are no part.
    ///
    /// # Errors
    /// The JSON error when the object is not such a `T`.
    pub fn part<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.without_managed_fields())
    }

    /// The metadata.
    pub fn meta(&self) -> Meta<'_> {
        self.meta.view()
    }

    /// The revision that `metadata.resourceVersion` spells; 0 when it has none.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `namespace/name`, or `name` for cluster-scoped objects.
    pub fn key(&self) -> &str {
        self.meta.key()
    }

    /// A fresh, mutable tree of the object.
    pub fn to_value(&self) -> Value {
        // The bytes were parsed when the object was made, so this cannot fail.
        serde_json::from_slice(&self.json()).unwrap_or(Value::Null)
    }

    /// The JSON with no managed fields: in many objects they are the larger part.
    fn without_managed_fields(&self) -> Bytes {
        match self.meta.managed() {
            None => self.json(),
            Some(at) => self.text.without(at).into(),
        }
    }

    /// The value of an annotation. Few are ever asked for, so they are read from the JSON.
    pub fn annotation(&self, name: &str) -> Option<String> {
        self.to_value()["metadata"]["annotations"][name].as_str().map(str::to_owned)
    }

    /// Whether a conversion is known to leave the object as it is.
    pub(crate) fn is_left_by(&self, conversion: u64) -> bool {
        self.left_by.load(Ordering::Relaxed) == conversion
    }

    /// Remembers that a conversion leaves the object as it is.
    pub(crate) fn set_left_by(&self, conversion: u64) {
        self.left_by.store(conversion, Ordering::Relaxed);
    }

    /// The value of a selectable field of the resource; empty when the object has none. The
    /// values are kept for the resource in whose version the object is stored; another version
    /// may name other fields.
    pub fn selectable(&self, resource: &Resource, path: &str) -> Cow<'_, str> {
        if !resource.is_storage() {
            return resource.strategy.field(&self.to_value(), path).unwrap_or_default().into();
        }
        let values = self.selectable.get_or_init(|| {
            let value = self.to_value();
            let fields = resource.selectable_fields.iter();
            fields.map(|f| resource.strategy.field(&value, f).unwrap_or_default()).collect()
        });
        let at = resource.selectable_fields.iter().position(|f| f == path);
        at.and_then(|i| values.get(i)).map(String::as_str).unwrap_or_default().into()
    }

    /// The typed form, shared while it is in use or was made lately. It is without
    /// `metadata.managedFields`, which nobody here reads and which would be half of it; an update
    /// without them leaves them as they are.
    ///
    /// # Errors
    /// A 500 `Status` that names the object when it does not decode as `K`.
    pub fn typed<K>(&self) -> Result<Arc<K>, Status>
    where
        K: DeserializeOwned + Any + Send + Sync,
    {
        if let Some(k) = self.typed.get() {
            return Ok(k);
        }
        let json = self.without_managed_fields();
        let decoded = serde_json::from_slice(&json).or_else(|_| {
            let mut value = serde_json::from_slice(&json)?;
            fill_in_times(&mut value);
            serde_json::from_value(value)
        });
        let k: K = decoded.map_err(|e| {
            Status::internal(format!("cannot decode {} as {}: {e}", self.key(), std::any::type_name::<K>()))
        })?;
        let k = Arc::new(k);
        self.typed.set(&k, json.len());
        Ok(k)
    }
}

/// Gives conditions without `lastTransitionTime` Go's zero time: it is required on paper, but no
/// server insists, and the typed form has no value for its absence.
fn fill_in_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for c in fields.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(c) = c.as_object_mut()
                    && c.get("lastTransitionTime").is_none_or(Value::is_null)
                {
                    c.insert("lastTransitionTime".into(), "0001-01-01T00:00:00Z".into());
                }
            }
            fields.values_mut().for_each(fill_in_times);
        }
        Value::Array(items) => items.iter_mut().for_each(fill_in_times),
        _ => {}
    }
}

/// `namespace/name`, or `name` when the namespace is empty.
pub fn key_of(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Splits what [`key_of`] made.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_typed_form_is_without_managed_fields() {
        let v = json!({"metadata": {"managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}], "name": "a"}});
        let service = Object::from_value(&v).unwrap().typed::<Service>().unwrap();
        assert_eq!((service.metadata.managed_fields.as_ref(), service.metadata.name.as_deref()), (None, Some("a")));
    }

    #[test]
    fn a_condition_without_a_time_does_not_hide_its_object() {
        let v = json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "A", "status": "True"}]}});
        let service = Object::from_value(&v).unwrap().typed::<Service>().unwrap();
        assert_eq!(service.status.as_ref().and_then(|s| s.conditions.as_ref()).map(Vec::len), Some(1));
    }
}
