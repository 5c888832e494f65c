//! Validation of `metadata`, with upstream's messages.

use serde_json::Value;

use crate::field::ErrorList;

/// All that is wrong with the metadata of a new object.
pub fn validate_object_meta(_object: &Value, _namespaced: bool, _name_error: impl Fn(&str) -> Option<String>) -> ErrorList {
    ErrorList::new()
}

/// All that is wrong with a change of metadata.
pub fn validate_object_meta_update(_new: &Value, _old: &Value) -> ErrorList {
    ErrorList::new()
}
