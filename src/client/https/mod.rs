//! [`Api`] over TLS: how agents and commands reach the servers.
//!
//! Calls and watches are requests on a few shared HTTP/2 connections. What never reached a server
//! is an error with code 503; its reader tries again, as with any other failure.

mod connections;

use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use self::connections::{Connections, Stream};
use crate::api::{Api, Call, Event, Gvr, List, ListParams, Verb, Watch, percent_encode};

pub use self::connections::Server;

/// How long a server may take to begin an answer, and for everything but a watch to finish it.
const ANSWER: Duration = Duration::from_secs(60);
/// Events that may wait for the reader of a watch.
const EVENTS: usize = 256;
/// Longest event of a watch; servers take no object of more than 3 MiB.
const EVENT_MAX: usize = 16 << 20;
const JSON: &str = "application/json";

/// The API of a cluster over TLS. Its identity is that of the TLS configuration, or a token.
pub struct Https {
    connections: Connections,
    bearer: Option<HeaderValue>,
    agent: HeaderValue,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Https {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Https")
    }
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: ListHead,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListHead {
    resource_version: String,
    r#continue: String,
}

#[derive(Deserialize)]
struct Frame<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn object_of(raw: &RawValue) -> Result<Arc<Object>, Status> {
    // A copy: a small object must not keep a large answer in memory.
    let bytes = Bytes::copy_from_slice(raw.get().as_bytes());
    Ok(Arc::new(Object::from_bytes(bytes).map_err(|e| Status::internal(format!("the server sent no object: {e}")))?))
}

fn lost(e: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the connection to the server was lost: {e}"))
}

impl Https {
    /// A client of the cluster with these servers; they are tried in turn. `tls` must offer `h2`.
    /// Connections are driven on `tasks` and end when the client is dropped.
    pub fn new(
        servers: Vec<Server>,
        tls: Arc<rustls::ClientConfig>,
        bearer: Option<&str>,
        agent: &str,
        tasks: TaskTracker,
    ) -> Result<Https, Status> {
        let header = |v: &str| HeaderValue::from_str(v).map_err(|e| Status::bad_request(e.to_string()));
        let bearer = bearer.map(|b| header(&format!("Bearer {b}"))).transpose()?;
        let connections = Connections::new(servers, tls, tasks.clone());
        Ok(Https { connections, bearer, agent: header(agent)?, tasks })
    }

    /// Lets requests from now on use new connections: the identity has changed.
    pub fn renew_connections(&self) {
        self.connections.renew();
    }

    /// Sends a request; an answer that is no success is an error. Gives the place on the
    /// connection along, to be held for as long as the body is read.
    async fn send(
        &self,
        method: &Method,
        path: &str,
        media: &'static str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Stream), Status> {
        let mut tries = 0;
        let (answer, stream) = loop {
            let mut stream = self.connections.stream().await?;
            let mut request = Request::builder()
                .method(method)
                .uri(format!("https://{}{path}", stream.authority))
                .header(ACCEPT, JSON)
                .header(USER_AGENT, &self.agent);
            if let Some(b) = &self.bearer {
                request = request.header(AUTHORIZATION, b);
            }
            if !body.is_empty() {
                request = request.header(CONTENT_TYPE, media);
            }
            let request = request.body(Full::new(body.clone())).map_err(|e| Status::bad_request(e.to_string()))?;
            let sent = tokio::time::timeout(ANSWER, stream.sender.send_request(request)).await;
            match sent {
                Ok(Ok(answer)) => break (answer, stream),
                // The connection ended before the request went out, or nothing is changed by asking twice.
                Ok(Err(e)) if tries == 0 && (e.is_canceled() || *method == Method::GET) => tries += 1,
                Ok(Err(e)) => return Err(lost(e)),
                Err(_) => return Err(Status::timeout("the server did not answer in time", 1)),
            }
        };
        if answer.status().is_success() {
            return Ok((answer, stream));
        }
        let code = answer.status();
        let text = collect(answer).await?;
        Err(serde_json::from_slice::<Status>(&text)
            .ok()
            .filter(|s| s.code != 0)
            .unwrap_or_else(|| Status::new(code.as_u16(), "", String::from_utf8_lossy(&text))))
    }

    /// Sends a JSON body to any path, reads the answer.
    ///
    /// # Errors
    /// The server's status; 503 when none was reached.
    pub async fn post(&self, path: &str, body: Bytes) -> Result<Bytes, Status> {
        let (answer, _stream) = self.send(&Method::POST, path, JSON, body).await?;
        collect(answer).await
    }
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes, Status> {
    let body = tokio::time::timeout(ANSWER, answer.into_body().collect()).await;
    Ok(body.map_err(|_| Status::timeout("the server's answer did not end in time", 1))?.map_err(lost)?.to_bytes())
}

fn with_query(mut path: String, query: &[(&str, &str)]) -> String {
    for (i, (k, v)) in query.iter().filter(|(_, v)| !v.is_empty()).enumerate() {
        path.push(if i == 0 { '?' } else { '&' });
        path += &format!("{k}={}", percent_encode(v));
    }
    path
}

fn collection(gvr: &Gvr, params: &ListParams, more: &[(&str, &str)]) -> String {
    let limit = if params.limit == 0 { String::new() } else { params.limit.to_string() };
    let mut query = vec![
        ("labelSelector", params.label_selector.as_str()),
        ("fieldSelector", &params.field_selector),
        ("limit", &limit),
        ("continue", &params.continue_token),
        ("resourceVersion", &params.resource_version),
    ];
    query.extend(more);
    with_query(gvr.path(&params.namespace, "", ""), &query)
}

#[async_trait]
impl Api for Https {
    async fn call(&self, call: Call) -> Result<Arc<Object>, Status> {
        let method = match call.verb {
            Verb::Get => Method::GET,
            Verb::Create => Method::POST,
            Verb::Update => Method::PUT,
            Verb::Patch(_) => Method::PATCH,
            Verb::Delete | Verb::DeleteCollection => Method::DELETE,
        };
        let media = match call.verb {
            Verb::Patch(kind) => kind.content_type(),
            _ => JSON,
        };
        let query: Vec<(&str, &str)> = call.query.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let path = with_query(call.gvr.path(&call.namespace, &call.name, &call.subresource), &query);
        let (answer, _stream) = self.send(&method, &path, media, call.body.unwrap_or_default()).await?;
        let bytes = collect(answer).await?;
        Ok(Arc::new(Object::from_bytes(bytes).map_err(Status::internal)?))
    }

    async fn list(&self, gvr: &Gvr, params: &ListParams) -> Result<List, Status> {
        let (answer, _stream) = self.send(&Method::GET, &collection(gvr, params, &[]), JSON, Bytes::new()).await?;
        let bytes = collect(answer).await?;
        let list: RawList<'_> = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        let items = list.items.into_iter().map(object_of).collect::<Result<Vec<_>, _>>()?;
        Ok(List { items, resource_version: list.metadata.resource_version, continue_token: list.metadata.r#continue })
    }

    async fn watch(&self, gvr: &Gvr, params: &ListParams) -> Result<Watch, Status> {
        let path = collection(gvr, params, &[("watch", "true"), ("allowWatchBookmarks", "true")]);
        let (answer, stream) = self.send(&Method::GET, &path, JSON, Bytes::new()).await?;
        let (tx, rx) = mpsc::channel(EVENTS);
        self.tasks.spawn(async move {
            let _stream = stream;
            let read = follow(answer.into_body(), &tx);
            tokio::select! {
                failure = read => if let Err(s) = failure { let _ = tx.send(Err(s)).await; },
                () = tx.closed() => {}
            }
        });
        Ok(rx)
    }

    async fn raw_get(&self, path: &str) -> Result<Bytes, Status> {
        let (answer, _stream) = self.send(&Method::GET, path, JSON, Bytes::new()).await?;
        collect(answer).await
    }
}

/// Reads a watch, one JSON document a line, until it ends.
async fn follow(mut body: Incoming, events: &mpsc::Sender<Result<Event, Status>>) -> Result<(), Status> {
    let mut buffer = BytesMut::new();
    let mut searched = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(lost)?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer[searched..].iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(searched + end + 1);
            searched = 0;
            if line.trim_ascii().is_empty() {
                continue;
            }
            if events.send(event(&line)).await.is_err() {
                return Ok(());
            }
        }
        searched = buffer.len();
        if searched > EVENT_MAX {
            return Err(Status::internal("an event of the watch is too large"));
        }
    }
    Ok(())
}

fn event(line: &[u8]) -> Result<Event, Status> {
    let frame: Frame<'_> = serde_json::from_slice(line).map_err(Status::internal)?;
    match frame.r#type {
        "ADDED" => Ok(Event::Added(object_of(frame.object)?)),
        "MODIFIED" => Ok(Event::Modified(object_of(frame.object)?)),
        "DELETED" => Ok(Event::Deleted(object_of(frame.object)?)),
        "BOOKMARK" => Ok(Event::Bookmark(object_of(frame.object)?.meta().resource_version.clone())),
        "ERROR" => Err(serde_json::from_str(frame.object.get()).map_err(Status::internal)?),
        other => Err(Status::internal(format!("the watch sent an event of the unknown type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_watch() {
        let read = |s: &str| event(s.as_bytes());
        let object = r#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}"#;
        let added = read(&format!(r#"{{"type":"ADDED","object":{object}}}"#)).unwrap();
        assert!(matches!(added, Event::Added(o) if o.key() == "n/a" && o.revision() == 7));
        let mark = read(&format!(r#"{{"type":"BOOKMARK","object":{object}}}"#)).unwrap();
        assert!(matches!(mark, Event::Bookmark(rv) if rv == "7"));
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#;
        assert!(read(gone).unwrap_err().is_gone());
        assert!(read(r#"{"type":"?","object":{}}"#).is_err());
    }

    #[test]
    fn paths_of_collections() {
        let pods = Gvr::new("", "v1", "pods");
        assert_eq!(collection(&pods, &ListParams::all(), &[]), "/api/v1/pods");
        let own = ListParams { namespace: "a".into(), ..ListParams::field("spec.nodeName", "n1") };
        let path = collection(&pods, &own, &[("watch", "true")]);
        assert_eq!(path, "/api/v1/namespaces/a/pods?fieldSelector=spec.nodeName%3Dn1&watch=true");
    }
}
