//! Objects over the store: keys, encoding, and the one place where a store revision
//! becomes a `resourceVersion`.
//!
//! A stored value is one header, then the object's JSON with an empty
//! `metadata.resourceVersion`. The header says where the revision is to be spliced in, so
//! that reading an object needs no JSON encoder, and whether the write created the object,
//! so that a watch resumed from history can tell ADDED from MODIFIED.

use std::sync::Arc;

use api::{Object, Resource, Status};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use store::{Expect, Revision, Store};

/// Format byte of a plain (unsealed) value.
const PLAIN: u8 = 1;
const HEADER: usize = 6;
/// The largest object that is accepted, as etcd's default request limit.
pub const MAX_OBJECT_BYTES: usize = 1_572_864;

/// The key space of a resource: `/registry/<group or core>/<plural>/`.
pub fn prefix(resource: &Resource) -> String {
    let group = if resource.storage_group.is_empty() { "core" } else { &resource.storage_group };
    format!("/registry/{group}/{}/", resource.plural)
}

/// Encodes an object for the store.
///
/// # Errors
/// 413 when it is too large to be stored.
pub fn encode(value: &mut Value, created: bool) -> Result<Bytes, Status> {
    // A token that cannot occur in the object by chance or by malice marks where the
    // revision goes; nobody outside can know it.
    let token = format!("{:032x}", rand::random::<u128>());
    value["metadata"]["resourceVersion"] = Value::String(token.clone());
    let json = serde_json::to_vec(value).map_err(Status::internal)?;
    let at = memchr::memmem::find(&json, token.as_bytes())
        .ok_or_else(|| Status::internal("the encoder lost metadata.resourceVersion"))?;
    if json.len() > MAX_OBJECT_BYTES {
        return Err(Status::too_large(format!(
            "Request entity too large: limit is {MAX_OBJECT_BYTES} bytes, the object has {}",
            json.len()
        )));
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
/// 500 when the value was not written by [`encode`].
pub fn created(key: &str, value: &[u8]) -> Result<bool, Status> {
    if value.len() < HEADER || value[0] != PLAIN {
        return Err(broken(key, "has an unknown format"));
    }
    Ok(value[1] != 0)
}

/// Decodes a stored value at the revision that put it.
///
/// # Errors
/// 500 when the value was not written by [`encode`].
pub fn decode(key: &str, value: &[u8], revision: Revision) -> Result<Arc<Object>, Status> {
    created(key, value)?;
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
        store::Error::TooLarge { .. } => Status::too_large(e.to_string()),
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
    store: &dyn Store,
    prefix: &str,
    key: &str,
    mut value: Value,
    expect: Expect,
) -> Result<Arc<Object>, WriteError> {
    let bytes = encode(&mut value, expect == Expect::Absent)?;
    let full = format!("{prefix}{key}");
    match store.put(&full, bytes.clone(), expect).await {
        Ok(revision) => Ok(decode(&full, &bytes, revision)?),
        Err(store::Error::Conflict { .. }) => Err(WriteError::Conflict),
        Err(e) => Err(WriteError::Status(status_of(e))),
    }
}

/// Deletes an object that was last written at `revision`; returns the deletion's revision.
///
/// # Errors
/// See [`WriteError`].
pub async fn remove(store: &dyn Store, prefix: &str, key: &str, revision: Revision) -> Result<Revision, WriteError> {
    match store.delete(&format!("{prefix}{key}"), Expect::Revision(revision)).await {
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
        assert_eq!(object.meta().annotations["resourceVersion"], "\"resourceVersion\":\"\"");
        assert_eq!(object.key(), "b/a");
    }

    #[test]
    fn a_value_that_was_not_encoded_here_is_an_error() {
        assert!(decode("k", b"{}", 1).is_err());
        assert!(decode("k", &[PLAIN, 0, 255, 255, 0, 0, b'{'], 1).is_err());
    }
}
