//! Type graphs from JSON Schema: the committed definitions, or a custom resource's schema.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{Attributes, Definition, Field, Graph, Node, OBJECT_META, Schemas, Shape};

/// Structs of upstream that have no fields; what else is an object without any takes all JSON.
const FIELDLESS: [&str; 1] = [".CustomResourceSubresourceStatus"];

/// The part of a JSON Schema that types are made of. Descriptions are skipped while reading.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Schema {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    format: Option<String>,
    items: Option<Box<Schema>>,
    #[serde(rename = "additionalProperties")]
    additional: Option<Additional>,
    properties: Option<BTreeMap<String, Schema>>,
    required: Vec<String>,
    #[serde(rename = "x-kubernetes-patch-merge-key")]
    merge_key: String,
    #[serde(rename = "x-kubernetes-patch-strategy")]
    strategy: String,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: String,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    map_type: String,
    default: Option<Value>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    open: bool,
    #[serde(rename = "x-kubernetes-int-or-string")]
    int_or_string: bool,
    #[serde(rename = "x-kubernetes-embedded-resource")]
    embedded: bool,
    #[serde(rename = "x-kubernetes-group-version-kind")]
    kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Additional {
    Of(Box<Schema>),
    Allowed(serde::de::IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

struct Builder {
    graph: Graph,
    seen: HashMap<Node, u32>,
    /// What each named definition is, for references.
    shapes: HashMap<String, (Shape, u16)>,
}

/// A graph with one node that keeps any JSON.
pub(super) fn any_graph() -> Graph {
    Builder::new(false).graph
}

impl Builder {
    fn new(typed: bool) -> Builder {
        let any = Node { shape: Shape::Any, attributes: 0 };
        Builder {
            graph: Graph { nodes: vec![any], attributes: vec![Attributes::default()], typed, ..Default::default() },
            seen: HashMap::from([(any, 0)]),
            shapes: HashMap::new(),
        }
    }

    fn node(&mut self, node: Node) -> u32 {
        if let Some(found) = self.seen.get(&node) {
            return *found;
        }
        let index = self.graph.nodes.len() as u32;
        self.graph.nodes.push(node);
        self.seen.insert(node, index);
        index
    }

    /// JSON of what a key of a list is in an item that does not have it.
    fn key_default(&self, s: &Schema, key: &str) -> String {
        if self.graph.typed {
            // The one such key of built-in kinds; their definitions say it in words only.
            return if key == "protocol" { "\"TCP\"".to_owned() } else { String::new() };
        }
        let of = s.items.as_deref().and_then(|i| i.properties.as_ref()?.get(key)?.default.as_ref());
        of.map_or(String::new(), Value::to_string)
    }

    fn attributes(&mut self, s: &Schema, inherited: u16) -> u16 {
        let mut wanted = Attributes {
            merge_key: s.merge_key.clone(),
            strategy: s.strategy.clone(),
            list_type: s.list_type.clone(),
            list_map_keys: s.list_map_keys.clone(),
            list_map_defaults: s.list_map_keys.iter().map(|k| self.key_default(s, k)).collect(),
            map_type: s.map_type.clone(),
        };
        if wanted.map_type.is_empty() {
            wanted.map_type = self.graph.attributes[inherited as usize].map_type.clone();
        }
        match self.graph.attributes.iter().position(|a| *a == wanted) {
            Some(found) => found as u16,
            None => {
                self.graph.attributes.push(wanted);
                (self.graph.attributes.len() - 1) as u16
            }
        }
    }

    fn shape(&mut self, name: &str, s: &Schema) -> (Shape, u16) {
        if let Some(reference) = &s.reference {
            let target = reference.rsplit('/').next().unwrap_or_default();
            return self.shapes.get(target).copied().unwrap_or((Shape::Any, 0));
        }
        if s.int_or_string {
            return (Shape::IntOrString, 0);
        }
        let shape = match (s.kind.as_deref(), s.format.as_deref()) {
            (Some("string"), Some("byte")) if self.graph.typed => Shape::Bytes,
            (Some("string"), Some("date-time")) if self.graph.typed => Shape::Time,
            (Some("string"), Some("int-or-string")) => Shape::IntOrString,
            (Some("string"), _) => Shape::String,
            (Some("integer"), Some("int32")) => Shape::Int32,
            (Some("integer"), _) => Shape::Int64,
            (Some("number"), _) => Shape::Number,
            (Some("boolean"), _) => Shape::Boolean,
            (Some("array"), _) => {
                let item = s.items.as_deref().map_or(0, |i| self.add(name, i));
                Shape::List(item)
            }
            _ if s.properties.is_some() || (!self.graph.typed && s.additional.is_none() && s.kind.is_some()) => {
                self.definition(name, s)
            }
            (Some("object"), _) if FIELDLESS.iter().any(|fieldless| name.ends_with(fieldless)) => {
                self.definition(name, s)
            }
            (Some("object"), _) => match &s.additional {
                Some(Additional::Of(values)) => {
                    let node = self.add(name, values);
                    Shape::Map(node)
                }
                Some(Additional::Allowed(_)) | None => Shape::Any,
            },
            _ => Shape::Any,
        };
        (shape, 0)
    }

    fn definition(&mut self, name: &str, s: &Schema) -> Shape {
        let index = self.graph.definitions.len();
        self.graph.definitions.push(Definition::default());
        let mut d = Definition { name: name.into(), open: s.open, embedded: s.embedded, ..Default::default() };
        if let [only] = &s.kinds[..] {
            d.kind = Some(Box::new((only.group.clone(), only.version.clone(), only.kind.clone())));
        }
        self.graph.definitions[index] = d;
        let fields = self.fields(name, s);
        self.graph.definitions[index].fields = fields;
        Shape::Object(index as u32)
    }

    fn fields(&mut self, name: &str, s: &Schema) -> Box<[Field]> {
        let Some(properties) = &s.properties else { return Box::default() };
        properties
            .iter()
            .map(|(field, schema)| Field {
                name: field.as_str().into(),
                node: if self.graph.typed {
                    self.add(field, schema)
                } else {
                    self.add(&format!("{name}.{field}"), schema)
                },
                required: s.required.contains(field),
            })
            .collect()
    }

    fn add(&mut self, name: &str, s: &Schema) -> u32 {
        let (shape, inherited) = self.shape(name, s);
        let attributes = self.attributes(s, inherited);
        self.node(Node { shape, attributes })
    }
}

/// Hands each definition of the file to a function, one at a time: the whole file as a tree
/// would cost megabytes that the allocator keeps.
fn each_definition(file: impl Read, visit: &mut dyn FnMut(String, Schema)) -> Result<(), serde_json::Error> {
    struct Each<'a>(&'a mut dyn FnMut(String, Schema));
    impl<'de> Visitor<'de> for Each<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of definitions")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, schema)) = map.next_entry()? {
                (self.0)(name, schema);
            }
            Ok(())
        }
    }
    impl<'de> DeserializeSeed<'de> for Each<'_> {
        type Value = ();
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    struct File<'a>(&'a mut dyn FnMut(String, Schema));
    impl<'de> Visitor<'de> for File<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object with definitions")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<String>()? {
                match key.as_str() {
                    "definitions" => map.next_value_seed(Each(&mut *self.0))?,
                    _ => map.next_value::<serde::de::IgnoredAny>().map(drop)?,
                }
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_reader(file).deserialize_map(File(visit))
}

/// All built-in types. `open` opens the file; it is read twice.
pub(super) fn builtin<R: Read>(open: impl Fn() -> R) -> Result<Schemas, serde_json::Error> {
    let mut b = Builder::new(true);
    // Definitions first, so that references (also circular ones) find a number; fields after.
    each_definition(open(), &mut |name, s| {
        let shape = match name.rsplit('.').next().unwrap_or_default() {
            "Quantity" => Shape::Quantity,
            "MicroTime" => Shape::MicroTime,
            _ if s.properties.is_some() => {
                let mut d = Definition { name: name.as_str().into(), ..Default::default() };
                if let [only] = &s.kinds[..] {
                    d.kind = Some(Box::new((only.group.clone(), only.version.clone(), only.kind.clone())));
                }
                b.graph.definitions.push(d);
                Shape::Object((b.graph.definitions.len() - 1) as u32)
            }
            _ => b.shape(&name, &s).0,
        };
        let attributes = b.attributes(&s, 0);
        b.shapes.insert(name, (shape, attributes));
    })?;
    let mut names: Vec<(Box<str>, u32)> = Vec::new();
    let mut kinds = Vec::new();
    each_definition(open(), &mut |name, s| {
        let (shape, attributes) = b.shapes[&name];
        if let Shape::Object(i) = shape {
            let fields = b.fields(&name, &s);
            b.graph.definitions[i as usize].fields = fields;
        }
        let node = b.node(Node { shape, attributes });
        // DeleteOptions and WatchEvent are kinds of every group.
        kinds.extend(s.kinds.into_iter().map(|k| ((k.group, k.version, k.kind), node)));
        names.push((name.into(), node));
    })?;
    names.sort();
    kinds.sort();
    names.shrink_to_fit();
    kinds.shrink_to_fit();
    let mut graph = b.graph;
    graph.nodes.shrink_to_fit();
    graph.definitions.shrink_to_fit();
    Ok(Schemas { graph: Box::leak(Box::new(graph)), names, kinds })
}

/// The type of a custom resource.
pub(super) fn custom_graph(group: &str, version: &str, kind: &str, schema: &Value) -> (Graph, u32) {
    let schema = Schema::deserialize(schema).unwrap_or_else(|_| Schema { open: true, ..Default::default() });
    let mut b = Builder::new(false);
    let mut root = b.definition(kind, &schema);
    if let Shape::Object(i) = root {
        complete(&mut b, i as usize);
        if !kind.is_empty() {
            b.graph.definitions[i as usize].kind = Some(Box::new((group.into(), version.into(), kind.into())));
        }
    } else {
        root = Shape::Any;
    }
    for i in 0..b.graph.definitions.len() {
        if b.graph.definitions[i].embedded {
            complete(&mut b, i);
        }
    }
    let node = b.node(Node { shape: root, attributes: 0 });
    (b.graph, node)
}

/// Gives a definition the three fields that every object has.
fn complete(b: &mut Builder, definition: usize) {
    let string = b.node(Node { shape: Shape::String, attributes: 0 });
    let meta = Schemas::builtin().named(OBJECT_META).map_or(0, |t| t.node);
    let meta = b.node(Node { shape: Shape::Builtin(meta), attributes: 0 });
    let d = &mut b.graph.definitions[definition];
    let mut fields: Vec<Field> = std::mem::take(&mut d.fields)
        .into_vec()
        .into_iter()
        .filter(|f| !matches!(&*f.name, "apiVersion" | "kind" | "metadata"))
        .collect();
    for (name, node) in [("apiVersion", string), ("kind", string), ("metadata", meta)] {
        fields.push(Field { name: name.into(), node, required: false });
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    d.fields = fields.into_boxed_slice();
}
