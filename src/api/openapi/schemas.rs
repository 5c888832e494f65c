//! The schemas of a document: all that its paths refer to, and what those refer to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::CustomSchemas;
use crate::resource::Resource;
use crate::schema::{OBJECT_META, Schemas};

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The name of a resource's definition: upstream's for built-in kinds, `org.example.v1.Widget` for custom ones.
pub(super) fn name_of(r: &Resource) -> String {
    if r.schema.is_typed()
        && let Some(name) = r.schema.definition_name()
    {
        return name.to_owned();
    }
    let reversed: Vec<&str> = r.group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), r.version, r.kind)
}

/// The name of the definition of a resource's list.
pub(super) fn list_name_of(r: &Resource) -> String {
    let name = name_of(r);
    match name.strip_suffix(&r.kind) {
        Some(package) => format!("{package}{}", r.list_kind),
        None => format!("{name}List"),
    }
}

/// The definitions that paths need, each given once, in the form of a version of OpenAPI.
pub(super) struct Reachable<'a> {
    custom: &'a CustomSchemas,
    /// Unpacked once for the whole document: that takes milliseconds.
    builtin: BTreeMap<String, Box<RawValue>>,
    /// The custom resources that have a definition of a name, or a list of it.
    resources: BTreeMap<String, (&'a Resource, bool)>,
    given: BTreeSet<String>,
    v2: bool,
}

impl<'a> Reachable<'a> {
    pub(super) fn new(resources: &'a [Arc<Resource>], custom: &'a CustomSchemas, v2: bool) -> Reachable<'a> {
        let own = resources.iter().filter(|r| !r.schema.is_typed());
        let resources = own.flat_map(|r| [(name_of(r), (&**r, false)), (list_name_of(r), (&**r, true))]).collect();
        Reachable { custom, builtin: Schemas::builtin().documents(), resources, given: BTreeSet::new(), v2 }
    }

    fn definition(&self, name: &str) -> Value {
        match self.resources.get(name) {
            Some((r, true)) => custom_list(r),
            Some((r, false)) => {
                let schema = self.custom.get(&(r.group.clone(), r.version.clone(), r.kind.clone()));
                custom_definition(r, schema.map(|s| s.schema()), self.v2)
            }
            None => match self.builtin.get(name).map(|raw| serde_json::from_str(raw.get())) {
                Some(Ok(schema)) => schema,
                _ => json!({"type": "object"}),
            },
        }
    }

    /// Gives what some paths need and has not been given yet.
    pub(super) fn of(&mut self, paths: &BTreeMap<String, Value>, give: &mut dyn FnMut(String, Value)) {
        let mut open = BTreeSet::new();
        paths.values().for_each(|item| references(item, &mut open));
        while let Some(name) = open.pop_first() {
            if !self.given.insert(name.clone()) {
                continue;
            }
            let schema = self.definition(&name);
            references(&schema, &mut open);
            let finish = if self.v2 { to_v2 } else { to_v3 };
            let finished = finish(&name, schema);
            give(name, finished);
        }
    }
}

/// Adds the definitions that a part of a document refers to.
pub(super) fn references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref")
                && let Some(name) = reference.strip_prefix("#/definitions/")
            {
                into.insert(name.to_owned());
            }
            map.values().for_each(|v| references(v, into));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{name}")})
}

const OBJECT_META_DESCRIPTION: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_META_DESCRIPTION: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

fn type_fields(meta: &str) -> Map<String, Value> {
    let api_version = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
    let kind = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
    let mut fields = Map::new();
    fields.insert("apiVersion".into(), json!({"type": "string", "description": api_version}));
    fields.insert("kind".into(), json!({"type": "string", "description": kind}));
    let mut metadata = reference(meta);
    metadata["description"] = if meta == LIST_META { LIST_META_DESCRIPTION } else { OBJECT_META_DESCRIPTION }.into();
    fields.insert("metadata".into(), metadata);
    fields
}

/// The definition of a custom resource. Where a schema keeps unknown fields at its root, version 2
/// says nothing but that it is an object: clients of that version would take listed fields for all
/// there are.
fn custom_definition(r: &Resource, schema: Option<Value>, v2: bool) -> Value {
    let kind = json!([{"group": r.group, "version": r.version, "kind": r.kind}]);
    let mut schema = match schema {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    if v2 && schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return json!({"type": "object", "x-kubernetes-group-version-kind": kind});
    }
    schema.entry("type").or_insert_with(|| json!("object"));
    let mut fields = match schema.remove("properties") {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    fields.extend(type_fields(OBJECT_META));
    schema.insert("properties".into(), Value::Object(fields));
    schema.insert("x-kubernetes-group-version-kind".into(), kind);
    Value::Object(schema)
}

fn custom_list(r: &Resource) -> Value {
    let mut fields = type_fields(LIST_META);
    fields.insert("items".into(), json!({"type": "array", "items": reference(&name_of(r))}));
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", r.list_kind, r.kind),
        "required": ["items"],
        "properties": fields,
        "x-kubernetes-group-version-kind": [{"group": r.group, "version": r.version, "kind": r.list_kind}],
    })
}

/// A v3 schema: other references, alone in `allOf` where they have company.
fn to_v3(name: &str, schema: Value) -> Value {
    let description = schema.get("description").cloned();
    let mut schema = match name {
        QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        INT_OR_STRING => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        _ => {
            let mut schema = schema;
            convert_v3(&mut schema);
            return schema;
        }
    };
    if let (Some(map), Some(description)) = (schema.as_object_mut(), description) {
        map.insert("description".into(), description);
    }
    schema
}

/// The schemas right below one schema.
fn children<'a>(map: &'a mut Map<String, Value>, visit: &mut dyn FnMut(&mut Value)) {
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "definitions", Value::Object(fields)) => {
                fields.values_mut().for_each(&mut *visit);
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => list.iter_mut().for_each(&mut *visit),
            ("items" | "additionalProperties" | "not", value @ Value::Object(_)) => visit(value),
            _ => {}
        }
    }
}

fn convert_v3(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::String(text)) = map.remove("$ref") {
        let target = json!({"$ref": text.replace("#/definitions/", "#/components/schemas/")});
        if map.is_empty() {
            *schema = target;
        } else {
            map.insert("allOf".into(), json!([target]));
        }
        return;
    }
    children(map, &mut convert_v3);
}

/// A v2 schema: without what v2 does not have.
fn to_v2(_name: &str, mut schema: Value) -> Value {
    convert_v2(&mut schema);
    schema
}

fn convert_v2(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
        || map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
    {
        // Upstream leaves these without a type, so that clients do not check them.
        map.remove("type");
        map.remove("properties");
    }
    for key in ["anyOf", "oneOf", "not", "nullable", "default"] {
        map.remove(key);
    }
    children(map, &mut convert_v2);
}
