//! What an API server beside this one says of itself: discovery and OpenAPI.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Request, StatusCode};
use serde_json::{Map, Value, json};

use super::{Backend, proxy};
use crate::Server;
use crate::request::User;

/// The documents of one backend.
#[derive(Clone, Default)]
pub(super) struct Documents {
    /// Its resources, in the aggregated form.
    resources: Vec<Value>,
    /// Path, without `/openapi/v3/`, and the URL that names its state.
    pub(super) openapi_v3: BTreeMap<String, String>,
    pub(super) openapi_v2: Option<Arc<Value>>,
    v2_tag: Option<HeaderValue>,
}

/// The head of a request that this server makes on its own account.
fn head(backend: &Backend, path: &str) -> Result<Parts, String> {
    let url = format!("https://{}:{}{path}", backend.service.host(), backend.service.port());
    let request = Request::get(url).header(ACCEPT, "application/json").body(()).map_err(|e| e.to_string())?;
    let (mut parts, ()) = request.into_parts();
    // It may read everything, whatever the server's own rules are.
    let user =
        User { name: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..Default::default() };
    proxy::identify(&mut parts.headers, &user);
    Ok(parts)
}

async fn send(server: &Arc<Server>, backend: &Backend, head: &Parts) -> Result<(http::response::Parts, Bytes), String> {
    let outbound = backend.outbound.as_ref().map_err(String::clone)?;
    outbound.send_for_headers(head, Bytes::new(), backend.address(server)).await
}

/// Reads a path of a backend.
pub(super) async fn get(server: &Arc<Server>, backend: &Backend, path: &str) -> Result<(StatusCode, Bytes), String> {
    let (parts, body) = send(server, backend, &head(backend, path)?).await?;
    Ok((parts.status, body))
}

/// Takes in a backend's list of resources, and reads its other documents where it has them.
pub(super) async fn refresh(server: &Arc<Server>, backend: &Backend, list: &[u8]) {
    let mut new = backend.documents.load().as_deref().cloned().unwrap_or_default();
    match serde_json::from_slice::<Value>(list) {
        Ok(list) => new.resources = resources(&backend.spec.group, &backend.spec.version, &list),
        Err(e) => tracing::debug!(error = %e, group = backend.spec.group, "an API server's resources cannot be read"),
    }
    new.openapi_v3 = match get(server, backend, "/openapi/v3").await {
        Ok((StatusCode::OK, body)) => v3_paths(backend, &body),
        // Older ones have none.
        _ => BTreeMap::new(),
    };
    if let Err(why) = refresh_v2(server, backend, &mut new).await {
        tracing::debug!(error = why, group = backend.spec.group, "an API server's OpenAPI document cannot be read");
    }
    let same = |d: &Arc<Documents>| {
        (&d.openapi_v2, &d.openapi_v3, &d.resources) == (&new.openapi_v2, &new.openapi_v3, &new.resources)
    };
    let changed = !backend.documents.load().as_ref().is_some_and(same);
    backend.documents.store(Some(Arc::new(new)));
    if changed {
        server.aggregation().documents_changed();
    }
}

async fn refresh_v2(server: &Arc<Server>, backend: &Backend, documents: &mut Documents) -> Result<(), String> {
    let mut head = head(backend, "/openapi/v2")?;
    if let Some(tag) = &documents.v2_tag {
        head.headers.insert(IF_NONE_MATCH, tag.clone());
    }
    let (parts, body) = send(server, backend, &head).await?;
    match parts.status {
        StatusCode::OK => {
            let document = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            documents.openapi_v2 = Some(Arc::new(document));
            documents.v2_tag = parts.headers.get(ETAG).cloned();
        }
        StatusCode::NOT_MODIFIED => {}
        _ => (documents.openapi_v2, documents.v2_tag) = (None, None),
    }
    Ok(())
}

/// The documents of the backend's own group and version, from its index.
fn v3_paths(backend: &Backend, index: &[u8]) -> BTreeMap<String, String> {
    let own = format!("apis/{}/{}", backend.spec.group, backend.spec.version);
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    let url = index["paths"][&own]["serverRelativeURL"].as_str().map(str::to_owned);
    url.map(|url| (own, url)).into_iter().collect()
}

/// The resources of an APIResourceList, in the aggregated form.
fn resources(group: &str, version: &str, list: &Value) -> Vec<Value> {
    let mut all: Vec<(String, Map<String, Value>)> = Vec::new();
    for r in list["resources"].as_array().into_iter().flatten() {
        let text = |field: &str, usual: &str| match r[field].as_str() {
            Some(s) if !s.is_empty() => s.to_owned(),
            _ => usual.to_owned(),
        };
        let kind = json!({"group": text("group", group), "version": text("version", version), "kind": r["kind"]});
        let verbs = r["verbs"].as_array().cloned().unwrap_or_default();
        let name = r["name"].as_str().unwrap_or_default();
        let (parent, sub) = name.split_once('/').map_or((name, None), |(p, s)| (p, Some(s)));
        let at = match all.iter().position(|(n, _)| n == parent) {
            Some(at) => at,
            None => {
                let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
                let entry = json!({"resource": parent, "scope": scope});
                all.push((parent.to_owned(), entry.as_object().cloned().unwrap_or_default()));
                all.len() - 1
            }
        };
        let entry = &mut all[at].1;
        if let Some(sub) = sub {
            let sub = json!({"subresource": sub, "responseKind": kind, "verbs": verbs});
            let list = entry.entry("subresources").or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|l| l.push(sub.clone()));
            continue;
        }
        entry.insert("responseKind".into(), kind);
        entry.insert("singularResource".into(), r["singularName"].as_str().unwrap_or_default().into());
        entry.insert("verbs".into(), verbs.into());
        for field in ["shortNames", "categories"] {
            if r[field].as_array().is_some_and(|l| !l.is_empty()) {
                entry.insert(field.into(), r[field].clone());
            }
        }
    }
    all.into_iter().map(|(_, entry)| Value::Object(entry)).collect()
}

/// A version in the aggregated form; what was known last stays, marked as stale.
pub(super) fn entry(version: &str, documents: Option<&Documents>, available: bool) -> Value {
    let freshness = if available && documents.is_some() { "Current" } else { "Stale" };
    let mut entry = json!({"version": version, "freshness": freshness});
    if let Some(d) = documents.filter(|d| !d.resources.is_empty()) {
        entry["resources"] = d.resources.clone().into();
    }
    entry
}
