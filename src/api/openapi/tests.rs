//! Tests of the module above.

use serde_json::{Value, json};

use super::*;
use crate::registry;
use crate::resource::{Plain, Subresource};
use crate::schema::TypeRef;

fn as_tree(document: &V2) -> Value {
    serde_json::from_str(&document.json()).unwrap()
}

/// Every `$ref` in a document leads somewhere in it.
fn assert_closed(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("$ref") {
                let pointer = text.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{text} leads nowhere");
            }
            map.values().for_each(|v| assert_closed(document, v));
        }
        Value::Array(list) => list.iter().for_each(|v| assert_closed(document, v)),
        _ => {}
    }
}

fn widget() -> Arc<Resource> {
    let schema = widget_schema();
    let pods = registry::builtin().into_iter().find(|r| r.plural == "leases").unwrap();
    Arc::new(Resource {
        group: "example.org".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        plural: "widgets".into(),
        singular: "widget".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: pods.verbs.clone(),
        deprecation: None,
        stored: true,
        subresources: vec![Subresource::Status],
        selectable_fields: Vec::new(),
        columns: Vec::new(),
        has_status: true,
        has_generation: true,
        unconditional_update: true,
        storage_group: "example.org".into(),
        storage_version: "v1".into(),
        convert: None,
        schema: TypeRef::custom("example.org", "v1", "Widget", &schema),
        strategy: Arc::new(Plain),
    })
}

fn widget_schema() -> Value {
    json!({"type": "object", "description": "A widget.", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "description": "How big."}, "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}}})
}

fn with_widget() -> (Vec<Arc<Resource>>, CustomSchemas) {
    let mut resources = registry::builtin();
    resources.push(widget());
    let custom = CustomSchemas::from([(
        ("example.org".into(), "v1".into(), "Widget".into()),
        Arc::new(Published::new(&widget_schema())),
    )]);
    (resources, custom)
}

#[test]
fn every_group_version_has_a_closed_document() {
    let (resources, custom) = with_widget();
    let index = v3_index_with(&resources, &custom);
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/example.org/v1"));
    for path in paths.keys() {
        let mut parts = path.split('/');
        let (group, version) = match parts.next() {
            Some("api") => ("", parts.next().unwrap()),
            _ => (parts.next().unwrap(), parts.next().unwrap()),
        };
        let document = v3_with(group, version, &resources, &custom);
        assert_closed(&document, &document);
        assert!(!document["paths"].as_object().unwrap().is_empty());
    }
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let resources = registry::builtin();
    let document = v3("apps", "v1", &resources);
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = &item["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    for name in ["dryRun", "fieldValidation"] {
        let list = patch["parameters"].as_array().unwrap();
        assert!(list.iter().any(|p| p["name"] == name && p["in"] == "query"), "{name}");
    }
    let list = &document["paths"]["/apis/apps/v1/deployments"]["get"];
    assert_eq!(list["x-kubernetes-action"], "list");
    assert_eq!(
        list["responses"]["200"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentList"
    );
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    assert!(spec["description"].is_string());
    assert!(document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["patch"].is_object());
}

#[test]
fn the_v2_document_is_closed_and_has_custom_resources() {
    let (resources, custom) = with_widget();
    let document = as_tree(&V2::of(&resources, &custom));
    assert_closed(&document, &document);
    let widget = &document["definitions"]["org.example.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["size"]["description"], "How big.");
    assert!(widget["properties"]["spec"]["properties"]["port"].get("anyOf").is_none());
    assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["post"].is_object());
}

#[test]
fn operation_ids_are_unique() {
    let document = as_tree(&V2::of(&registry::builtin(), &CustomSchemas::new()));
    let mut seen = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(id) = operation["operationId"].as_str() {
                assert!(seen.insert(id.to_owned()), "{method} {path}: {id}");
            }
        }
    }
}

/// Reads the fields of a message: number and payload of each length-delimited one.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let b = bytes[0];
            *bytes = &bytes[1..];
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return n;
            }
            shift += 7;
        }
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        match key & 7 {
            0 => {
                varint(&mut bytes);
            }
            1 => bytes = &bytes[8..],
            _ => {
                let length = varint(&mut bytes) as usize;
                all.push((key >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
        }
    }
    all
}

#[test]
fn the_protobuf_form_has_all_definitions() {
    let made = V2::of(&registry::builtin(), &CustomSchemas::new());
    let (document, bytes) = (as_tree(&made), made.protobuf());
    let top = fields(&bytes);
    assert_eq!(top[0], (1, &b"2.0"[..]));
    let definitions = top.iter().find(|(n, _)| *n == 9).unwrap().1;
    let names: Vec<String> =
        fields(definitions).iter().map(|(_, pair)| String::from_utf8(fields(pair)[0].1.to_vec()).unwrap()).collect();
    let expected: Vec<String> = document["definitions"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, expected);
}

#[test]
#[ignore = "prints sizes and writes documents for inspection with other tools"]
fn dump() {
    let pages =
        || std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<i64>().unwrap();
    let (before, start) = (pages(), std::time::Instant::now());
    crate::schema::Schemas::builtin();
    println!("type table: {} KiB, {:?}", (pages() - before) * 4, start.elapsed());
    let resources = registry::builtin();
    let start = std::time::Instant::now();
    let made = V2::of(&resources, &CustomSchemas::new());
    let (document, bytes) = (as_tree(&made), made.protobuf());
    println!("v2: {} bytes JSON, {} protobuf, {:?}", document.to_string().len(), bytes.len(), start.elapsed());
    let core = v3("", "v1", &resources).to_string();
    println!("v3 core: {} bytes", core.len());
    let directory = std::env::temp_dir();
    std::fs::write(directory.join("sampan-v2.json"), document.to_string()).unwrap();
    std::fs::write(directory.join("sampan-v2.pb"), bytes).unwrap();
    std::fs::write(directory.join("sampan-v3-core.json"), core).unwrap();
}
