//! Custom resource definitions as operators have them, and objects of them: a few kB of schema
//! with descriptions, defaults, patterns and nested lists; every other one has rules.

use serde_json::{Map, Value, json};

/// The namespace of all objects.
pub const NAMESPACE: &str = "default";

/// Definitions of one group: a cluster's operators bring five to ten each.
const IN_A_GROUP: usize = 8;

pub fn group(number: usize) -> String {
    format!("group{}.scale.example.org", number / IN_A_GROUP)
}

pub fn plural(number: usize) -> String {
    format!("widget{number}s")
}

pub fn name(number: usize) -> String {
    format!("{}.{}", plural(number), group(number))
}

/// The collection of a definition's objects.
pub fn path(number: usize) -> String {
    format!("/apis/{}/v1/namespaces/{NAMESPACE}/{}", group(number), plural(number))
}

fn described(what: &str, mut schema: Value) -> Value {
    let text = format!(
        "{what} of the resource. It is read when the resource is reconciled, and a change of it takes effect at once; \
         where it is left out, the operator's own configuration decides. More info: https://scale.example.org/docs/reference"
    );
    schema["description"] = text.into();
    schema
}

fn names(count: usize, prefix: &str, schema: impl Fn(usize) -> Value) -> Map<String, Value> {
    (0..count).map(|i| (format!("{prefix}{i}"), described(prefix, schema(i)))).collect()
}

fn reference() -> Value {
    let name = described("The name", json!({"type": "string", "minLength": 1, "maxLength": 253}));
    let kind =
        described("The kind", json!({"type": "string", "default": "Issuer", "enum": ["Issuer", "ClusterIssuer"]}));
    json!({"type": "object", "required": ["name"], "properties": {"name": name, "kind": kind}})
}

fn rule(text: &str, message: &str) -> Value {
    json!([{"rule": text, "message": message}])
}

fn spec(number: usize) -> Value {
    let mut fields = names(8, "text", |_| json!({"type": "string", "maxLength": 256}));
    fields.extend(names(3, "count", |_| json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1000})));
    fields.extend(names(2, "switch", |i| json!({"type": "boolean", "default": i == 0})));
    fields.extend(names(
        2,
        "interval",
        |_| json!({"type": "string", "pattern": "^(0|(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$"}),
    ));
    fields.extend(names(2, "labels", |_| json!({"type": "object", "additionalProperties": {"type": "string"}})));
    fields.extend(names(2, "issuer", |_| reference()));
    let port = described(
        "The port",
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
    );
    let mut item = json!({"type": "object", "required": ["name"],
        "properties": {"name": described("The name", json!({"type": "string", "maxLength": 63})), "port": port,
            "path": described("The path", json!({"type": "string", "default": "/metrics", "maxLength": 512}))}});
    if number.is_multiple_of(4) {
        item["x-kubernetes-validations"] = rule("self.name != 'forbidden'", "the name is reserved");
    }
    let endpoints = json!({"type": "array", "maxItems": 32, "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]});
    fields.insert("endpoints".into(), described("The endpoints", endpoints));
    let mut spec = json!({"type": "object", "required": ["text0", "issuer0"], "properties": fields});
    if number.is_multiple_of(2) {
        spec["x-kubernetes-validations"] = rule(
            "!has(self.count0) || !has(self.count1) || self.count0 <= self.count1",
            "count0 must not exceed count1",
        );
        spec["properties"]["text1"]["x-kubernetes-validations"] = rule("self == oldSelf", "it is immutable");
    }
    described("The desired state", spec)
}

fn status() -> Value {
    let fields =
        ["type", "status", "reason", "message"].map(|f| (f.to_owned(), described(f, json!({"type": "string"}))));
    let mut fields = Map::from_iter(fields);
    fields.insert("lastTransitionTime".into(), described("The time", json!({"type": "string", "format": "date-time"})));
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": fields});
    let conditions = json!({"type": "array", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]});
    let generation = described("The generation", json!({"type": "integer", "format": "int64"}));
    described(
        "The observed state",
        json!({"type": "object", "properties": {
        "conditions": described("The conditions", conditions), "observedGeneration": generation}}),
    )
}

/// The definition of a number.
pub fn definition(number: usize) -> String {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "apiVersion": described("The version", json!({"type": "string"})),
        "kind": described("The kind", json!({"type": "string"})),
        "metadata": {"type": "object"}, "spec": spec(number), "status": status()}});
    let columns = json!([
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "Issuer", "type": "string", "jsonPath": ".spec.issuer0.name"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name(number)},
        "spec": {"group": group(number), "scope": "Namespaced",
            "names": {"plural": plural(number), "singular": format!("widget{number}"), "kind": format!("Widget{number}"),
                "shortNames": [format!("w{number}")], "categories": ["scale"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema}}]}})
    .to_string()
}

/// An object of a definition, about as large as a certificate or a service monitor.
pub fn object(number: usize, name: &str) -> String {
    let endpoint =
        |i: usize| json!({"name": format!("endpoint-{i}"), "port": 8080 + i, "path": format!("/metrics/{i}")});
    let endpoints: Vec<Value> = (0..4).map(endpoint).collect();
    let text = |i: usize| format!("a value of some length that says what field {i} of the object {name} is for");
    json!({"apiVersion": format!("{}/v1", group(number)), "kind": format!("Widget{number}"),
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "scale", "app.kubernetes.io/instance": name},
            "annotations": {"scale.example.org/checksum": "5f4dcc3b5aa765d61d8327deb882cf99"}},
        "spec": {"text0": text(0), "text1": text(1), "text2": text(2), "count0": 1, "count1": 5, "interval0": "30s",
            "labels0": {"team": "platform", "tier": "backend"}, "issuer0": {"name": "letsencrypt"}, "endpoints": endpoints}})
    .to_string()
}
