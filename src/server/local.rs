//! `client::Api` in process: the same pipeline as over HTTP, without socket and parsing of
//! requests. Objects are the `Arc`s of the watch cache.

use std::sync::Arc;

use api::codec::Decoded;
use api::{Object, Resource, Status};
use async_trait::async_trait;
use bytes::Bytes;
use client::api::{Call, Event, Gvr, List, ListParams, PatchKind, Verb, Watch, percent_encode};
use client::wire;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::Server;
use crate::audit::Record;
use crate::http::respond::Reply;
use crate::http::watch::{Start, subscribe};
use crate::registry::{At, DeleteOptions, Selection, WriteContext};
use crate::request::{RequestInfo, User};
use crate::watch_cache::Change;

/// Events that may wait for an in-process watcher.
const EVENTS: usize = 256;

/// The API as one user sees it from inside the server's process.
pub struct Local {
    server: Arc<Server>,
    user: User,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Local({})", self.user.name)
    }
}

impl Server {
    /// A client that acts as `user`.
    pub fn client(self: &Arc<Self>, user: User) -> client::Client {
        client::Client::new(Arc::new(Local { server: self.clone(), user }))
    }
}

fn verb_name(v: Verb) -> &'static str {
    match v {
        Verb::Get => "get",
        Verb::Create => "create",
        Verb::Update => "update",
        Verb::Patch(_) => "patch",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deletecollection",
    }
}

impl Local {
    fn info(&self, verb: &str, gvr: &Gvr, namespace: &str, name: &str, subresource: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.to_owned(),
            path: gvr.path(namespace, name, subresource),
            is_resource: true,
            group: gvr.group.to_string(),
            version: gvr.version.to_string(),
            resource: gvr.plural.to_string(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            ..Default::default()
        }
    }

    /// A list or watch of one name is authorized for that name, as over HTTP. Its record ends here.
    async fn authorized_to_read_many(&self, verb: &str, gvr: &Gvr, params: &ListParams) -> Result<(), Status> {
        let name = crate::request::single_name(&params.field_selector).unwrap_or_default();
        let info = self.info(verb, gvr, &params.namespace, &name, "");
        let selectors = (params.field_selector.clone(), params.label_selector.clone());
        let info = RequestInfo { field_selector: selectors.0, label_selector: selectors.1, ..info };
        let record = self.server.audit().begin_local(&self.user, &info).await?;
        let allowed = self.server.authorize_recorded(&self.user, &info, record.as_deref()).await;
        match (record, &allowed) {
            (None, _) => {}
            (Some(r), Ok(())) if verb == "watch" => r.started(200).await,
            (Some(r), Ok(())) => r.complete(200).await,
            (Some(r), Err(s)) => {
                r.failed(s);
                r.complete(s.code).await;
            }
        }
        allowed
    }

    /// Subresources and virtual resources have their own handlers: the call goes through the
    /// router like any request.
    async fn through_http(&self, call: Call) -> Result<Arc<Object>, Status> {
        let method = match call.verb {
            Verb::Get => http::Method::GET,
            Verb::Create => http::Method::POST,
            Verb::Update => http::Method::PUT,
            Verb::Patch(_) => http::Method::PATCH,
            Verb::Delete | Verb::DeleteCollection => http::Method::DELETE,
        };
        let mut uri = call.gvr.path(&call.namespace, &call.name, &call.subresource);
        for (i, (k, v)) in call.query.iter().enumerate() {
            uri.push(if i == 0 { '?' } else { '&' });
            uri += &format!("{k}={}", percent_encode(v));
        }
        let media = match call.verb {
            Verb::Patch(kind) => kind.content_type(),
            _ => "application/json",
        };
        let mut request = http::Request::new(axum::body::Body::from(call.body.unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().map_err(|e| Status::bad_request(format!("{uri}: {e}")))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        let reply = successful(self.server.serve_as(self.user.clone(), request).await).await?;
        let Ok(body) = reply.into_body().collect().await;
        Ok(Arc::new(Object::from_bytes(body.to_bytes()).map_err(Status::internal)?))
    }

    async fn get(&self, path: &str) -> Result<Reply, Status> {
        let mut request = http::Request::new(axum::body::Body::empty());
        *request.uri_mut() = path.parse().map_err(|e| Status::bad_request(format!("{path}: {e}")))?;
        successful(self.server.serve_as(self.user.clone(), request).await).await
    }

    /// Whether another API server serves a resource.
    fn is_elsewhere(&self, gvr: &Gvr) -> bool {
        self.server.aggregation().backend(&gvr.group, &gvr.version).is_some()
    }

    async fn watch_elsewhere(&self, gvr: &Gvr, params: &ListParams) -> Result<Watch, Status> {
        let path = wire::collection(gvr, params, &[("watch", "true"), ("allowWatchBookmarks", "true")]);
        let body = self.get(&path).await?.into_body();
        let (tx, rx) = mpsc::channel(EVENTS);
        // Ends with its receiver, or with the other server's answer.
        tokio::spawn(async move {
            tokio::select! {
                followed = wire::follow(body, &tx) => if let Err(s) = followed { let _ = tx.send(Err(s)).await; },
                () = tx.closed() => {}
            }
        });
        Ok(rx)
    }

    /// A call that needs no handler of its own.
    async fn plain(
        &self,
        call: Call,
        resource: &Resource,
        info: &RequestInfo,
        audit: Option<Arc<Record>>,
    ) -> Result<Arc<Object>, Status> {
        self.server.authorize_recorded(&self.user, info, audit.as_deref()).await?;
        let ctx = WriteContext { audit, ..WriteContext::new(self.user.clone()) };
        let registry = self.server.registry();
        let (ns, name, sub) = (call.namespace.as_str(), call.name.as_str(), call.subresource.as_str());
        let body = call.body.unwrap_or_default();
        match call.verb {
            Verb::Get => registry.get(resource, ns, name).await,
            Verb::Create => {
                let decoded = api::codec::decode(&body, false, &resource.schema)?;
                Ok(registry.create(&ctx, resource, ns, name, decoded).await?.object)
            }
            Verb::Update => {
                let d = api::codec::decode(&body, false, &resource.schema)?;
                let change = |_: &serde_json::Value| {
                    Ok(Decoded { value: d.value.clone(), unknown: Vec::new(), duplicate: Vec::new() })
                };
                let create = sub.is_empty() && resource.strategy.creates_on_update();
                Ok(registry.update(&ctx, resource, ns, name, sub, create, &change).await?.object)
            }
            Verb::Patch(kind) => {
                let patch = api::codec::parse_tree(&body, false)?;
                let change = |current: &serde_json::Value| {
                    let merged = match kind {
                        PatchKind::Json => api::patch::json(current, &patch)?,
                        PatchKind::Merge => api::patch::merge(current, &patch),
                        PatchKind::Strategic => api::patch::strategic(&resource.schema, current, &patch)?,
                    };
                    api::codec::check(merged, &resource.schema)
                };
                Ok(registry.update(&ctx, resource, ns, name, sub, false, &change).await?.object)
            }
            Verb::Delete | Verb::DeleteCollection => {
                let options = if body.is_empty() {
                    Default::default()
                } else {
                    DeleteOptions::from_value(&api::codec::parse_tree(&body, false)?)?
                };
                Ok(registry.delete(&ctx, resource, ns, name, &options).await?.object().clone())
            }
        }
    }
}

/// An answer, if it is no refusal.
async fn successful(reply: Reply) -> Result<Reply, Status> {
    let code = reply.status();
    if code.is_success() {
        return Ok(reply);
    }
    let Ok(body) = reply.into_body().collect().await;
    // What stands behind this server may answer in plain text.
    Err(serde_json::from_slice(&body.to_bytes())
        .unwrap_or_else(|_| Status::new(code.as_u16(), "", format!("HTTP status {code}"))))
}

#[async_trait]
impl client::Api for Local {
    async fn call(&self, call: Call) -> Result<Arc<Object>, Status> {
        if self.is_elsewhere(&call.gvr) {
            return self.through_http(call).await;
        }
        let resource = self.server.resource(&call.gvr.group, &call.gvr.version, &call.gvr.plural)?;
        // Who asks for another version than the stored one is to get it.
        let plain = resource.stored
            && !matches!(resource.convert, Some(api::Convert::Builtin { .. }))
            && matches!(call.subresource.as_str(), "" | "status")
            && call.query.is_empty()
            && call.verb != Verb::DeleteCollection
            && !(resource.namespaced && call.namespace.is_empty());
        if !plain {
            return self.through_http(call).await;
        }
        let info = self.info(verb_name(call.verb), &call.gvr, &call.namespace, &call.name, &call.subresource);
        let Some(record) = self.server.audit().begin_local(&self.user, &info).await? else {
            return self.plain(call, &resource, &info, None).await;
        };
        record.request(call.body.as_ref().unwrap_or(&Bytes::new()), |_| None);
        let success = if call.verb == Verb::Create { 201 } else { 200 };
        let result = self.plain(call, &resource, &info, Some(record.clone())).await;
        record.called(&result, success).await;
        result
    }

    async fn list(&self, gvr: &Gvr, params: &ListParams) -> Result<List, Status> {
        if self.is_elsewhere(gvr) {
            return wire::list(&self.raw_get(&wire::collection(gvr, params, &[])).await?);
        }
        let resource = self.server.resource(&gvr.group, &gvr.version, &gvr.plural)?;
        self.authorized_to_read_many("list", gvr, params).await?;
        let selection = Selection::new(&resource, &params.namespace, &params.label_selector, &params.field_selector)?;
        // Informers page nothing in process: the objects are shared, not copied.
        let at = match params.resource_version.as_str() {
            "" => At::Consistent,
            "0" => At::Any,
            rv => At::NotOlderThan(rv.parse().map_err(|_| Status::bad_request("resourceVersion must be a number"))?),
        };
        let page = self.server.registry().list(&resource, &selection, at, 0, None).await?;
        Ok(List { items: page.items, resource_version: page.revision.to_string(), continue_token: String::new() })
    }

    async fn watch(&self, gvr: &Gvr, params: &ListParams) -> Result<Watch, Status> {
        if self.is_elsewhere(gvr) {
            return self.watch_elsewhere(gvr, params).await;
        }
        let resource = self.server.resource(&gvr.group, &gvr.version, &gvr.plural)?;
        self.authorized_to_read_many("watch", gvr, params).await?;
        let selection = Selection::new(&resource, &params.namespace, &params.label_selector, &params.field_selector)?;
        let after = params.resource_version.parse().unwrap_or(0);
        let start = Start { after, initial: after == 0, mark_end: false };
        let check = Selection::new(&resource, &params.namespace, &params.label_selector, &params.field_selector)?;
        let prefix = selection.key_prefix();
        let mut s = subscribe(self.server.registry(), &resource, selection, start).await?;
        let (tx, rx) = mpsc::channel(EVENTS);
        // Ends with its receiver: sends fail once that is dropped.
        tokio::spawn(async move {
            let event = |change: Change, o: Arc<Object>| match change {
                Change::Added => Event::Added(o),
                Change::Modified => Event::Modified(o),
                Change::Deleted => Event::Deleted(o),
            };
            let initial = if start.initial { std::mem::take(&mut s.objects) } else { Default::default() };
            for (key, o) in initial.iter() {
                if key.starts_with(&prefix)
                    && check.selects(&resource, o)
                    && tx.send(Ok(Event::Added(o.clone()))).await.is_err()
                {
                    return;
                }
            }
            drop(initial);
            for (change, e) in std::mem::take(&mut s.past) {
                if tx.send(Ok(event(change, e.object.clone()))).await.is_err() {
                    return;
                }
            }
            loop {
                let next = tokio::select! {
                    next = s.live.recv() => next,
                    () = tx.closed() => return,
                };
                let Some((change, e)) = next else {
                    let _ = tx.send(Err(Status::expired("the watch could not keep up and was closed"))).await;
                    return;
                };
                // The start may lie ahead of what the cache had seen.
                let seen = e.event.revision <= after;
                if !seen && tx.send(Ok(event(change, e.event.object.clone()))).await.is_err() {
                    return;
                }
            }
        });
        Ok(rx)
    }

    async fn raw_get(&self, path: &str) -> Result<Bytes, Status> {
        let reply = self.get(path).await?;
        let Ok(body) = reply.into_body().collect().await;
        Ok(body.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::events::v1::Event;
    use api::meta::apis::meta::v1::ObjectMeta;
    use client::PatchKind;
    use serde_json::json;

    use crate::testing::{Testing, admin};

    #[tokio::test]
    async fn objects_come_in_the_version_that_was_asked_for() {
        let t = Testing::start().await;
        let client = t.server.client(admin());
        let event: Event = serde_json::from_value(json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "e", "namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "c", "reportingInstance": "c-1", "action": "Scheduling", "reason": "R",
            "type": "Normal", "note": "n", "regarding": {"kind": "Pod", "namespace": "default"}}))
        .unwrap();
        let made = client.create(&event).await.unwrap();
        assert_eq!(made.note.as_deref(), Some("n"));
        let patch = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
        let ObjectMeta { name, namespace, .. } = made.metadata.clone();
        let (namespace, name) = (namespace.unwrap(), name.unwrap());
        let told = client.patch::<Event>(&namespace, &name, "", PatchKind::Strategic, &patch).await.unwrap();
        assert_eq!(told.series.as_ref().map(|s| s.count), Some(2));
    }
}
