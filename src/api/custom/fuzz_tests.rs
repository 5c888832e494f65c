//! Definitions that nobody should make, and objects of them.

use fuzzing::Decoder;
use fuzzing::decoder::{check, scales};
use fuzzing::inputs::{altered, nested, tree};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::definition::Definition;
use super::jsonpath::JsonPath;
use super::schema::{Pattern, Props};
use crate::Strategy as _;
use crate::schema::Schemas;

fn definition(schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.org", "annotations": {}},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://a/b"}}},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.size"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.list[?(@.k==\"a\")].v"}]}]}})
}

fn schema() -> Value {
    json!({"type": "object", "required": ["spec"], "x-kubernetes-validations": [{"rule": "has(self.spec)"}], "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [{"rule": "self.size > 0 && self.list.all(i, i.k != '')", "message": "m", "messageExpression": "'x' + string(self.size)"}],
        "properties": {
            "size": {"type": "integer", "minimum": 0, "maximum": 10, "multipleOf": 2, "default": 2},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 10, "format": "hostname", "enum": ["a", "b"]},
            "either": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true},
            "map": {"type": "object", "additionalProperties": {"type": "string", "format": "date-time"}, "maxProperties": 3},
            "list": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 5}, "v": {"type": "integer"}}}}}}}})
}

fn widget() -> Value {
    json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "n"}, "spec": {"size": 4, "name": "a", "either": "x", "free": {"a": [null]},
        "map": {"a": "2026-01-02T03:04:05Z"}, "list": [{"k": "a", "v": 1}, {"k": "b"}]}})
}

/// What the server does with a definition and an object of it.
fn define(definition: &Value, object: &Value) {
    let t = Schemas::builtin().type_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let Ok(checked) = crate::codec::check(definition.clone(), &t) else { return };
    let mut definition = checked.value;
    Definition.default(&mut definition);
    Definition.prepare_create(&mut definition);
    if !Definition.validate(&definition).is_empty() {
        return;
    }
    for resource in super::served(&definition).resources {
        let Ok(checked) = crate::codec::check(object.clone(), &resource.schema) else { continue };
        let mut object = checked.value;
        resource.strategy.default(&mut object);
        resource.strategy.validate(&object);
        resource.strategy.validate_changed(&object, &json!({"spec": {"list": [{"k": "a"}]}}));
        resource.strategy.cells(&object, jiff::Timestamp::UNIX_EPOCH);
        for field in &resource.selectable_fields {
            resource.strategy.field(&object, field);
        }
    }
}

#[test]
fn definitions_and_objects_are_judged_whatever_they_are() {
    check(96, (altered(vec![definition(schema())]), altered(vec![widget()])), |(d, o)| define(&d, &o));
    let valid = definition(schema());
    check(64, prop_oneof![3 => altered(vec![widget()]), 1 => tree()], |o| define(&valid, &o));
    check(96, (altered(vec![schema()]), altered(vec![widget()])), |(s, o)| define(&definition(s), &o));
}

#[test]
fn values_are_judged_by_any_schema() {
    check(256, (altered(vec![schema()]), prop_oneof![altered(vec![widget()]), tree()]), |(s, mut v)| {
        let props = Props::parse(&s);
        super::defaulting::apply(&props, &mut v);
        super::validation::validate(&props, "", &v, Some(&widget()));
    });
}

const PATHS: &[&str] = &[
    ".",
    "a",
    ".spec",
    "[",
    "]",
    "[*]",
    "[0]",
    "[-1]",
    "[9223372036854775808]",
    "[?(@.a==\"b\")]",
    "[?(",
    ")]",
    "@",
    "$",
    "{",
    "}",
    "'",
    "\"",
    "\\",
    "..",
    "==",
    "<",
    "é",
    "*",
    "true",
    "1",
    " ",
];

#[test]
fn paths_are_read_or_refused() {
    let examples =
        [".spec.list[?(@.k==\"a\")].v", ".metadata.name", ".spec['a.b']", "{.status.conditions[*].type}", ".a\\.b[-1]"];
    let object = widget();
    Decoder::of(examples).words(PATHS).run_text(|text| JsonPath::parse(text).ok().map(|p| p.find(&object).len()));
    for (open, inner, close) in [("[?(@", ".a", ")]"), ("[", "0", "]"), (".a", "", ""), ("[*]", "", ""), (".*", "", "")]
    {
        for depth in [100, 10_000] {
            let path = nested(open, inner, close, depth);
            if let Ok(p) = JsonPath::parse(&path) {
                p.find(&object);
            }
        }
    }
    scales("steps", 2_000, |n| ".a".repeat(n), |p| drop(JsonPath::parse(&p)));
    scales("brackets", 2_000, |n| "[0]".repeat(n), |p| drop(JsonPath::parse(&p)));
    scales("open brackets", 500, |n| "[?(@".repeat(n), |p| drop(JsonPath::parse(&p)));
    scales("filters", 500, |n| nested("[?(@", ".a", ")]", n), |p| drop(JsonPath::parse(&p)));
}

#[test]
fn patterns_compile_small_or_not_at_all() {
    let decoder = Decoder::default().memory(64 << 20, 100);
    for pattern in [
        "(((a{100}){100}){100}){100}",
        "a{1000000000}",
        "(a|b|c){1000}{1000}",
        "\\p{L}{1000}",
        "(?i)[\\p{L}\\p{N}]{1,500}",
        "[[:alpha:]--\\w]",
        "(?P<a",
        "\\8",
        "(?=a)",
    ] {
        decoder.once(pattern.as_bytes(), |_| Pattern::new(pattern).regex.is_some());
    }
    for (open, inner, close) in [("(", "a", ")"), ("[", "a", "]"), ("(?:", "a", ")*"), ("(a|", "b", ")")] {
        decoder.once(b"", |_| Pattern::new(&nested(open, inner, close, 10_000)).regex.is_some());
    }
    let words = &[
        "a", "(", ")", "[", "]", "{", "}", "{2,5}", "{1000}", "*", "+", "?", "|", "^", "$", "\\d", "\\p{L}", "(?i)",
        "(?P<n>", "[^", "-", "\\", "&&", ".",
    ];
    Decoder::of(["^[a-z]([-a-z0-9]*[a-z0-9])?$", "^(\\d+)(e|E)(\\d+)$"])
        .words(words)
        .memory(64 << 20, 10_000)
        .run_text(|text| Pattern::new(text).regex.map(|r| r.is_match(&"a1-".repeat(100))));
}

#[test]
fn deep_schemas_and_values_are_read_or_refused() {
    let deep = |inner: Value, levels: usize, wrap: &dyn Fn(Value) -> Value| (0..levels).fold(inner, |v, _| wrap(v));
    let leaf = || json!({"type": "string"});
    for levels in [10, 30, 50] {
        for wrap in [
            (|v| json!({"type": "object", "properties": {"a": v}})) as fn(Value) -> Value,
            |v| json!({"type": "array", "items": v}),
            |v| json!({"type": "object", "additionalProperties": v}),
            |v| json!({"type": "object", "allOf": [v.clone()], "anyOf": [v]}),
            |v| json!({"type": "object", "not": v}),
        ] {
            // Twice the same at every level doubles.
            let levels = if wrap(leaf()).get("allOf").is_some() { levels.min(10) } else { levels };
            define(
                &definition(json!({"type": "object", "properties": {"spec": deep(leaf(), levels, &wrap)}})),
                &widget(),
            );
        }
    }
    let anything = definition(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    for levels in [50, 100, crate::codec::NESTING_MAX] {
        let mut object = widget();
        object["spec"] = serde_json::from_str(&nested("{\"a\":", "1", "}", levels)).unwrap();
        define(&anything, &object);
    }
}

#[test]
fn the_time_goes_with_the_size() {
    let judged = |(s, v, old): (Value, Value, Value)| {
        drop(super::validation::validate(&Props::parse(&s), "spec", &v, Some(&old)))
    };
    let list = |n: usize| (0..n).map(|i| json!({"k": format!("k{i}"), "v": i})).collect::<Value>();
    let map = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object"}});
    scales("a list with keys", 300, |n| (map.clone(), list(n), list(n)), judged);
    scales("a set", 500, |n| (json!({"type": "array", "x-kubernetes-list-type": "set"}), list(n), list(n)), judged);
    let wrong = |n: usize| ((0..n).map(|i| (format!("k{i}"), json!("x"))).collect::<serde_json::Map<_, _>>()).into();
    scales(
        "wrong values",
        500,
        |n| (json!({"type": "object", "additionalProperties": {"type": "integer"}}), wrong(n), json!({})),
        judged,
    );
    let required =
        |n: usize| json!({"type": "object", "required": (0..n).map(|i| format!("k{i}")).collect::<Vec<_>>()});
    scales("missing fields", 500, |n| (required(n), json!({}), json!({})), judged);
}
