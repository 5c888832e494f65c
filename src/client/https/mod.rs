//! [`Api`] over TLS: how agents and commands reach the servers.
//!
//! Calls and watches are requests on a few shared HTTP/2 connections. What never reached a server
//! is an error with code 503; its reader tries again, as with any other failure.

mod connections;

use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use self::connections::{Connections, Stream};
use crate::api::{Api, Call, Gvr, List, ListParams, Verb, Watch};
use crate::wire::{self, collection, follow, lost, with_query};

pub use self::connections::Server;

/// How long a server may take to begin an answer, and for everything but a watch to finish it.
const ANSWER: Duration = Duration::from_secs(60);
/// Events that may wait for the reader of a watch.
const EVENTS: usize = 256;
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
        wire::list(&bytes)
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
