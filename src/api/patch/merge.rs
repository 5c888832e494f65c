//! Merge patch (RFC 7386).

use serde_json::Value;

use super::without_nulls;

/// Applies a merge patch: maps are merged, null removes, all else replaces. As upstream, nulls in the
/// maps of a list's items remove, too, though there is nothing to remove.
pub fn merge(current: &Value, patch: &Value) -> Value {
    let mut value = current.clone();
    json_patch::merge(&mut value, &with_plain_lists(patch));
    value
}

fn with_plain_lists(patch: &Value) -> Value {
    match patch {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), with_plain_lists(v))).collect(),
        Value::Array(_) => without_nulls(patch.clone()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_removes_and_lists_are_replaced() {
        let current = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        assert_eq!(
            merge(&current, &json!({"a": {"b": null, "d": 3}, "l": [3]})),
            json!({"a": {"c": 2, "d": 3}, "l": [3]})
        );
        assert_eq!(merge(&current, &json!({"l": [{"x": null, "y": [{"z": null}]}]}))["l"], json!([{"y": [{}]}]));
    }
}
