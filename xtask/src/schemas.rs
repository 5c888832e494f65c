//! Turns the definitions that the Python package `kubernetes-validate` ships back into
//! the form of upstream's `swagger.json`, and writes them as one compact gzip file.
//!
//! The package keeps every extension but rewrites what plain JSON Schema validators
//! trip over: `$ref` paths, nullable types, `IntOrString` and `Quantity`, and a
//! one-value `enum` on `apiVersion` and `kind`. All of that is undone here.
//! Definitions that no stable (`v1`, `v2`) kind reaches are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// Reads, normalises, writes.
pub fn run(input: &Path, output: &Path) -> anyhow::Result<()> {
    let text = fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    let mut document: Value = serde_json::from_slice(&text)?;
    let definitions = document.get_mut("$defs").and_then(Value::as_object_mut).context("the file has no $defs")?;
    let mut all = BTreeMap::new();
    for (name, mut schema) in std::mem::take(definitions) {
        let has_kind = schema.get("x-kubernetes-group-version-kind").is_some();
        normalise(&mut schema);
        if has_kind {
            for field in ["apiVersion", "kind"] {
                if let Some(p) = schema.pointer_mut(&format!("/properties/{field}")).and_then(Value::as_object_mut) {
                    p.remove("enum");
                }
            }
        }
        restore(&name, &mut schema);
        all.insert(name, schema);
    }
    let kept = reachable(&all);
    let out: Map<String, Value> = all.into_iter().filter(|(name, _)| kept.contains(name)).collect();
    let count = out.len();
    let bytes = serde_json::to_vec(&json!({ "definitions": out }))?;
    // No name and no time in the gzip header, so that the same input makes the same file.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    let packed = encoder.finish()?;
    fs::write(output, &packed).with_context(|| format!("writing {}", output.display()))?;
    println!("{count} definitions, {} bytes, {} packed", bytes.len(), packed.len());
    Ok(())
}

/// `$ref` and nullable types, everywhere below one schema.
fn normalise(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace("#/$defs/", "#/definitions/");
    }
    if let Some(types) = map.get("type").and_then(Value::as_array) {
        let plain = types.iter().find(|t| t.as_str() != Some("null")).cloned();
        if let Some(plain) = plain {
            map.insert("type".into(), plain);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            normalise(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for property in properties.values_mut() {
            normalise(property);
        }
    }
}

/// The two scalar types that the package turned into a `oneOf`.
fn restore(name: &str, schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    match name {
        INT_OR_STRING => {
            map.remove("oneOf");
            map.insert("type".into(), json!("string"));
            map.insert("format".into(), json!("int-or-string"));
            map.entry("description").or_insert_with(|| {
                json!("IntOrString is a type that can hold an int32 or a string.  When used in JSON or YAML marshalling and unmarshalling, it produces or consumes the inner type.  This allows you to have, for example, a JSON field that can accept a name or number.")
            });
        }
        QUANTITY => {
            map.remove("oneOf");
            map.insert("type".into(), json!("string"));
            map.entry("description").or_insert_with(|| {
                json!("Quantity is a fixed-point representation of a number. It provides convenient marshaling/unmarshaling in JSON and YAML, in addition to String() and AsInt64() accessors.")
            });
        }
        _ => {}
    }
}

/// The names of the definitions of stable kinds and of all that they refer to.
fn reachable(all: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mut open: Vec<&str> = Vec::new();
    for (name, schema) in all {
        let stable = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array).is_some_and(|kinds| {
            kinds.iter().any(|k| matches!(k.get("version").and_then(Value::as_str), Some("v1" | "v2")))
        });
        if stable || name.contains(".apimachinery.") {
            open.push(name);
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if seen.insert(name.to_owned())
            && let Some(schema) = all.get(name)
        {
            references(schema, &mut open);
        }
    }
    seen
}

fn references<'a>(schema: &'a Value, into: &mut Vec<&'a str>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref")
                && let Some(name) = reference.strip_prefix("#/definitions/")
            {
                into.push(name);
            }
            map.values().for_each(|v| references(v, into));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}
