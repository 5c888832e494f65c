//! JSON patch.

use serde_json::Value;

use crate::status::Status;

/// The limit on operations that upstream sets.
pub const OPERATIONS_MAX: usize = 10_000;

/// Applies a JSON patch.
///
/// # Errors
/// 400 when the patch is malformed, 413 when it is too large, 422 when it does not apply.
pub fn json(current: &Value, patch: &Value) -> Result<Value, Status> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if operations.0.len() > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.0.len()
        )));
    }
    let mut value = current.clone();
    json_patch::patch(&mut value, &operations).map_err(|e| unprocessable(e.to_string()))?;
    Ok(value)
}

/// 422 without a list of causes, as upstream answers a patch that does not apply.
fn unprocessable(message: String) -> Status {
    let mut s = Status::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {message}"));
    s.details = Some(Default::default());
    s
}
