//! `/openapi/v2` and `/openapi/v3`: the documents of what is served, those of other API servers
//! among them.
//!
//! A document is made when it is asked for and kept while it is in demand; what tells its state is
//! known without it, so that a client that has it already costs next to nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use api::openapi as documents;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::http::Call;
use crate::http::respond::{self, Reply};
use crate::served::Served;
use crate::{Server, discovery};

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How long documents are kept: clients come in bursts.
const KEPT: Duration = Duration::from_secs(600);

/// A document that is served from here.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Document {
    V2Json,
    V2Protobuf,
    V3Index,
    /// Of a group and version.
    V3(String, String),
    /// Aggregated discovery, of the core group or of all others.
    Discovery {
        core: bool,
    },
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
fn tag_of(body: impl AsRef<[u8]>) -> String {
    Sha256::digest(body).iter().map(|b| format!("{b:02X}")).collect()
}

/// A document, or that the client has it already.
fn tagged(call: &Call, media: &'static str, tag: &str, body: impl FnOnce() -> Bytes) -> Reply {
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
                let mut v2 = documents::V2::of(&served.resources, &served.schemas);
                for (group, version, backend) in self.aggregation().backends() {
                    if let Some(other) = backend.openapi_v2() {
                        v2.merge(&other, &format!("/apis/{group}/{version}"));
                    }
                }
                if protobuf { v2.protobuf().into() } else { v2.json().into() }
            })
        })
    }

    fn openapi_v3_index(&self, call: &Call) -> Reply {
        let served = self.table().current();
        self.known(call, &served, Document::V3Index, JSON, || {
            let mut index = documents::v3_index_with(&served.resources, &served.schemas);
            for (group, version, backend) in self.aggregation().backends() {
                if let Some(paths) = index["paths"].as_object_mut() {
                    // What another server serves is described by it alone.
                    paths.remove(&format!("apis/{group}/{version}"));
                    let urls = backend.openapi_v3().into_iter();
                    paths.extend(urls.map(|(p, url)| (p, json!({"serverRelativeURL": url}))));
                }
            }
            index.to_string()
        })
    }

    /// `/api` and `/apis` in their aggregated form.
    pub(crate) fn aggregated_discovery(&self, call: &Call, core: bool, media: &'static str) -> Reply {
        let served = self.table().current();
        self.known(call, &served, Document::Discovery { core }, media, || {
            discovery::aggregated(&self.groups(), &served.resources, core).to_string()
        })
    }

    /// A document whose tag follows from its text; both are kept.
    fn known(
        &self,
        call: &Call,
        served: &Served,
        document: Document,
        media: &'static str,
        make: impl FnOnce() -> String,
    ) -> Reply {
        let of = self.openapi_state(served);
        let body = self.documents().body(of, &document, || make().into());
        let tag = self.documents().tag(of, &document, || tag_of(&body));
        tagged(call, media, &tag, || body)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Testing, admin};
    use serde_json::Value;

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
