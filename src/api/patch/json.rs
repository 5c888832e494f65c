//! JSON patch.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::codec::{NESTING_MAX, nests_deeper};
use crate::status::{Cause, Details, Status};

/// The limit on operations that upstream sets.
pub const OPERATIONS_MAX: usize = 10_000;

/// What copies may add to an object, in bytes of JSON, as upstream: each can double what there is.
const COPIES_MAX: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
///
/// # Errors
/// 400 when the patch is malformed, 413 when it is too large, 422 when it does not apply.
pub fn json(current: &Value, patch: &Value) -> Result<Value, Status> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if operations.0.len() > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.0.len()
        )));
    }
    let mut value = current.clone();
    let mut copied = 0;
    for (i, operation) in operations.0.iter().enumerate() {
        copied += size_of_copy(operation, &value);
        if copied > COPIES_MAX {
            return Err(unprocessable(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {COPIES_MAX}"
            )));
        }
        if nests_too_deeply(operation, &value) {
            return Err(unprocessable(format!("operation '/{i}' makes the object nest too deeply")));
        }
        if !tests_for_absence(operation, &value) {
            json_patch::patch(&mut value, std::slice::from_ref(operation)).map_err(|mut e| {
                e.operation = i;
                unprocessable(e.to_string())
            })?;
        }
    }
    Ok(value)
}

/// Upstream's library takes what is absent from an object for null, and clients count on it before
/// they add the first finalizer.
fn tests_for_absence(operation: &PatchOperation, value: &Value) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let parent = path.rfind('/').and_then(|end| value.pointer(&path[..end]));
    test.value.is_null() && parent.is_some_and(Value::is_object) && value.pointer(path).is_none()
}

/// The bytes of JSON that an operation copies.
fn size_of_copy(operation: &PatchOperation, value: &Value) -> usize {
    let PatchOperation::Copy(copy) = operation else { return 0 };
    value.pointer(copy.from.as_str()).map_or(0, |from| from.to_string().len())
}

/// Whether an operation puts something deeper than objects may nest. Each could go on below the last.
fn nests_too_deeply(operation: &PatchOperation, value: &Value) -> bool {
    let (path, put) = match operation {
        PatchOperation::Add(o) => (&o.path, Some(&o.value)),
        PatchOperation::Replace(o) => (&o.path, Some(&o.value)),
        PatchOperation::Copy(o) => (&o.path, value.pointer(o.from.as_str())),
        PatchOperation::Move(o) if o.path.tokens().count() > o.from.tokens().count() => {
            (&o.path, value.pointer(o.from.as_str()))
        }
        _ => return false,
    };
    let left = NESTING_MAX.checked_sub(path.tokens().count());
    put.is_some_and(|v| left.is_none_or(|left| nests_deeper(v, left)))
}

/// 422 with upstream's fixed message for a patch that does not apply; why is told as a cause.
pub(super) fn unprocessable(why: String) -> Status {
    let mut s = Status::new(422, "Invalid", "the server rejected our request due to an error in our request");
    let cause = Cause { message: why, ..Default::default() };
    s.details = Some(Details { causes: vec![cause], ..Default::default() });
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order_or_not_at_all() {
        let current = json!({"a": [1, 2], "b": {"c": 1}});
        let patch = json!([
            {"op": "test", "path": "/b/c", "value": 1},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/b/c", "value": 2},
            {"op": "copy", "from": "/b", "path": "/d"}
        ]);
        assert_eq!(super::json(&current, &patch).unwrap(), json!({"a": [2, 3], "b": {"c": 2}, "d": {"c": 2}}));
        let e = super::json(&current, &json!([{"op": "test", "path": "/b/c", "value": 2}])).unwrap_err();
        assert_eq!((e.code, e.reason.as_str()), (422, "Invalid"));
        assert_eq!(e.message, "the server rejected our request due to an error in our request");
    }

    #[test]
    fn what_is_absent_is_null_to_a_test() {
        let current = json!({"metadata": {"name": "a"}});
        let first = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["a"]}
        ]);
        let once = super::json(&current, &first).unwrap();
        assert_eq!(once["metadata"]["finalizers"], json!(["a"]));
        assert_eq!(super::json(&once, &first).unwrap_err().code, 422);
        let nowhere = json!([{"op": "test", "path": "/spec/a", "value": null}]);
        assert_eq!(super::json(&current, &nowhere).unwrap_err().code, 422);
    }

    #[test]
    fn malformed_patches_are_400() {
        assert_eq!(super::json(&json!({}), &json!({"op": "add"})).unwrap_err().code, 400);
        let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "", "value": {}})).collect();
        assert_eq!(super::json(&json!({}), &Value::Array(many)).unwrap_err().code, 413);
    }
}
