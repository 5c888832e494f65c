//! Values against a structural schema, in upstream's words
//! (upstream: `apiextensions-apiserver/pkg/apiserver/validation`, `kube-openapi/pkg/validation`).
//!
//! An update is judged by what it changes: a part that is as it was before is not judged again
//! (KEP-4008, ratcheting).

use std::collections::HashSet;

use serde_json::Value;

use super::formats;
use super::schema::Props;
use crate::field::{ErrorKind, ErrorList, FieldError};

/// All that is wrong with a value at `path`.
pub fn validate(props: &Props, path: &str, value: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    check(props, path, value, old, &mut errors);
    errors
}

/// How Go's validator names the type of a value.
fn type_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(props: &Props, v: &Value) -> bool {
    if props.int_or_string {
        return matches!(type_of(v), "integer" | "string");
    }
    match (props.r#type.as_str(), v) {
        ("", _) => true,
        ("number", Value::Number(_)) => true,
        ("integer", Value::Number(n)) => n.as_f64().is_some_and(|f| f.fract() == 0.0),
        (wanted, v) => wanted == type_of(v),
    }
}

fn at(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn below(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn invalid(path: &str, value: &Value, what: &str) -> FieldError {
    FieldError::invalid(at(path), value.clone(), format!("{path} in body {what}"))
}

fn check(props: &Props, path: &str, value: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    if old == Some(value) {
        return;
    }
    if value.is_null() && props.nullable {
        return;
    }
    if !fits(props, value) {
        let wanted = if props.int_or_string { "integer,string" } else { &props.r#type };
        let found = type_of(value);
        errors.push(FieldError {
            kind: ErrorKind::TypeInvalid,
            field: at(path).to_owned(),
            value: Some(found.into()),
            detail: format!("{path} in body must be of type {wanted}: \"{found}\""),
        });
        return;
    }
    match value {
        Value::Object(_) => object(props, path, value, old, errors),
        Value::Array(items) => list(props, path, items, old, errors),
        Value::String(s) => string(props, path, value, s, errors),
        Value::Number(n) => number(props, path, value, n.as_f64().unwrap_or(0.0), errors),
        _ => {}
    }
    one_of_values(props, path, value, errors);
    combined(props, path, value, errors);
}

fn one_of_values(props: &Props, path: &str, value: &Value, errors: &mut ErrorList) {
    let Some(allowed) = &props.r#enum else { return };
    if allowed.contains(value) {
        return;
    }
    let texts: Vec<String> = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    errors.push(FieldError::not_supported(at(path), value.clone(), &texts));
}

fn object(props: &Props, path: &str, value: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let Some(map) = value.as_object() else { return };
    let count = map.len() as i64;
    if let Some(max) = props.max_properties.filter(|m| count > *m) {
        errors.push(FieldError::too_many(at(path), map.len(), max.unsigned_abs() as usize));
    }
    if let Some(min) = props.min_properties.filter(|m| count < *m) {
        errors.push(invalid(path, value, &format!("should have at least {min} properties")));
    }
    for name in props.required.iter().filter(|n| !map.contains_key(*n)) {
        errors.push(FieldError::required(below(path, name), ""));
    }
    for (name, v) in map {
        if let Some(of) = props.field(name) {
            check(of, &below(path, name), v, old.and_then(|o| o.get(name)), errors);
        }
    }
}

/// What identifies an item of a list of type `map`, as an object of its keys.
fn identity(props: &Props, item: &Value) -> Value {
    let of = props.items.as_deref();
    let keys = props.list_map_keys.iter().filter_map(|k| {
        let default = of.and_then(|p| p.properties.get(k)?.default.as_ref());
        Some((k.clone(), item.get(k).or(default)?.clone()))
    });
    Value::Object(keys.collect())
}

fn list(props: &Props, path: &str, items: &[Value], old: Option<&Value>, errors: &mut ErrorList) {
    let (count, whole) = (items.len() as i64, || Value::Array(items.to_vec()));
    if let Some(max) = props.max_items.filter(|m| count > *m) {
        errors.push(FieldError::too_many(at(path), items.len(), max.unsigned_abs() as usize));
    }
    if let Some(min) = props.min_items.filter(|m| count < *m) {
        errors.push(invalid(path, &whole(), &format!("should have at least {min} items")));
    }
    let identities: Option<Vec<Value>> = match props.list_type.as_str() {
        "set" => Some(items.to_vec()),
        "map" => Some(items.iter().map(|i| identity(props, i)).collect()),
        _ => None,
    };
    let mut seen = HashSet::new();
    for (i, id) in identities.iter().flatten().enumerate() {
        if !seen.insert(id.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), id.clone()));
        }
    }
    let Some(of) = props.items.as_deref() else { return };
    let before = old.and_then(Value::as_array);
    for (i, item) in items.iter().enumerate() {
        // Only items with an identity can be found again in the list before.
        let was = match (&identities, before) {
            (Some(ids), Some(before)) if props.list_type == "map" => {
                before.iter().find(|b| identity(props, b) == ids[i])
            }
            _ => None,
        };
        check(of, &format!("{path}[{i}]"), item, was, errors);
    }
}

fn string(props: &Props, path: &str, value: &Value, s: &str, errors: &mut ErrorList) {
    let length = s.chars().count() as i64;
    if let Some(max) = props.max_length.filter(|m| length > *m) {
        errors.push(FieldError::too_long(at(path), max.unsigned_abs() as usize));
    }
    if let Some(min) = props.min_length.filter(|m| length < *m) {
        errors.push(invalid(path, value, &format!("should be at least {min} chars long")));
    }
    if let Some(p) = &props.pattern
        && p.regex.as_ref().is_some_and(|r| !r.is_match(s))
    {
        errors.push(invalid(path, value, &format!("should match '{}'", p.text)));
    }
    if !props.format.is_empty() && !props.int_or_string && !formats::fits(&props.format, s) {
        errors.push(invalid(path, value, &format!("must be of type {}: {s:?}", props.format)));
    }
}

/// A bound as Go prints it.
fn shown(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e15 { format!("{}", n as i64) } else { format!("{n}") }
}

fn number(props: &Props, path: &str, value: &Value, n: f64, errors: &mut ErrorList) {
    if let Some(max) = props.maximum {
        let (wrong, word) =
            if props.exclusive_maximum { (n >= max, "less than") } else { (n > max, "less than or equal to") };
        if wrong {
            errors.push(invalid(path, value, &format!("should be {word} {}", shown(max))));
        }
    }
    if let Some(min) = props.minimum {
        let (wrong, word) =
            if props.exclusive_minimum { (n <= min, "greater than") } else { (n < min, "greater than or equal to") };
        if wrong {
            errors.push(invalid(path, value, &format!("should be {word} {}", shown(min))));
        }
    }
    if let Some(of) = props.multiple_of.filter(|m| *m != 0.0)
        && ((n / of) - (n / of).round()).abs() > 1e-9
    {
        errors.push(invalid(path, value, &format!("should be a multiple of {}", shown(of))));
    }
}

fn combined(props: &Props, path: &str, value: &Value, errors: &mut ErrorList) {
    let holds = |p: &Props| validate(p, path, value, None).is_empty();
    let mut wrong = |what: String| errors.push(FieldError::invalid(at(path), "", format!("{path:?} {what}")));
    if !props.any_of.is_empty() && !props.any_of.iter().any(holds) {
        wrong("must validate at least one schema (anyOf)".into());
    }
    if !props.one_of.is_empty() {
        match props.one_of.iter().filter(|p| holds(p)).count() {
            1 => {}
            0 => wrong("must validate one and only one schema (oneOf). Found none valid".into()),
            n => wrong(format!("must validate one and only one schema (oneOf). Found {n} valid alternatives")),
        }
    }
    if props.not.as_deref().is_some_and(holds) {
        wrong("must not validate the schema (not)".into());
    }
    if !props.all_of.is_empty() {
        let failing: Vec<&Props> = props.all_of.iter().filter(|p| !holds(p)).collect();
        if !failing.is_empty() {
            let none = if failing.len() == props.all_of.len() { ". None validated" } else { "" };
            wrong(format!("must validate all the schemas (allOf){none}"));
        }
        for p in failing {
            check(p, path, value, None, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: Value, value: Value) -> Vec<String> {
        validate(&Props::parse(&schema), "spec", &value, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_keyword_speaks_as_upstream() {
        let cases = [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "number", "maximum": 1, "exclusiveMaximum": true}),
                json!(1),
                "spec: Invalid value: 1: spec in body should be less than 1",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "spec: Invalid value: 4: spec in body should be a multiple of 3",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"spec: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "string", "pattern": "^a$"}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body should match '^a$'",
            ),
            (json!({"type": "string", "maxLength": 1}), json!("bb"), "spec: Too long: may not be more than 1 bytes"),
            (
                json!({"type": "string", "minLength": 2}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body should be at least 2 chars long",
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body must be of type ipv4: \"b\"",
            ),
            (json!({"type": "array", "maxItems": 1}), json!([1, 2]), "spec: Too many: 2: must have at most 1 items"),
            (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
            (
                json!({"type": "array", "x-kubernetes-list-type": "set"}),
                json!(["a", "a"]),
                "spec[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
                json!([{"k": 1, "v": 1}, {"k": 1}]),
                "spec[1]: Duplicate value: {\"k\":1}",
            ),
            (
                json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({}),
                r#"spec: Invalid value: "": "spec" must validate at least one schema (anyOf)"#,
            ),
            (
                json!({"not": {"required": ["a"]}}),
                json!({"a": 1}),
                r#"spec: Invalid value: "": "spec" must not validate the schema (not)"#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#,
            ),
        ];
        for (schema, value, wanted) in cases {
            assert_eq!(said(schema, value), [wanted]);
        }
        assert!(said(json!({"type": "string", "nullable": true}), Value::Null).is_empty());
        assert_eq!(said(json!({"type": "string"}), Value::Null).len(), 1);
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let props = Props::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1}}}));
        let old = json!({"a": "long", "b": "x"});
        let errors = |new: Value| validate(&props, "spec", &new, Some(&old)).len();
        assert_eq!(errors(json!({"a": "long", "b": "y"})), 0);
        assert_eq!(errors(json!({"a": "longer", "b": "y"})), 1);
        assert_eq!(errors(json!({"a": "long", "b": "long"})), 1);
    }
}
