//! The structural schema types of built-in kinds and of custom resources.
//!
//! A [`TypeRef`] is a place in a type graph: cheap to clone, walked field by field.
//! The built-in graph comes from the committed definitions of Kubernetes v1.35 and keeps only
//! what decoding, patching and server-side apply need: names, types, formats, references,
//! patch and list keys. Descriptions stay in the compressed file until OpenAPI is asked for.

mod build;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use serde_json::value::RawValue;

static DATA: &[u8] = include_bytes!("data/kubernetes-v1.35.json.gz");

/// The name of the `ObjectMeta` definition.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What a value at a place may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Any JSON, kept as it is.
    Any,
    /// A struct; the number is that of its definition.
    Object(u32),
    /// A map from strings to what the node of this number says.
    Map(u32),
    /// A list of what the node of this number says.
    List(u32),
    /// A string.
    String,
    /// Base64 in a string.
    Bytes,
    /// `metav1.Time`.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// A string or an integer.
    IntOrString,
    /// `resource.Quantity`: a string or a number.
    Quantity,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// A float.
    Number,
    /// true or false.
    Boolean,
    /// A type of the built-in graph, inside the graph of a custom resource.
    Builtin(u32),
}

/// How lists and maps at a place are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attributes {
    pub merge_key: String,
    pub strategy: String,
    pub list_type: String,
    pub list_map_keys: Vec<String>,
    /// JSON of what each key is where an item does not have it; empty for nothing.
    pub list_map_defaults: Vec<String>,
    pub map_type: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub shape: Shape,
    /// Index into `Graph::attributes`; 0 has none.
    pub attributes: u16,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub name: Box<str>,
    pub node: u32,
    pub required: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Definition {
    /// `io.k8s.api.core.v1.Container`; for custom resources the kind.
    pub name: Box<str>,
    /// Sorted by name.
    pub fields: Box<[Field]>,
    /// Whether fields that are not listed are kept (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
    /// Whether this is a complete object inside another (`x-kubernetes-embedded-resource`).
    pub embedded: bool,
    /// For objects with both properties and `additionalProperties`-free openness: none.
    pub kind: Option<Box<(String, String, String)>>,
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    pub definitions: Vec<Definition>,
    pub attributes: Vec<Attributes>,
    /// Whether values follow Go structs: null is absent, wrong types are errors.
    pub typed: bool,
}

/// Who holds a graph. Every step of a walk makes a handle: that of the built-in kinds must cost no
/// counting in memory that all threads share.
#[derive(Clone)]
enum Held {
    Builtin(&'static Graph),
    Custom(Arc<Graph>),
}

impl std::ops::Deref for Held {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        match self {
            Held::Builtin(graph) => graph,
            Held::Custom(graph) => graph,
        }
    }
}

/// A handle on one schema type; cheap to clone.
#[derive(Clone)]
pub struct TypeRef {
    graph: Held,
    node: u32,
}

impl std::fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TypeRef({})", self.go_type())
    }
}

static ANY: LazyLock<TypeRef> =
    LazyLock::new(|| TypeRef { graph: Held::Builtin(Box::leak(Box::new(build::any_graph()))), node: 0 });

impl TypeRef {
    /// A place where any JSON is kept.
    pub fn any() -> TypeRef {
        ANY.clone()
    }

    /// An object of which only `apiVersion`, `kind` and `metadata` are checked; all else is kept.
    pub fn any_object() -> TypeRef {
        static OBJECT: LazyLock<TypeRef> = LazyLock::new(|| {
            TypeRef::custom(
                "",
                "",
                "",
                &serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            )
        });
        OBJECT.clone()
    }

    /// As [`TypeRef::any_object`], of a kind.
    pub fn any_of(group: &str, version: &str, kind: &str) -> TypeRef {
        let open = serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        TypeRef::custom(group, version, kind, &open)
    }

    /// The type of a custom resource from its `openAPIV3Schema`. `apiVersion`, `kind` and
    /// `metadata` are added; unknown fields are dropped unless the schema preserves them.
    pub fn custom(group: &str, version: &str, kind: &str, schema: &Value) -> TypeRef {
        let (graph, node) = build::custom_graph(group, version, kind, schema);
        TypeRef { graph: Held::Custom(Arc::new(graph)), node }
    }

    fn raw(&self) -> Node {
        self.graph.nodes.get(self.node as usize).copied().unwrap_or(Node { shape: Shape::Any, attributes: 0 })
    }

    fn attributes(&self) -> &Attributes {
        &self.graph.attributes[self.raw().attributes as usize]
    }

    fn at(&self, node: u32) -> TypeRef {
        let there = TypeRef { graph: self.graph.clone(), node };
        match there.raw().shape {
            Shape::Builtin(node) => TypeRef { graph: Held::Builtin(Schemas::builtin().graph), node },
            _ => there,
        }
    }

    pub(crate) fn definition(&self) -> Option<&Definition> {
        match self.raw().shape {
            Shape::Object(i) => self.graph.definitions.get(i as usize),
            _ => None,
        }
    }

    /// What a value here may be.
    pub fn shape(&self) -> Shape {
        self.raw().shape
    }

    /// The type of a field of a struct, or of any entry of a map; `None` where the type has no such field.
    /// Below a place that keeps any JSON every field is again such a place.
    pub fn field(&self, name: &str) -> Option<TypeRef> {
        match self.raw().shape {
            Shape::Any => Some(self.clone()),
            Shape::Map(node) => Some(self.at(node)),
            Shape::Object(i) => {
                let d = self.graph.definitions.get(i as usize)?;
                match d.fields.binary_search_by(|f| (*f.name).cmp(name)) {
                    Ok(found) => Some(self.at(d.fields[found].node)),
                    Err(_) => d.open.then(TypeRef::any),
                }
            }
            _ => None,
        }
    }

    /// The type of the items of a list.
    pub fn items(&self) -> Option<TypeRef> {
        match self.raw().shape {
            Shape::Any => Some(self.clone()),
            Shape::List(node) => Some(self.at(node)),
            _ => None,
        }
    }

    /// The type of the values of a map.
    pub fn values(&self) -> Option<TypeRef> {
        match self.raw().shape {
            Shape::Map(node) => Some(self.at(node)),
            _ => None,
        }
    }

    /// Whether this is a map with free keys.
    pub fn is_map(&self) -> bool {
        matches!(self.raw().shape, Shape::Map(_))
    }

    /// Whether this is a struct.
    pub fn is_object(&self) -> bool {
        matches!(self.raw().shape, Shape::Object(_))
    }

    /// Whether this is a list.
    pub fn is_list(&self) -> bool {
        matches!(self.raw().shape, Shape::List(_))
    }

    /// Whether any JSON is kept here.
    pub fn is_any(&self) -> bool {
        self.raw().shape == Shape::Any
    }

    /// Whether fields beyond those listed are kept.
    pub fn keeps_unknown(&self) -> bool {
        self.is_any() || self.definition().is_some_and(|d| d.open)
    }

    /// Whether values here follow Go structs (built-in types): null is absent and wrong types are errors.
    pub fn is_typed(&self) -> bool {
        self.graph.typed
    }

    /// Names of the fields of a struct, sorted; empty for all else.
    pub fn field_names(&self) -> Vec<&str> {
        self.definition().map(|d| d.fields.iter().map(|f| &*f.name).collect()).unwrap_or_default()
    }

    /// Whether this is a struct with a field of this name.
    pub fn declares(&self, name: &str) -> bool {
        self.definition().is_some_and(|d| d.fields.binary_search_by(|f| (*f.name).cmp(name)).is_ok())
    }

    /// Whether a field of a struct must be there.
    pub fn is_required(&self, name: &str) -> bool {
        self.definition().is_some_and(|d| d.fields.iter().any(|f| &*f.name == name && f.required))
    }

    /// `x-kubernetes-patch-merge-key`.
    pub fn patch_merge_key(&self) -> Option<&str> {
        Some(self.attributes().merge_key.as_str()).filter(|s| !s.is_empty())
    }

    /// Whether `x-kubernetes-patch-strategy` names this strategy (`merge`, `replace`, `retainKeys`).
    pub fn has_patch_strategy(&self, name: &str) -> bool {
        self.attributes().strategy.split(',').any(|s| s == name)
    }

    /// `x-kubernetes-list-type`: `atomic`, `set` or `map`.
    pub fn list_type(&self) -> Option<&str> {
        Some(self.attributes().list_type.as_str()).filter(|s| !s.is_empty())
    }

    /// `x-kubernetes-list-map-keys`.
    pub fn list_map_keys(&self) -> &[String] {
        &self.attributes().list_map_keys
    }

    /// What a key of [`TypeRef::list_map_keys`] is in an item that does not have it.
    pub fn list_map_default(&self, key: &str) -> Option<Value> {
        let a = self.attributes();
        let at = a.list_map_keys.iter().position(|k| k == key)?;
        serde_json::from_str(a.list_map_defaults.get(at)?).ok()
    }

    /// `x-kubernetes-map-type`: `atomic` or `granular`.
    pub fn map_type(&self) -> Option<&str> {
        Some(self.attributes().map_type.as_str()).filter(|s| !s.is_empty())
    }

    /// Group, version and kind, at the root of a kind.
    pub fn group_version_kind(&self) -> Option<(&str, &str, &str)> {
        self.definition()?.kind.as_deref().map(|(g, v, k)| (g.as_str(), v.as_str(), k.as_str()))
    }

    /// The name of the definition, such as `io.k8s.api.core.v1.Container`.
    pub fn definition_name(&self) -> Option<&str> {
        self.definition().map(|d| &*d.name)
    }

    /// The name of the struct without its package, such as `Container`.
    pub fn struct_name(&self) -> &str {
        self.definition().map_or("", |d| d.name.rsplit('.').next().unwrap_or(""))
    }

    /// How Go spells the type: `[]v1.Container`, `map[string]string`, `int32`.
    pub fn go_type(&self) -> String {
        match self.raw().shape {
            Shape::Any | Shape::Builtin(_) => "interface {}".into(),
            Shape::Object(_) => {
                let name = self.definition_name().unwrap_or("");
                let mut parts = name.rsplit('.');
                match (parts.next(), parts.next()) {
                    (Some(last), Some(package)) => format!("{package}.{last}"),
                    _ => name.to_owned(),
                }
            }
            Shape::Map(node) => format!("map[string]{}", self.at(node).go_type()),
            Shape::List(node) => format!("[]{}", self.at(node).go_type()),
            Shape::String => "string".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Number => "float64".into(),
            Shape::Boolean => "bool".into(),
        }
    }
}

/// The types of all built-in kinds.
pub struct Schemas {
    /// Never freed, as it is needed until the end.
    graph: &'static Graph,
    /// Node of each definition, sorted by name.
    names: Vec<(Box<str>, u32)>,
    /// Node of each kind, sorted.
    kinds: Vec<((String, String, String), u32)>,
}

impl Schemas {
    /// The types of Kubernetes v1.35; built at the first call.
    pub fn builtin() -> &'static Schemas {
        static BUILTIN: LazyLock<Schemas> = LazyLock::new(|| {
            let open = || std::io::BufReader::new(flate2::read::GzDecoder::new(DATA));
            // The file is part of the build and a test reads it.
            build::builtin(open).unwrap_or_else(|e| panic!("the built-in schemas: {e}"))
        });
        &BUILTIN
    }

    /// The type of a kind.
    pub fn type_of(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef> {
        let found = self
            .kinds
            .binary_search_by(|((g, v, k), _)| (g.as_str(), v.as_str(), k.as_str()).cmp(&(group, version, kind)))
            .ok()?;
        Some(TypeRef { graph: Held::Builtin(self.graph), node: self.kinds[found].1 })
    }

    /// The type of a definition, such as `io.k8s.api.core.v1.PodTemplateSpec`.
    pub fn named(&self, definition: &str) -> Option<TypeRef> {
        let found = self.names.binary_search_by(|(n, _)| (**n).cmp(definition)).ok()?;
        Some(TypeRef { graph: Held::Builtin(self.graph), node: self.names[found].1 })
    }

    /// The names of all definitions, sorted.
    pub fn definition_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|(n, _)| &**n)
    }

    /// The definitions as they were written, with descriptions. Read from the compressed file
    /// at every call: keep the result no longer than needed.
    pub fn documents(&self) -> BTreeMap<String, Box<RawValue>> {
        #[derive(serde::Deserialize)]
        struct File {
            definitions: BTreeMap<String, Box<RawValue>>,
        }
        let mut text = Vec::new();
        let read = flate2::read::GzDecoder::new(DATA).read_to_end(&mut text);
        match read.map(|_| serde_json::from_slice::<File>(&text)) {
            Ok(Ok(file)) => file.definitions,
            _ => BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_walked_to_their_merge_keys() {
        let pod = Schemas::builtin().type_of("", "v1", "Pod").unwrap();
        assert_eq!(pod.group_version_kind(), Some(("", "v1", "Pod")));
        let containers = pod.field("spec").unwrap().field("containers").unwrap();
        assert_eq!(containers.patch_merge_key(), Some("name"));
        assert_eq!(containers.go_type(), "[]v1.Container");
        assert!(pod.field("spec").unwrap().is_required("containers"));
        let ports = containers.items().unwrap().field("ports").unwrap();
        assert_eq!(ports.patch_merge_key(), Some("containerPort"));
        assert_eq!(ports.list_map_keys(), ["containerPort", "protocol"]);
        let volumes = pod.field("spec").unwrap().field("volumes").unwrap();
        assert!(volumes.has_patch_strategy("merge") && volumes.has_patch_strategy("retainKeys"));
        let limits = containers.items().unwrap().field("resources").unwrap().field("limits").unwrap();
        assert!(limits.is_map());
        assert_eq!(limits.values().unwrap().shape(), Shape::Quantity);
        assert!(pod.field("nope").is_none());
    }

    #[test]
    fn atomic_structs_say_so() {
        let deployment = Schemas::builtin().type_of("apps", "v1", "Deployment").unwrap();
        let spec = deployment.field("spec").unwrap();
        assert_eq!(spec.field("selector").unwrap().map_type(), Some("atomic"));
        assert!(spec.field("strategy").unwrap().has_patch_strategy("retainKeys"));
    }

    #[test]
    fn recursive_types_end() {
        let schema = Schemas::builtin()
            .named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
            .unwrap();
        let deep = schema.field("properties").unwrap().field("a").unwrap().field("properties").unwrap();
        assert!(deep.is_map());
        assert!(schema.field("default").unwrap().is_any());
    }

    #[test]
    fn custom_types_know_metadata_and_openness() {
        let t = TypeRef::custom(
            "example.org",
            "v1",
            "Widget",
            &serde_json::json!({"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}),
        );
        assert_eq!(t.field("metadata").unwrap().struct_name(), "ObjectMeta");
        assert!(t.field("spec").unwrap().field("other").is_none());
        assert!(t.field("free").unwrap().field("other").unwrap().is_any());
        assert!(t.field("labels").unwrap().is_map());
        assert!(!t.is_typed() && t.field("metadata").unwrap().is_typed());
    }

    #[test]
    fn descriptions_are_read_again() {
        let documents = Schemas::builtin().documents();
        assert!(documents["io.k8s.api.core.v1.Pod"].get().contains("Pod is a collection of containers"));
    }
}
