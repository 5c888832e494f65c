//! Merge patch (RFC 7386).

use serde_json::Value;

/// Applies a merge patch: maps are merged, null removes, all else replaces.
pub fn merge(current: &Value, patch: &Value) -> Value {
    let mut value = current.clone();
    json_patch::merge(&mut value, patch);
    value
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
    }
}
