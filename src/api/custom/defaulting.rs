//! Defaults of custom resources
//! (upstream: `apiextensions-apiserver/pkg/apiserver/schema/defaulting`).

use serde_json::{Map, Value};

use super::schema::Props;

/// Fills in what is absent. A null where null is no value counts as absent. Apply it to a whole
/// object: its type and metadata have no defaults.
pub fn apply(props: &Props, value: &mut Value) {
    match value {
        Value::Object(map) => object(props, map),
        Value::Array(items) => {
            if let Some(of) = props.items.as_deref() {
                items.iter_mut().for_each(|item| {
                    replace_null(of, item);
                    apply(of, item);
                });
            }
        }
        _ => {}
    }
}

fn replace_null(props: &Props, value: &mut Value) {
    if value.is_null()
        && !props.nullable
        && let Some(default) = &props.default
    {
        *value = default.clone();
    }
}

fn object(props: &Props, map: &mut Map<String, Value>) {
    for (name, of) in &props.properties {
        let Some(default) = &of.default else { continue };
        let absent = map.get(name).is_none_or(|v| v.is_null() && !of.nullable);
        if absent {
            map.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in map.iter_mut() {
        if let Some(of) = props.field(name) {
            if !props.properties.contains_key(name) {
                replace_null(of, value);
            }
            apply(of, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_are_filled_in_at_every_depth() {
        let props = Props::parse(&json!({"properties": {
            "a": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 1}}},
            "n": {"type": "string", "nullable": true, "default": "x"},
            "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"k": {"default": true}}}},
            "l": {"type": "array", "items": {"type": "string", "default": "i"}}}}));
        let filled = |mut v: Value| {
            apply(&props, &mut v);
            v
        };
        assert_eq!(filled(json!({})), json!({"a": {"b": 1}, "n": "x"}));
        assert_eq!(filled(json!({"a": null, "n": null})), json!({"a": {"b": 1}, "n": null}));
        assert_eq!(
            filled(json!({"a": {"b": 2}, "n": "y", "m": {"z": {}}, "l": [null, "j"]})),
            json!({"a": {"b": 2}, "n": "y", "m": {"z": {"k": true}}, "l": ["i", "j"]})
        );
    }
}
