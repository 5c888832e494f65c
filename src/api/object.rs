//! One API object as everyone in the process shares it: its serialized bytes once,
//! its metadata and its typed form decoded at most once, lazily.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::resource::Resource;
use crate::status::Status;

/// An owner reference, as far as the machinery needs it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerRef {
    /// `apps/v1`
    pub api_version: String,
    /// `ReplicaSet`
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's UID.
    pub uid: String,
    /// Whether this owner manages the object.
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for the object.
    pub block_owner_deletion: bool,
}

/// The part of `metadata` that generic machinery reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// The revision, as a decimal string.
    pub resource_version: String,
    /// Generation.
    pub generation: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// Owners.
    pub owner_references: Vec<OwnerRef>,
    /// RFC 3339 creation time.
    pub creation_timestamp: Option<String>,
    /// Set once deletion has been requested.
    pub deletion_timestamp: Option<String>,
    /// Seconds of grace left to the object.
    pub deletion_grace_period_seconds: Option<i64>,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Meta,
}

/// An immutable API object. Cheap to share behind an `Arc`.
pub struct Object {
    bytes: Bytes,
    meta: Meta,
    revision: u64,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
    selectable: OnceLock<Box<[String]>>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Object({}/{}@{})", self.meta.namespace, self.meta.name, self.revision)
    }
}

impl Object {
    /// Takes the JSON of an object, with `metadata.resourceVersion` where it has one.
    ///
    /// # Errors
    /// The JSON error when the bytes are not a JSON object with fitting metadata.
    pub fn from_bytes(bytes: Bytes) -> Result<Object, serde_json::Error> {
        let head: Head = serde_json::from_slice(&bytes)?;
        let revision = head.metadata.resource_version.parse().unwrap_or(0);
        Ok(Object { bytes, meta: head.metadata, revision, typed: OnceLock::new(), selectable: OnceLock::new() })
    }

    /// Serializes a value into an object.
    ///
    /// # Errors
    /// As [`Object::from_bytes`].
    pub fn from_value(value: &Value) -> Result<Object, serde_json::Error> {
        Object::from_bytes(Bytes::from(serde_json::to_vec(value)?))
    }

    /// The JSON, as served.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The metadata.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The revision that `metadata.resourceVersion` spells; 0 when it has none.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `namespace/name`, or `name` for cluster-scoped objects.
    pub fn key(&self) -> String {
        key_of(&self.meta.namespace, &self.meta.name)
    }

    /// A fresh, mutable tree of the object.
    pub fn to_value(&self) -> Value {
        // The bytes were parsed when the object was made, so this cannot fail.
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The values of the resource's selectable fields, in their order; computed at the first
    /// call. An object belongs to one resource, so the answer never changes.
    pub fn selectable(&self, resource: &Resource) -> &[String] {
        self.selectable.get_or_init(|| {
            let value = self.to_value();
            let fields = resource.selectable_fields.iter();
            fields.map(|f| resource.strategy.field(&value, f).unwrap_or_default()).collect()
        })
    }

    /// The typed form; decoded at the first call, shared by all later ones.
    ///
    /// # Errors
    /// A 500 `Status` that names the object when it does not decode as `K`.
    pub fn typed<K: DeserializeOwned + Any + Send + Sync>(&self) -> Result<Arc<K>, Status> {
        if let Some(any) = self.typed.get()
            && let Ok(k) = Arc::downcast::<K>(any.clone())
        {
            return Ok(k);
        }
        let k: Arc<K> = Arc::new(serde_json::from_slice(&self.bytes).map_err(|e| {
            Status::internal(format!("cannot decode {} as {}: {e}", self.key(), std::any::type_name::<K>()))
        })?);
        // A different type was cached first, or another thread was faster: both are fine.
        let _ = self.typed.set(k.clone());
        Ok(k)
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
