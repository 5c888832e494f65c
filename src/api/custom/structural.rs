//! What a definition's schemas must be like: structural
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>).

use kube_cel::CompiledSchema;
use serde_json::Value;

use super::compiled::{compiled, has_rules};
use super::schema::{Pattern, Props};
use super::{costs, defaulting, text, texts, validation};
use crate::field::{ErrorList, FieldError};

/// Nesting that is followed; upstream's cost limits end before.
const DEPTH: usize = 64;

/// Checks the schema of a version.
pub(super) fn check(schema: &Value, path: &str, _has_status: bool, errors: &mut ErrorList) {
    if text(&schema["type"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), "must not be empty at the root"));
    } else if schema["type"] != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), text(&schema["type"]), "must be object at the root"));
    }
    node(schema, path, Place::Root, 0, errors);
    if errors.is_empty() {
        defaults(schema, path, errors);
    }
    if errors.is_empty() && has_rules(schema) {
        match compiled(schema) {
            Ok(compiled) => rules(&compiled, path, errors),
            Err(e) => {
                errors.push(FieldError::invalid(path, "", format!("x-kubernetes-validations: compilation failed: {e}")))
            }
        }
        if errors.is_empty() {
            costs::check(schema, path, errors);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Field,
    Item,
    /// Inside `allOf`, `anyOf`, `oneOf` or `not`, where values are judged and nothing is declared.
    Junctor,
}

fn node(schema: &Value, path: &str, place: Place, depth: usize, errors: &mut ErrorList) {
    if depth > DEPTH {
        errors.push(FieldError::invalid(path, "", "the schema is nested too deeply"));
        return;
    }
    declared(schema, path, place, errors);
    lists(schema, path, errors);
    if let Some(p) = schema["pattern"].as_str()
        && !p.is_empty()
        && Pattern::new(p).regex.is_none()
    {
        errors.push(FieldError::invalid(
            format!("{path}.pattern"),
            p,
            "must be a valid regular expression of at most 1 MiB when compiled",
        ));
    }
    let inner = |p: Place| if place == Place::Junctor { Place::Junctor } else { p };
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        node(of, &format!("{path}.properties[{name}]"), inner(Place::Field), depth + 1, errors);
    }
    for (field, p) in [("items", Place::Item), ("additionalProperties", Place::Field)] {
        if schema[field].is_object() {
            node(&schema[field], &format!("{path}.{field}"), inner(p), depth + 1, errors);
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (i, of) in schema[field].as_array().into_iter().flatten().enumerate() {
            node(of, &format!("{path}.{field}[{i}]"), Place::Junctor, depth + 1, errors);
        }
    }
    if schema["not"].is_object() {
        node(&schema["not"], &format!("{path}.not"), Place::Junctor, depth + 1, errors);
    }
}

/// What may be declared where.
fn declared(schema: &Value, path: &str, place: Place, errors: &mut ErrorList) {
    let kind = text(&schema["type"]);
    let (open, either) =
        (schema["x-kubernetes-preserve-unknown-fields"] == true, schema["x-kubernetes-int-or-string"] == true);
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    if !kind.is_empty() && !TYPES.contains(&kind.as_str()) {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind.as_str(), &TYPES));
    }
    if place == Place::Junctor {
        for field in ["description", "type", "default", "additionalProperties", "nullable"] {
            let allowed = either || schema.get(field).is_none_or(|v| v.is_null() || v == false || v == "");
            // Upstream allows the two types in anyOf of an int-or-string.
            let of_either = field == "type" && matches!(kind.as_str(), "integer" | "string");
            if !allowed && !of_either {
                errors.push(FieldError::forbidden(
                    format!("{path}.{field}"),
                    "must not be set inside of allOf, anyOf, oneOf or not",
                ));
            }
        }
        return;
    }
    if kind.is_empty() && !open && !either && place != Place::Root {
        let what = if place == Place::Item { "array items" } else { "object fields" };
        errors.push(FieldError::required(format!("{path}.type"), format!("must not be empty for specified {what}")));
    }
    if schema["uniqueItems"] == true {
        errors.push(FieldError::forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    if schema["properties"].as_object().is_some_and(|p| !p.is_empty())
        && schema.get("additionalProperties").is_some_and(|v| !v.is_null() && v != false)
    {
        errors.push(FieldError::forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    if kind == "array" && schema["items"].is_null() && place != Place::Root {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if schema["x-kubernetes-embedded-resource"] == true && kind != "object" {
        errors.push(FieldError::invalid(
            format!("{path}.type"),
            kind,
            "must be object if x-kubernetes-embedded-resource is true",
        ));
    }
}

fn lists(schema: &Value, path: &str, errors: &mut ErrorList) {
    let list_type = text(&schema["x-kubernetes-list-type"]);
    let keys = texts(&schema["x-kubernetes-list-map-keys"]);
    match list_type.as_str() {
        "" | "atomic" | "set" => {
            if !keys.is_empty() {
                errors.push(FieldError::forbidden(
                    format!("{path}.x-kubernetes-list-map-keys"),
                    "must be empty if x-kubernetes-list-type is not map",
                ));
            }
        }
        "map" if keys.is_empty() => {
            errors.push(FieldError::required(
                format!("{path}.x-kubernetes-list-map-keys"),
                "must not be empty if x-kubernetes-list-type is map",
            ));
        }
        "map" => {
            let items = &schema["items"];
            for (i, key) in keys.iter().enumerate() {
                let of = &items["properties"][key];
                let at = format!("{path}.x-kubernetes-list-map-keys[{i}]");
                if of.is_null() {
                    let why = "entries must all be names of item properties";
                    errors.push(FieldError::invalid(at, key.as_str(), why));
                } else if of["default"].is_null() && !texts(&items["required"]).contains(key) {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.push(FieldError::required(format!("{path}.items.properties[{key}].default"), why));
                }
            }
        }
        other => {
            errors.push(FieldError::not_supported(
                format!("{path}.x-kubernetes-list-type"),
                other,
                &["atomic", "map", "set"],
            ));
        }
    }
    if list_type == "set" && schema["items"]["type"] == "object" && schema["items"]["x-kubernetes-map-type"] != "atomic"
    {
        errors.push(FieldError::invalid(
            format!("{path}.items.x-kubernetes-map-type"),
            "",
            "must be atomic as item of a list with x-kubernetes-list-type=set",
        ));
    }
    if !list_type.is_empty() && schema["type"] != "array" {
        errors.push(FieldError::invalid(
            format!("{path}.type"),
            text(&schema["type"]),
            format!("must be array if x-kubernetes-list-type is specified as {list_type}"),
        ));
    }
}

/// A default must itself be what its schema demands, once it is complete.
fn defaults(schema: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        let props = Props::parse(schema);
        let mut value = default.clone();
        defaulting::apply(&props, &mut value);
        errors.extend(validation::validate(&props, &format!("{path}.default"), &value, None));
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        defaults(of, &format!("{path}.properties[{name}]"), errors);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            defaults(&schema[field], &format!("{path}.{field}"), errors);
        }
    }
}

/// Rules must compile.
fn rules(schema: &CompiledSchema, path: &str, errors: &mut ErrorList) {
    for (i, rule) in schema.validations.iter().enumerate() {
        if let Err(e) = rule {
            let at = format!("{path}.x-kubernetes-validations[{i}].rule");
            errors.push(FieldError::invalid(at, "", format!("compilation failed: {e}")));
        }
    }
    for (name, of) in &schema.properties {
        rules(of, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(of) = &schema.items {
        rules(of, &format!("{path}.items"), errors);
    }
    if let Some(of) = &schema.additional_properties {
        rules(of, &format!("{path}.additionalProperties"), errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: Value) -> String {
        let mut errors = ErrorList::new();
        check(&schema, "s", false, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn schemas_must_be_structural() {
        let with = |field: Value| said(json!({"type": "object", "properties": {"a": field}}));
        assert_eq!(with(json!({"type": "string"})), "");
        assert_eq!(said(json!({})), "s.type: Required value: must not be empty at the root");
        assert_eq!(
            with(json!({})),
            "s.properties[a].type: Required value: must not be empty for specified object fields"
        );
        assert_eq!(
            with(json!({"type": "array", "items": {}})),
            "s.properties[a].items.type: Required value: must not be empty for specified array items"
        );
        assert!(
            with(json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}))
                .contains("uniqueItems cannot be set to true")
        );
        assert!(with(json!({"type": "string", "pattern": "("})).contains("s.properties[a].pattern"));
        assert!(with(json!({"type": "integer", "default": "x"})).contains("s.properties[a].default: Invalid value"));
        assert!(with(json!({"type": "string", "anyOf": [{"nullable": true}]})).contains("must not be set inside of"));
        assert!(
            with(json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}))
                .contains("must not be empty if x-kubernetes-list-type is map")
        );
        assert!(
            with(json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self >"}]}))
                .contains("compilation failed")
        );
        assert_eq!(
            with(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})),
            ""
        );
    }
}
