//! Patches that nobody should send.

use fuzzing::decoder::{check, scales};
use fuzzing::inputs::{altered, tree};
use fuzzing::{Decoder, cost};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::schema::{Schemas, TypeRef};
use crate::testing::golden_of_resources;

fn pod() -> TypeRef {
    Schemas::builtin().type_of("", "v1", "Pod").unwrap()
}

fn full_pod() -> Value {
    json!({"metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["a", "b"]},
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}], "command": ["x"]}, {"name": "b"}],
            "tolerations": [{"key": "k"}], "nodeSelector": {"a": "b"}, "volumes": [{"name": "v", "emptyDir": {}}]}})
}

/// Patches with every directive, to be altered.
fn strategic_patches() -> Vec<Value> {
    vec![
        json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}, {"name": "c", "image": null}],
            "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}]}}),
        json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}], "nodeSelector": {"$patch": "replace", "c": "d"}}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["x"], "$setElementOrder/finalizers": ["x", "b"]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1, "$patch": "delete"}],
            "$setElementOrder/ports": [{"containerPort": 2}]}]}}),
        json!({"$patch": "delete", "$retainKeys": ["spec"], "$setElementOrder/spec": [], "spec": [[1]]}),
    ]
}

#[test]
fn strategic_merges_end_well_or_in_an_error() {
    let patches = prop_oneof![3 => altered(strategic_patches()), 1 => tree()];
    check(512, (altered(vec![full_pod()]), patches), |(current, patch)| {
        let _ = super::strategic(&pod(), &current, &patch);
    });
}

#[test]
fn every_kind_is_patched_with_pieces_of_itself() {
    let all = golden_of_resources();
    for (resource, object) in &all {
        check(8, (altered(vec![object.clone()]), altered(vec![object.clone()])), |(current, patch)| {
            if let Ok(new) = super::strategic(&resource.schema, &current, &patch) {
                let _ = crate::codec::check(new, &resource.schema);
            }
            super::merge(&current, &patch);
        });
    }
}

#[test]
fn json_patches_end_well_or_in_an_error() {
    let patches = vec![
        json!([{"op": "test", "path": "/metadata/name", "value": "a"}, {"op": "add", "path": "/spec/containers/-", "value": {"name": "c"}}]),
        json!([{"op": "copy", "from": "/spec", "path": "/spec/containers/0"}, {"op": "move", "from": "/metadata", "path": "/metadata/labels"}]),
        json!([{"op": "remove", "path": "/spec/containers/01"}, {"op": "replace", "path": "", "value": null}]),
        json!([{"op": "add", "path": "/spec/containers/18446744073709551616", "value": 1}, {"op": "test", "path": "/~0~1~2", "value": null}]),
    ];
    check(512, prop_oneof![3 => altered(patches.clone()), 1 => tree()], |patch| {
        let _ = super::json(&full_pod(), &patch);
    });
    let words = &[
        "[",
        "]",
        "{\"op\":\"",
        "\"path\":\"/",
        "\"from\":\"",
        "\"value\":",
        "~",
        "/-",
        "/0",
        "\"",
        "}",
        ",",
        "copy",
        "move",
        "test",
    ];
    Decoder::of(patches.iter().map(Value::to_string)).words(words).run(|body| {
        let patch = crate::codec::parse_tree(body, false).ok()?;
        super::json(&full_pod(), &patch).ok()
    });
}

/// Each copy doubles what there is.
#[test]
fn copies_do_not_multiply() {
    let double = |n: usize| -> Value {
        (0..n).map(|i| json!({"op": "copy", "from": "/o", "path": format!("/o/{i}")})).collect()
    };
    let object = json!({"o": {"a": "x".repeat(1000)}});
    let held = cost::peak(|| {
        let e = super::json(&object, &double(60)).unwrap_err();
        assert_eq!(e.code, 422);
        let why = &e.details.unwrap().causes[0].message;
        assert!(why.starts_with("Unable to complete the copy, the accumulated size increase of copy is "), "{why}");
    });
    assert!(held < 200 << 20, "{held}");
    assert!(super::json(&object, &double(5)).is_ok());
}

/// Each operation goes on below what the last put.
#[test]
fn patches_do_not_nest_without_end() {
    let path = |i: usize| "/a".repeat(i * 100);
    let value: Value = serde_json::from_str(&fuzzing::inputs::nested("{\"a\":", "{}", "}", 100)).unwrap();
    let deeper: Value =
        (0..100).map(|i| json!({"op": "add", "path": format!("{}/a", path(i)), "value": value})).collect();
    assert_eq!(super::json(&json!({}), &deeper).unwrap_err().code, 422);
    let copies: Value = (0..100).map(|i| json!({"op": "copy", "from": "/a", "path": "/a/a".repeat(i + 1)})).collect();
    assert_eq!(super::json(&json!({"a": {}}), &copies).unwrap_err().code, 422);
}

#[test]
fn the_time_goes_with_the_size() {
    let patch = |(current, patch): (Value, Value)| drop(super::strategic(&pod(), &current, &patch));
    let texts = |n: usize, from: usize| (from..from + n).map(|i| Value::from(format!("f{i}"))).collect::<Value>();
    let finalizers = |v: Value| json!({"metadata": {"finalizers": v}});
    scales("a list of texts", 500, |n| (finalizers(texts(n, 0)), finalizers(texts(n, n / 2))), patch);
    let delete =
        |n| (finalizers(texts(n, 0)), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": texts(n, n / 2)}}));
    scales("deletions from a list", 500, delete, patch);
    let order = |n| {
        (
            finalizers(texts(n, 0)),
            json!({"metadata": {"$setElementOrder/finalizers": texts(n, 0), "finalizers": texts(n, 0)}}),
        )
    };
    scales("an order of texts", 500, order, patch);
    let containers = |n: usize, more: &dyn Fn(Value) -> Value| -> Value {
        (0..n).map(|i| more(json!({"name": format!("c{i}")}))).collect()
    };
    let spec = |v: Value| json!({"spec": {"containers": v}});
    let same = |v: Value| v;
    scales("a list of objects", 200, |n| (spec(containers(n, &same)), spec(containers(n, &same))), patch);
    let delete = |mut v: Value| {
        v["$patch"] = "delete".into();
        v
    };
    scales("deletions of objects", 200, |n| (spec(containers(n, &same)), spec(containers(n, &delete))), patch);
    let ordered = |n| {
        let mut patch = spec(containers(n, &same));
        patch["spec"]["$setElementOrder/containers"] = containers(n, &same);
        (spec(containers(n, &same)), patch)
    };
    scales("an order of objects", 200, ordered, patch);
    let keys = |n: usize| (0..n).map(|i| (format!("k{i}"), Value::from(1))).collect::<serde_json::Map<_, _>>();
    let retain = |n: usize| {
        let mut patch = keys(n);
        patch.insert("$retainKeys".into(), (0..n).map(|i| Value::from(format!("k{i}"))).collect());
        (Value::Object(keys(n)), Value::Object(patch))
    };
    scales("keys to retain", 500, retain, patch);
}
