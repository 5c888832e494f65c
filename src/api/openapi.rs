//! OpenAPI documents, made from the table of resources and the committed definitions.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::resource::Resource;

/// The paths and URLs of the v3 documents: what `/openapi/v3` answers.
pub fn v3_index(_resources: &[Arc<Resource>]) -> Value {
    json!({"paths": {}})
}

/// The v3 document of one group and version.
pub fn v3(_group: &str, _version: &str, _resources: &[Arc<Resource>]) -> Value {
    json!({"openapi": "3.0.0"})
}

/// The v2 document of all.
pub fn v2(_resources: &[Arc<Resource>]) -> Value {
    json!({"swagger": "2.0"})
}

/// The protobuf form (gnostic `openapi.v2.Document`) of a v2 document.
pub fn v2_protobuf(_document: &Value) -> Vec<u8> {
    Vec::new()
}
