//! Objects over the store: keys, encoding, and the one place where a store revision
//! becomes a `resourceVersion`.
//!
//! A stored value is one header, then the object's JSON with an empty
//! `metadata.resourceVersion`. The header says where the revision is to be spliced in, so
//! that reading an object needs no JSON encoder, and whether the write created the object,
//! so that a watch resumed from history can tell ADDED from MODIFIED. Of what the
//! [`Keyring`] seals, all but format and that last byte of the header is sealed.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Object, Resource, Status};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use store::{Expect, KeyValue, Revision, Store};

use crate::encryption::Keyring;

/// Format byte of a plain (unsealed) value.
const PLAIN: u8 = 1;
/// Format byte of a sealed value.
const SEALED: u8 = 2;
/// Format, and whether the write created the object: what stays readable.
const OPEN: usize = 2;
const HEADER: usize = 6;
/// The largest object that is accepted, as etcd's default request limit.
pub const MAX_OBJECT_BYTES: usize = 1_572_864;

/// The key space of a resource: `/registry/<group or core>/<plural>/`.
pub fn prefix(resource: &Resource) -> String {
    prefix_of(&resource.storage_group, &resource.plural)
}

/// As [`prefix`], of what is stored in a group under a plural name.
pub fn prefix_of(group: &str, plural: &str) -> String {
    format!("/registry/{}/{plural}/", if group.is_empty() { "core" } else { group })
}

/// What upstream passes on from etcd.
fn too_large() -> Status {
    Status::new(500, "", "etcdserver: request is too large")
}

/// Encodes an object for the store.
///
/// # Errors
/// 500, as upstream, when it is too large to be stored.
fn encode(value: &mut Value, created: bool) -> Result<Bytes, Status> {
    // A token that cannot occur in the object by chance or by malice marks where the
    // revision goes; nobody outside can know it.
    let token = format!("{:032x}", rand::random::<u128>());
    value["metadata"]["resourceVersion"] = Value::String(token.clone());
    let json = serde_json::to_vec(value).map_err(Status::internal)?;
    let at = memchr::memmem::find(&json, token.as_bytes())
        .ok_or_else(|| Status::internal("the encoder lost metadata.resourceVersion"))?;
    if json.len() > MAX_OBJECT_BYTES {
        return Err(too_large());
    }
    let mut out = BytesMut::with_capacity(HEADER + json.len());
    out.put_u8(PLAIN);
    out.put_u8(u8::from(created));
    out.put_u32_le(at as u32);
    out.put_slice(&json[..at]);
    out.put_slice(&json[at + token.len()..]);
    Ok(out.freeze())
}

/// Whether the write that stored a value created the object.
///
/// # Errors
/// 500 when the value was not written by [`write`].
pub fn created(key: &str, value: &[u8]) -> Result<bool, Status> {
    if value.len() < HEADER || !matches!(value[0], PLAIN | SEALED) {
        return Err(broken(key, "has an unknown format"));
    }
    Ok(value[1] != 0)
}

/// What is sealed of a value; `None` of a plain one.
pub fn sealed_part(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(&[SEALED]).and_then(|rest| rest.get(OPEN - 1..))
}

/// The store, and the keys that some values in it are sealed with.
pub struct Storage {
    store: Arc<dyn Store>,
    keys: Arc<Keyring>,
    transient: BTreeSet<String>,
}

impl Storage {
    /// A store whose values are sealed as `keys` says.
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keyring>) -> Storage {
        Storage { store, keys, transient: BTreeSet::new() }
    }

    /// The same, in which writes to the key spaces of these resources may wait for others.
    pub fn with_transient(self, resources: &[Arc<Resource>]) -> Storage {
        let transient = resources.iter().filter(|r| r.stored && r.strategy.is_transient());
        Storage { transient: transient.map(|r| prefix(r)).collect(), ..self }
    }

    /// The key spaces of what expires.
    pub fn transient(&self) -> &BTreeSet<String> {
        &self.transient
    }

    /// The store, for what needs no values.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether the store can be read.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn ping(&self) -> Result<(), Status> {
        self.store.get("/").await.map(drop).map_err(status_of)
    }

    /// The keys.
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// Whether a value can be opened, if it has to be.
    pub fn can_open(&self, value: &[u8]) -> bool {
        sealed_part(value).is_none_or(|sealed| self.keys.knows(sealed))
    }

    /// Decodes a stored value at the revision that put it.
    ///
    /// # Errors
    /// 500 when the value was not written by [`write`], or its key is not there.
    pub fn decode(&self, key: &str, value: &[u8], revision: Revision) -> Result<Arc<Object>, Status> {
        created(key, value)?;
        match sealed_part(value) {
            None => decode(key, value, revision),
            Some(sealed) => decode(key, &self.open(key, value, sealed)?, revision),
        }
    }

    /// The plain form of a sealed value.
    fn open(&self, key: &str, value: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Status> {
        let opened = self.keys.open(key, sealed).map_err(|e| Status::internal_plain(e.to_string()))?;
        Ok([&[PLAIN], &value[1..OPEN], &opened].concat())
    }

    /// The form in which a plain value is stored.
    fn sealed(&self, prefix: &str, key: &str, plain: &Bytes) -> Result<Bytes, Status> {
        let sealed = self.keys.seal(prefix, key, &plain[OPEN..]).map_err(|e| Status::internal_plain(e.to_string()))?;
        Ok(match sealed {
            None => plain.clone(),
            Some(sealed) => [&[SEALED], &plain[1..OPEN], &sealed].concat().into(),
        })
    }

    /// Stores an entry again, in the form that values now have; one that has changed since it was
    /// read has that form already.
    ///
    /// # Errors
    /// 500 when the store refuses it, or it cannot be opened.
    pub async fn rewrite(&self, prefix: &str, entry: &KeyValue) -> Result<(), Status> {
        created(&entry.key, &entry.value)?;
        let mut plain = match sealed_part(&entry.value) {
            None => entry.value.to_vec(),
            Some(sealed) => self.open(&entry.key, &entry.value, sealed)?,
        };
        plain[1] = u8::from(false);
        let stored = self.sealed(prefix, &entry.key, &plain.into())?;
        match self.store.put(&entry.key, stored, Expect::Revision(entry.revision)).await {
            Ok(_) | Err(store::Error::Conflict { .. }) => Ok(()),
            Err(e) => Err(status_of(e)),
        }
    }
}

/// Decodes a plain value at the revision that put it.
fn decode(key: &str, value: &[u8], revision: Revision) -> Result<Arc<Object>, Status> {
    if value.len() < HEADER {
        return Err(broken(key, "is cut short"));
    }
    let at = u32::from_le_bytes([value[2], value[3], value[4], value[5]]) as usize;
    let json = &value[HEADER..];
    if at > json.len() {
        return Err(broken(key, "is cut short"));
    }
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(json.len() + digits.len());
    out.put_slice(&json[..at]);
    out.put_slice(digits.as_bytes());
    out.put_slice(&json[at..]);
    let object = Object::from_bytes(out.freeze()).map_err(|e| broken(key, &format!("is not an object: {e}")))?;
    Ok(Arc::new(object))
}

fn broken(key: &str, what: &str) -> Status {
    Status::internal(format!("the stored value of {key} {what}"))
}

/// The object with another resourceVersion: the last state of a deleted object carries
/// the revision of its deletion.
pub fn at_revision(object: &Object, revision: Revision) -> Result<Arc<Object>, Status> {
    let mut v = object.to_value();
    v["metadata"]["resourceVersion"] = Value::String(revision.to_string());
    Ok(Arc::new(Object::from_value(&v).map_err(Status::internal)?))
}

/// Why a conditional write failed.
#[derive(Debug)]
// Failures are rare: a box would cost more to read than it saves.
#[allow(clippy::large_enum_variant)]
pub enum WriteError {
    /// The key was not as expected: the caller reads again and decides.
    Conflict,
    /// Anything else, ready for the client.
    Status(Status),
}

impl From<Status> for WriteError {
    fn from(s: Status) -> Self {
        WriteError::Status(s)
    }
}

/// What a store error means to a client.
pub fn status_of(e: store::Error) -> Status {
    match e {
        store::Error::TooLarge { .. } => too_large(),
        store::Error::Closed => Status::unavailable("the server is shutting down"),
        store::Error::Compacted { .. } => Status::expired(e.to_string()),
        other => {
            tracing::error!(error = %other, "the store refused an operation");
            Status::internal(other)
        }
    }
}

/// Writes an object under `prefix` and returns it with its new revision.
///
/// # Errors
/// See [`WriteError`].
pub async fn write(
    storage: &Storage,
    prefix: &str,
    key: &str,
    mut value: Value,
    expect: Expect,
) -> Result<Arc<Object>, WriteError> {
    let plain = encode(&mut value, expect == Expect::Absent)?;
    let full = format!("{prefix}{key}");
    let _turn = storage.keys.turn(prefix).await;
    let stored = storage.sealed(prefix, &full, &plain)?;
    let put = match storage.transient.contains(prefix) {
        true => storage.store.put_unhurried(&full, stored, expect).await,
        false => storage.store.put(&full, stored, expect).await,
    };
    match put {
        Ok(revision) => Ok(decode(&full, &plain, revision)?),
        Err(store::Error::Conflict { .. }) => Err(WriteError::Conflict),
        Err(e) => Err(WriteError::Status(status_of(e))),
    }
}

/// Deletes an object that was last written at `revision`; returns the deletion's revision.
///
/// # Errors
/// See [`WriteError`].
pub async fn remove(storage: &Storage, prefix: &str, key: &str, revision: Revision) -> Result<Revision, WriteError> {
    let (full, expect) = (format!("{prefix}{key}"), Expect::Revision(revision));
    let deleted = match storage.transient.contains(prefix) {
        true => storage.store.delete_unhurried(&full, expect).await,
        false => storage.store.delete(&full, expect).await,
    };
    match deleted {
        Ok(r) => Ok(r),
        Err(store::Error::Conflict { .. }) => Err(WriteError::Conflict),
        Err(e) => Err(WriteError::Status(status_of(e))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_encoded_object_decodes_with_its_revision_in_place() {
        let mut v = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "b",
            "annotations": {"resourceVersion": "\"resourceVersion\":\"\""}}});
        let bytes = encode(&mut v, true).unwrap();
        assert!(created("k", &bytes).unwrap());
        let object = decode("k", &bytes, 42).unwrap();
        assert_eq!(object.revision(), 42);
        assert_eq!(object.annotation("resourceVersion").as_deref(), Some("\"resourceVersion\":\"\""));
        assert_eq!(object.key(), "b/a");
    }

    #[test]
    fn a_value_that_was_not_encoded_here_is_an_error() {
        assert!(decode("k", b"{}", 1).is_err());
        assert!(decode("k", &[PLAIN, 0, 255, 255, 0, 0, b'{'], 1).is_err());
    }
}
