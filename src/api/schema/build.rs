//! Type graphs from JSON Schema: the committed definitions, or a custom resource's schema.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{Attributes, Definition, Field, Graph, Node, OBJECT_META, Schemas, Shape};

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

#[derive(Deserialize)]
struct File {
    definitions: BTreeMap<String, Schema>,
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

    fn attributes(&mut self, s: &Schema, inherited: u16) -> u16 {
        let mut wanted = Attributes {
            merge_key: s.merge_key.clone(),
            strategy: s.strategy.clone(),
            list_type: s.list_type.clone(),
            list_map_keys: s.list_map_keys.clone(),
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
                node: if self.graph.typed { self.add(field, schema) } else { self.add(&format!("{name}.{field}"), schema) },
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

/// All built-in types.
pub(super) fn builtin(file: impl Read) -> Result<Schemas, serde_json::Error> {
    let file: File = serde_json::from_reader(file)?;
    let mut b = Builder::new(true);
    // Definitions first, so that references (also circular ones) find a number; fields after.
    for (name, s) in &file.definitions {
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
            _ => b.shape(name, s).0,
        };
        let attributes = b.attributes(s, 0);
        b.shapes.insert(name.clone(), (shape, attributes));
    }
    let mut names = Vec::new();
    let mut kinds = Vec::new();
    for (name, s) in &file.definitions {
        let (shape, attributes) = b.shapes[name];
        if let Shape::Object(i) = shape {
            let fields = b.fields(name, s);
            b.graph.definitions[i as usize].fields = fields;
        }
        let node = b.node(Node { shape, attributes });
        names.push((name.as_str().into(), node));
        if let [only] = &s.kinds[..] {
            kinds.push(((only.group.clone(), only.version.clone(), only.kind.clone()), node));
        }
    }
    for (name, s) in &file.definitions {
        // DeleteOptions exists in every group; the one in "" stands for all.
        if s.kinds.len() > 1 {
            let node = names.binary_search_by(|(n, _): &(Box<str>, u32)| (**n).cmp(name)).map(|i| names[i].1).unwrap_or(0);
            kinds.extend(s.kinds.iter().map(|k| ((k.group.clone(), k.version.clone(), k.kind.clone()), node)));
        }
    }
    kinds.sort();
    let mut graph = b.graph;
    graph.nodes.shrink_to_fit();
    graph.definitions.shrink_to_fit();
    Ok(Schemas { graph: Arc::new(graph), names, kinds })
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
