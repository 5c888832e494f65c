//! JSON patch.

use json_patch::PatchOperation;
use serde_json::{Map, Value, json};

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
    let operations: Vec<Map<String, Value>> =
        serde_json::from_value(patch.clone()).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut value = current.clone();
    let mut copied = 0;
    for (i, operation) in operations.into_iter().enumerate() {
        let operation =
            as_understood(operation, &value).map_err(|why| unprocessable(format!("operation '/{i}': {why}")))?;
        copied += size_of_copy(&operation, &value);
        if copied > COPIES_MAX {
            return Err(unprocessable(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {COPIES_MAX}"
            )));
        }
        if nests_too_deeply(&operation, &value) {
            return Err(unprocessable(format!("operation '/{i}' makes the object nest too deeply")));
        }
        if !tests_for_absence(&operation, &value) {
            json_patch::patch(&mut value, std::slice::from_ref(&operation)).map_err(|mut e| {
                e.operation = i;
                unprocessable(e.to_string())
            })?;
        }
    }
    Ok(value)
}

/// An operation on a value as upstream's library understands it, which is more than RFC 6902 says: a
/// value that is not there is null, an index may count from the end or have zeros before it, a
/// field that is not there can be replaced and copied; but the root can only be replaced.
fn as_understood(mut operation: Map<String, Value>, value: &Value) -> Result<PatchOperation, String> {
    let kind = operation.get("op").and_then(Value::as_str).unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "add" | "replace" | "test") {
        operation.entry("value").or_insert(Value::Null);
    }
    for field in ["path", "from"] {
        let adds = field == "path" && matches!(kind.as_str(), "add" | "copy" | "move");
        match operation.get(field) {
            Some(Value::String(path)) if path.starts_with('/') => {
                let plain = match after_removal(&operation, path, value).filter(|_| kind == "move" && field == "path") {
                    Some(left) => with_plain_indexes(path, &left, adds),
                    None => with_plain_indexes(path, value, adds),
                };
                operation.insert(field.to_owned(), plain.into());
            }
            Some(Value::String(path)) if path.is_empty() && kind == "replace" => {}
            None if field == "from" && !matches!(kind.as_str(), "copy" | "move") => {}
            _ => return Err(format!("missing path in {field:?}")),
        }
    }
    let is_absent = |field: &str| {
        let Some(Value::String(path)) = operation.get(field) else { return false };
        let parent = path.rfind('/').and_then(|end| value.pointer(&path[..end]));
        value.pointer(path).is_none() && parent.is_some_and(Value::is_object)
    };
    if kind == "copy" && is_absent("from") {
        operation.insert("value".to_owned(), Value::Null);
        operation.insert("op".to_owned(), "add".into());
    } else if kind == "replace" && is_absent("path") {
        operation.insert("op".to_owned(), "add".into());
    }
    serde_json::from_value(Value::Object(operation)).map_err(|e| e.to_string())
}

/// What is left when a move has taken its value out, where that matters for an index.
fn after_removal(operation: &Map<String, Value>, path: &str, value: &Value) -> Option<Value> {
    let from = operation.get("from")?.as_str().filter(|_| path.contains("/-"))?;
    let mut left = value.clone();
    let remove = json!({"op": "remove", "path": with_plain_indexes(from, value, false)});
    json_patch::patch(&mut left, &[serde_json::from_value(remove).ok()?]).ok()?;
    Some(left)
}

/// A path with each index of a list as RFC 6902 writes it; an index that the list does not have stays
/// as it is. With `adds` the last one is a place between items, or behind them.
fn with_plain_indexes(path: &str, value: &Value, adds: bool) -> String {
    let (mut plain, mut at) = (String::new(), Some(value));
    let tokens: Vec<&str> = path.split('/').skip(1).collect();
    for (i, token) in tokens.iter().enumerate() {
        let places = match at {
            Some(Value::Array(list)) => Some(list.len() + usize::from(adds && i + 1 == tokens.len())),
            _ => None,
        };
        let index = places.and_then(|places| {
            let index: i64 = token.parse().ok()?;
            if index < 0 { places.checked_sub(index.unsigned_abs() as usize) } else { Some(index as usize) }
        });
        plain.push('/');
        match index {
            Some(index) => plain += &index.to_string(),
            None => plain += token,
        }
        at = at.and_then(|v| v.pointer(&plain[plain.rfind('/').unwrap_or_default()..]));
    }
    plain
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
    fn a_value_that_is_not_there_is_null_and_nothing_is_done_to_the_root() {
        let current = json!({"a": 1});
        let put = super::json(&current, &json!([{"op": "add", "path": "/b"}])).unwrap();
        assert_eq!(put, json!({"a": 1, "b": null}));
        for operation in [
            json!({"op": "add", "path": "", "value": {}}),
            json!({"op": "test", "path": "", "value": {"a": 1}}),
            json!({"op": "copy", "from": "", "path": "/b"}),
        ] {
            assert_eq!(super::json(&current, &json!([operation])).unwrap_err().code, 422);
        }
    }

    #[test]
    fn indexes_count_from_the_end_and_what_is_not_there_can_be_replaced() {
        let patched = |operation: Value| super::json(&json!({"l": [1, {"a": 2}], "m": {}}), &json!([operation]));
        for (operation, wanted) in [
            (json!({"op": "add", "path": "/l/-1", "value": 3}), json!({"l": [1, {"a": 2}, 3], "m": {}})),
            (json!({"op": "replace", "path": "/l/-1", "value": 3}), json!({"l": [1, 3], "m": {}})),
            (json!({"op": "replace", "path": "/l/-1/a", "value": 3}), json!({"l": [1, {"a": 3}], "m": {}})),
            (json!({"op": "remove", "path": "/l/-2"}), json!({"l": [{"a": 2}], "m": {}})),
            (json!({"op": "remove", "path": "/l/00"}), json!({"l": [{"a": 2}], "m": {}})),
            (json!({"op": "replace", "path": "/m/x", "value": 3}), json!({"l": [1, {"a": 2}], "m": {"x": 3}})),
            (json!({"op": "copy", "path": "/m/y", "from": "/m/x"}), json!({"l": [1, {"a": 2}], "m": {"y": null}})),
            (json!({"op": "move", "path": "/l/-1", "from": "/l/0"}), json!({"l": [{"a": 2}, 1], "m": {}})),
            (json!({"op": "replace", "path": "", "value": 3}), json!(3)),
        ] {
            assert_eq!(patched(operation.clone()).unwrap(), wanted, "{operation}");
        }
        for operation in [
            json!({"op": "remove", "path": "/l/-3"}),
            json!({"op": "replace", "path": "/l/2", "value": 3}),
            json!({"op": "replace", "path": "/x/y", "value": 3}),
            json!({"op": "remove", "path": "/m/x"}),
            json!({"op": "move", "path": "/m/x"}),
            json!({"op": "add", "value": 1}),
            json!({"op": "other", "path": "/m"}),
        ] {
            assert_eq!(patched(operation.clone()).unwrap_err().code, 422, "{operation}");
        }
    }

    #[test]
    fn malformed_patches_are_400() {
        assert_eq!(super::json(&json!({}), &json!({"op": "add"})).unwrap_err().code, 400);
        let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "", "value": {}})).collect();
        assert_eq!(super::json(&json!({}), &Value::Array(many)).unwrap_err().code, 413);
    }
}
