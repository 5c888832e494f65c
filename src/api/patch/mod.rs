//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

/// A value without the nulls in its maps.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod fuzz_tests;
