//! `/openapi/v2` and `/openapi/v3`: the documents of what is served, those of other API servers
//! among them.
//!
//! A document is made when it is asked for and kept while it is in demand; what tells its state is
//! known without it, so that a client that has it already costs next to nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use api::openapi as documents;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::Server;
use crate::http::Call;
use crate::http::respond::{self, Reply};
use crate::served::Served;

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How long documents are kept: clients come in bursts.
const KEPT: Duration = Duration::from_secs(600);

/// A document that is served from here.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Document {
    V2Json,
    V2Protobuf,
    /// Of a group and version.
    V3(String, String),
}

/// The documents that are in demand, of one state of the table.
#[derive(Default)]
struct Made {
    /// The state: of the table, and of what other servers say.
    of: (u64, u64),
    bodies: HashMap<Document, Bytes>,
    tags: HashMap<Document, String>,
    /// Whether somebody will drop the bodies.
    expires: bool,
}

/// See the module.
#[derive(Default)]
pub struct Documents(Arc<Mutex<Made>>);

impl Documents {
    fn lock(&self, of: (u64, u64)) -> std::sync::MutexGuard<'_, Made> {
        let mut made = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if made.of != of {
            *made = Made { of, expires: made.expires, ..Default::default() };
        }
        made
    }

    fn tag(&self, of: (u64, u64), document: &Document, tell: impl FnOnce() -> String) -> String {
        if let Some(tag) = self.lock(of).tags.get(document) {
            return tag.clone();
        }
        let tag = tell();
        self.lock(of).tags.insert(document.clone(), tag.clone());
        tag
    }

    fn body(&self, of: (u64, u64), document: &Document, make: impl FnOnce() -> Bytes) -> Bytes {
        if let Some(body) = self.lock(of).bodies.get(document) {
            return body.clone();
        }
        let body = make();
        let mut made = self.lock(of);
        made.bodies.insert(document.clone(), body.clone());
        if !std::mem::replace(&mut made.expires, true) {
            let kept = self.0.clone();
            tokio::spawn(async move {
                tokio::time::sleep(KEPT).await;
                let mut made = kept.lock().unwrap_or_else(|e| e.into_inner());
                (made.bodies, made.expires) = (HashMap::new(), false);
            });
        }
        body
    }
}

fn header<'a>(call: &'a Call, name: &http::HeaderName) -> &'a str {
    call.parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What tells the state of a document.
pub(crate) fn tag_of(body: &str) -> String {
    Sha256::digest(body).iter().map(|b| format!("{b:02X}")).collect()
}

/// A document, or that the client has it already.
pub(crate) fn tagged(call: &Call, media: &'static str, tag: &str, body: impl FnOnce() -> Bytes) -> Reply {
    let tag = format!("\"{tag}\"");
    let known = header(call, &IF_NONE_MATCH).split(',').any(|t| t.trim().trim_start_matches("W/") == tag);
    let mut reply = if known { respond::bytes(304, media, "") } else { respond::bytes(200, media, body()) };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        reply.headers_mut().insert(ETAG, tag);
    }
    reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    reply
}

impl Server {
    /// Serves a path below `/openapi`.
    ///
    /// # Errors
    /// 404.
    pub async fn openapi(self: &Arc<Self>, call: Call, rest: &[&str]) -> Result<Reply, Status> {
        match rest {
            ["v2"] => Ok(self.openapi_v2(&call)),
            ["v3"] => Ok(self.openapi_v3_index(&call)),
            ["v3", "api", version] => self.openapi_v3(&call, "", version),
            ["v3", "apis", group, version] => match self.aggregation().backend(group, version) {
                Some(backend) => {
                    let body = crate::http::RequestBody::empty();
                    Ok(crate::aggregation::proxy::serve(self, call, &backend, body).await)
                }
                None => self.openapi_v3(&call, group, version),
            },
            _ => Err(Status::no_such_resource()),
        }
    }

    fn openapi_state(&self, served: &Served) -> (u64, u64) {
        (served.number, self.aggregation().documents_number())
    }

    fn openapi_v2(&self, call: &Call) -> Reply {
        let served = self.table().current();
        let of = self.openapi_state(&served);
        let protobuf = header(call, &ACCEPT).contains("com.github.proto-openapi.spec.v2");
        let (document, media) = if protobuf { (Document::V2Protobuf, V2_PROTOBUF) } else { (Document::V2Json, JSON) };
        let tag = self.documents().tag(of, &document, || {
            let mut state = documents::v3_index_with(&served.resources, &served.schemas).to_string();
            for (.., backend) in self.aggregation().backends() {
                state += &backend.openapi_v2().map(|d| d.to_string()).unwrap_or_default();
            }
            tag_of(&state)
        });
        tagged(call, media, &tag, || {
            self.documents().body(of, &document, || {
                let mut v2 = documents::v2_with(&served.resources, &served.schemas);
                for (group, version, backend) in self.aggregation().backends() {
                    if let Some(other) = backend.openapi_v2() {
                        merge(&mut v2, &other, &format!("/apis/{group}/{version}"));
                    }
                }
                if protobuf { documents::v2_protobuf(&v2).into() } else { v2.to_string().into() }
            })
        })
    }

    fn openapi_v3_index(&self, call: &Call) -> Reply {
        let served = self.table().current();
        let mut index = documents::v3_index_with(&served.resources, &served.schemas);
        for (group, version, backend) in self.aggregation().backends() {
            if let Some(paths) = index["paths"].as_object_mut() {
                // What another server serves is described by it alone.
                paths.remove(&format!("apis/{group}/{version}"));
                paths.extend(backend.openapi_v3().into_iter().map(|(p, url)| (p, json!({"serverRelativeURL": url}))));
            }
        }
        let body = index.to_string();
        tagged(call, JSON, &tag_of(&body), || body.into())
    }

    fn openapi_v3(&self, call: &Call, group: &str, version: &str) -> Result<Reply, Status> {
        let served = self.table().current();
        if !served.resources.iter().any(|r| r.group == group && r.version == version) {
            return Err(Status::no_such_resource());
        }
        let of = self.openapi_state(&served);
        let document = Document::V3(group.to_owned(), version.to_owned());
        let tag =
            self.documents().tag(of, &document, || documents::hash(group, version, &served.resources, &served.schemas));
        let wanted = call.query.get("hash");
        if wanted.is_some_and(|w| w != tag) {
            let mut moved = respond::bytes(301, JSON, "");
            let location = format!("{}?hash={tag}", call.info.path);
            moved.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).map_err(Status::internal)?);
            return Ok(moved);
        }
        let mut reply = tagged(call, JSON, &tag, || {
            self.documents().body(of, &document, || {
                documents::v3_with(group, version, &served.resources, &served.schemas).to_string().into()
            })
        });
        if wanted.is_some() {
            // This URL names one state for ever.
            reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        }
        Ok(reply)
    }
}

const DEFINITIONS: &str = "#/definitions/";

/// Adds what another server's document says of the paths below one, with the definitions that they
/// need. A definition whose name is taken by another gets a name of its own.
fn merge(all: &mut Value, other: &Value, below: &str) {
    let inside = |p: &str| p.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let own = other["paths"].as_object().into_iter().flatten().filter(|(p, _)| inside(p));
    let mut paths: Map<String, Value> = own.map(|(p, item)| (p.clone(), item.clone())).collect();
    let mut needed = BTreeMap::new();
    let mut open: Vec<String> = paths.values().flat_map(references).collect();
    while let Some(name) = open.pop() {
        if needed.contains_key(&name) {
            continue;
        }
        let definition = other["definitions"][&name].clone();
        open.extend(references(&definition));
        needed.insert(name, definition);
    }
    let taken = &all["definitions"];
    let mut names = HashMap::new();
    for (name, definition) in &needed {
        if taken.get(name).is_some_and(|t| t != definition) {
            let free = (2..).map(|n| format!("{name}_v{n}")).find(|n| taken.get(n).is_none());
            names.insert(name.clone(), free.unwrap_or_else(|| name.clone()));
        }
    }
    paths.values_mut().for_each(|v| rename(v, &names));
    for (section, added) in [
        ("paths", paths),
        (
            "definitions",
            needed
                .into_iter()
                .map(|(name, mut definition)| {
                    rename(&mut definition, &names);
                    (names.get(&name).cloned().unwrap_or(name), definition)
                })
                .collect(),
        ),
    ] {
        if let Some(map) = all[section].as_object_mut() {
            map.extend(added);
        }
    }
}

/// The definitions that a part of a document refers to.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let own = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(DEFINITIONS));
            own.map(str::to_owned).into_iter().chain(map.values().flat_map(references)).collect()
        }
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
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
    use crate::testing::{Testing, admin};

    #[test]
    fn a_document_brings_the_definitions_that_it_needs() {
        let reference = |n: &str| json!({"schema": {"$ref": format!("{DEFINITIONS}{n}")}});
        let mut all = json!({"paths": {"/version": {}}, "definitions": {"Meta": {"type": "object"}, "Same": {}}});
        let other = json!({
            "paths": {"/apis/g/v1/roses": reference("Rose"), "/apis/g/v10/x": {}, "/version": {"other": true}},
            "definitions": {"Rose": {"m": reference("Meta"), "s": reference("Same")}, "Meta": {"type": "string"}, "Same": {},
                "Unused": {}}});
        merge(&mut all, &other, "/apis/g/v1");
        assert_eq!(all["paths"], json!({"/version": {}, "/apis/g/v1/roses": reference("Rose")}));
        assert_eq!(
            all["definitions"],
            json!({"Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "Same": {},
                "Rose": {"m": reference("Meta_v2"), "s": reference("Same")}})
        );
    }

    #[tokio::test]
    async fn a_client_that_has_a_document_is_told_so() {
        let t = Testing::start().await;
        let get = async |path: &str, tag: &str| {
            let request = http::Request::get(path).header(IF_NONE_MATCH, tag).body(axum::body::Body::empty()).unwrap();
            let reply = t.server.serve_as(admin(), request).await;
            let header = |n| reply.headers().get(n).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
            (reply.status().as_u16(), header(ETAG), header(LOCATION))
        };
        let (_, index) = t.http("GET", "/openapi/v3", "", &Value::Null).await;
        let apps = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
        for path in ["/openapi/v2", "/openapi/v3", &apps] {
            let (code, tag, _) = get(path, "").await;
            assert_eq!((code, tag.len()), (200, 66), "{path}");
            assert_eq!(get(path, &tag).await.0, 304, "{path}");
        }
        let (code, _, location) = get("/openapi/v3/apis/apps/v1?hash=old", "").await;
        assert_eq!((code, location), (301, apps));
    }
}
