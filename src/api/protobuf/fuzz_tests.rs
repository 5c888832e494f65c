//! Messages that nobody should send.

use fuzzing::Decoder;
use fuzzing::decoder::{check, scales};
use fuzzing::inputs::altered;
use serde_json::{Value, json};

use super::*;
use crate::testing::{golden, golden_of_resources};

fn encoded(v: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (v["apiVersion"].as_str()?, v["kind"].as_str()?);
    Some(Kind::of(api_version, kind)?.encode(api_version, kind, v.to_string().as_bytes()).ok()?.to_vec())
}

/// tag and bytes
fn sub(tag: u8, b: &[u8]) -> Vec<u8> {
    let mut v = vec![tag << 3 | 2];
    let mut n = b.len();
    while n >= 0x80 {
        v.push(n as u8 | 0x80);
        n >>= 7;
    }
    v.push(n as u8);
    v.extend(b);
    v
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [sub(1, api_version.as_bytes()), sub(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), sub(1, &meta), sub(2, raw)].concat()
}

#[test]
fn bodies_are_read_or_refused() {
    let schemas = crate::schema::Schemas::builtin();
    Decoder::of(golden().iter().filter_map(encoded)).run(|bytes| {
        let tree = decode(bytes).ok()?;
        let kind = tree["kind"].as_str()?.to_owned();
        let (group, version) = tree["apiVersion"].as_str().map(|v| v.split_once('/').unwrap_or(("", v)))?;
        let t = schemas.type_of(group, version, &kind)?;
        crate::codec::check(tree, &t).ok()
    });
}

#[test]
fn whatever_is_stored_can_be_encoded_and_says_the_same_again() {
    for (resource, object) in golden_of_resources() {
        check(8, altered(vec![object]), |tree| {
            let Ok(checked) = crate::codec::check(tree, &resource.schema) else { return };
            let mut checked = checked.value;
            checked["apiVersion"] = resource.api_version().into();
            checked["kind"] = resource.kind.as_str().into();
            let once = decode(&encoded(&checked).unwrap()).unwrap();
            let twice = decode(&encoded(&once).unwrap()).unwrap();
            assert_eq!(once, twice);
        });
    }
}

#[test]
fn nesting_ends_in_an_error_not_the_stack() {
    // Objects in events in events …
    let mut event = body("v1", "ConfigMap", &[]);
    for _ in 0..2_000 {
        event = body("v1", "WatchEvent", &sub(2, &sub(1, &event)));
    }
    assert!(decode(&event).is_err());
    // Schemas in schemas: the field `not`.
    let mut schema = Vec::new();
    for _ in 0..2_000 {
        schema = sub(28, &schema);
    }
    let version = sub(4, &sub(1, &schema));
    let crd = body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &sub(2, &sub(7, &version)));
    let _ = decode(&crd);
}

#[test]
fn the_time_goes_with_the_size() {
    let labels = |n: usize| -> Vec<u8> {
        let one = |i: usize| sub(11, &[sub(1, format!("k{i}").as_bytes()), sub(2, b"v")].concat());
        body("v1", "ConfigMap", &sub(1, &(0..n).flat_map(one).collect::<Vec<u8>>()))
    };
    scales("labels", 5_000, labels, |b| drop(decode(&b)));
    let nested = |n: usize| {
        let map: serde_json::Map<_, _> = (0..n).map(|i| (format!("k{i}"), json!("v".repeat(200)))).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": map})
    };
    scales("an object encoded", 500, nested, |v| drop(encoded(&v)));
}
