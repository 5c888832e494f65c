//! The v2 document of all that is served. It is kept as texts, one for each path and definition:
//! the tree of a cluster with many custom resources would have ten times their size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schemas::{Reachable, references};
use super::{CustomSchemas, bearer_token, operations, protobuf};
use crate::KUBERNETES_VERSION;
use crate::resource::Resource;

const DEFINITIONS: &str = "#/definitions/";

/// See the module.
#[derive(Debug, Default)]
pub struct V2 {
    paths: BTreeMap<String, Box<str>>,
    definitions: BTreeMap<String, Box<str>>,
}

fn text(value: &Value) -> Box<str> {
    value.to_string().into_boxed_str()
}

impl V2 {
    /// Describes resources.
    pub fn of(resources: &[Arc<Resource>], custom: &CustomSchemas) -> V2 {
        let mut document = V2::default();
        let mut reachable = Reachable::new(resources, custom, true);
        // Group by group, so that there is one group's tree at a time.
        let of = |r: &Arc<Resource>| (r.group.clone(), r.version.clone());
        let mut sorted = resources.to_vec();
        sorted.sort_by_cached_key(of);
        for group in sorted.chunk_by(|a, b| of(a) == of(b)) {
            let paths = operations::paths(group);
            reachable.of(&paths, &mut |name, schema| {
                document.definitions.insert(name, text(&schema));
            });
            document.paths.extend(paths.into_iter().map(|(path, item)| (path, text(&item))));
        }
        document
    }

    fn head() -> Map<String, Value> {
        let head = json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
            "securityDefinitions": {"BearerToken": bearer_token()},
            "security": [{"BearerToken": []}],
        });
        head.as_object().cloned().unwrap_or_default()
    }

    /// The document as JSON.
    pub fn json(&self) -> String {
        let parts = [("definitions", &self.definitions), ("paths", &self.paths)];
        let size: usize = parts.iter().flat_map(|(_, p)| p.iter()).map(|(k, v)| k.len() + v.len() + 8).sum();
        let mut out = String::with_capacity(size + 1024);
        out.push('{');
        for (name, value) in V2::head() {
            out += &format!("{}:{value},", Value::from(name));
        }
        for (i, (name, texts)) in parts.into_iter().enumerate() {
            out += &format!("{}\"{name}\":{{", if i == 0 { "" } else { "," });
            for (i, (key, value)) in texts.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out += &Value::from(key.as_str()).to_string();
                out.push(':');
                out += value;
            }
            out.push('}');
        }
        out.push('}');
        out
    }

    /// The document as gnostic's protobuf.
    pub fn protobuf(&self) -> Vec<u8> {
        protobuf::encode(&V2::head(), trees(&self.paths), trees(&self.definitions))
    }

    /// Adds what another server's document says of the paths below one, with the definitions that
    /// they need. A definition whose name is taken by another gets a name of its own.
    pub fn merge(&mut self, other: &Value, below: &str) {
        let inside = |p: &str| p.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let own = other["paths"].as_object().into_iter().flatten().filter(|(p, _)| inside(p));
        let mut paths: Map<String, Value> = own.map(|(p, item)| (p.clone(), item.clone())).collect();
        let mut needed = BTreeMap::new();
        let mut open = BTreeSet::new();
        paths.values().for_each(|item| references(item, &mut open));
        while let Some(name) = open.pop_first() {
            if needed.contains_key(&name) {
                continue;
            }
            let definition = other["definitions"][&name].clone();
            references(&definition, &mut open);
            needed.insert(name, definition);
        }
        let mut names = HashMap::new();
        for (name, definition) in &needed {
            if self.definitions.get(name).is_some_and(|t| *t != text(definition)) {
                let free = (2..).map(|n| format!("{name}_v{n}")).find(|n| !self.definitions.contains_key(n));
                names.insert(name.clone(), free.unwrap_or_else(|| name.clone()));
            }
        }
        paths.values_mut().for_each(|v| rename(v, &names));
        self.paths.extend(paths.into_iter().map(|(path, item)| (path, text(&item))));
        self.definitions.extend(needed.into_iter().map(|(name, mut definition)| {
            rename(&mut definition, &names);
            (names.get(&name).cloned().unwrap_or(name), text(&definition))
        }));
    }
}

/// The parts one after another, each as a tree.
fn trees(parts: &BTreeMap<String, Box<str>>) -> impl Iterator<Item = (&str, Value)> {
    // Each was made of a tree.
    parts.iter().map(|(name, text)| (name.as_str(), serde_json::from_str(text).unwrap_or_default()))
}

fn rename(value: &mut Value, names: &HashMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("$ref")
                && let Some(new) = text.strip_prefix(DEFINITIONS).and_then(|n| names.get(n))
            {
                *text = format!("{DEFINITIONS}{new}");
            }
            map.values_mut().for_each(|v| rename(v, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| rename(v, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_brings_the_definitions_that_it_needs() {
        let reference = |n: &str| json!({"schema": {"$ref": format!("{DEFINITIONS}{n}")}});
        let texts = |v: Value| v.as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v))).collect();
        let mut all = V2 {
            paths: texts(json!({"/version": {}})),
            definitions: texts(json!({"Meta": {"type": "object"}, "Same": {}})),
        };
        let other = json!({
            "paths": {"/apis/g/v1/roses": reference("Rose"), "/apis/g/v10/x": {}, "/version": {"other": true}},
            "definitions": {"Rose": {"m": reference("Meta"), "s": reference("Same")}, "Meta": {"type": "string"}, "Same": {},
                "Unused": {}}});
        all.merge(&other, "/apis/g/v1");
        let all: Value = serde_json::from_str(&all.json()).unwrap();
        assert_eq!(all["paths"], json!({"/version": {}, "/apis/g/v1/roses": reference("Rose")}));
        assert_eq!(
            all["definitions"],
            json!({"Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "Same": {},
                "Rose": {"m": reference("Meta_v2"), "s": reference("Same")}})
        );
    }
}
