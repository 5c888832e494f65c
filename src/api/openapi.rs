//! OpenAPI documents, made from the table of resources and the committed definitions, so that
//! they never promise what is not served.
//!
//! Built when asked for; the caller caches the bytes it serves, not the trees.

mod operations;
mod protobuf;
mod schemas;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::KUBERNETES_VERSION;
use crate::resource::Resource;

pub use v2::V2;

/// The `openAPIV3Schema` of custom resources, by group, version and kind.
pub type CustomSchemas = BTreeMap<(String, String, String), Arc<Published>>;

/// The schema of a custom resource as it is published: its text, which is a tenth of its tree.
#[derive(Debug)]
pub struct Published {
    text: Box<str>,
    digest: [u8; 32],
}

impl Published {
    /// Takes a schema.
    pub fn new(schema: &Value) -> Published {
        let text = schema.to_string().into_boxed_str();
        let digest = Sha256::digest(text.as_bytes()).into();
        Published { text, digest }
    }

    /// Its tree.
    pub fn schema(&self) -> Value {
        // It was made of a tree.
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// The v3 documents and their URLs, which change with their content: what `/openapi/v3` answers.
pub fn v3_index(resources: &[Arc<Resource>]) -> Value {
    v3_index_with(resources, &CustomSchemas::new())
}

/// As [`v3_index`], with the schemas of custom resources.
pub fn v3_index_with(resources: &[Arc<Resource>], custom: &CustomSchemas) -> Value {
    let groups: BTreeSet<(&str, &str)> = resources.iter().map(|r| (r.group.as_str(), r.version.as_str())).collect();
    let paths: Map<String, Value> = groups
        .into_iter()
        .map(|(group, version)| {
            let path = match group {
                "" => format!("api/{version}"),
                _ => format!("apis/{group}/{version}"),
            };
            let url = format!("/openapi/v3/{path}?hash={}", hash(group, version, resources, custom));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({ "paths": paths })
}

/// A hash of all that a document depends on, much cheaper than the document itself.
pub fn hash(group: &str, version: &str, resources: &[Arc<Resource>], custom: &CustomSchemas) -> String {
    let mut digest = Sha256::new();
    digest.update(crate::VERSION);
    for r in resources.iter().filter(|r| r.group == group && r.version == version) {
        digest.update(format!("{} {} {} {:?} {:?};", r.kind, r.plural, r.namespaced, r.verbs, r.subresources));
        if let Some(schema) = custom.get(&(r.group.clone(), r.version.clone(), r.kind.clone())) {
            digest.update(schema.digest);
        }
    }
    digest.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// The v3 document of one group and version.
pub fn v3(group: &str, version: &str, resources: &[Arc<Resource>]) -> Value {
    v3_with(group, version, resources, &CustomSchemas::new())
}

/// As [`v3`], with the schemas of custom resources.
pub fn v3_with(group: &str, version: &str, resources: &[Arc<Resource>], custom: &CustomSchemas) -> Value {
    let mine: Vec<Arc<Resource>> =
        resources.iter().filter(|r| r.group == group && r.version == version).cloned().collect();
    let paths = operations::paths(&mine);
    let mut definitions = Map::new();
    schemas::Reachable::new(&mine, custom, false).of(&paths, &mut |name, schema| {
        definitions.insert(name, schema);
    });
    let paths: Map<String, Value> = paths.into_iter().map(|(path, item)| (path, operations::to_v3(item))).collect();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"BearerToken": bearer_token()},
        },
    })
}

fn bearer_token() -> Value {
    json!({"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"})
}

#[cfg(test)]
mod tests;
