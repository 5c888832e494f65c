//! A request that is being recorded. It goes along with the request; whoever learns something
//! that belongs to the record notes it here. The events are made at the stages.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use api::{Object, Status};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::event::{Known, Source, line};
use super::policy::{Level, Omit, Stage};
use super::{Audit, recordable};
use crate::http::PANICKED;
use crate::http::respond::{self, Body, Reply};

const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";

/// See the module.
pub struct Record {
    audit: Arc<Audit>,
    level: Level,
    omit: Omit,
    source: Source,
    known: Mutex<Known>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({})", self.source.id)
    }
}

impl Record {
    pub(super) fn new(audit: Arc<Audit>, level: Level, omit: Omit, source: Source) -> Record {
        Record { audit, level, omit, source, known: Mutex::default() }
    }

    /// What was asked for.
    pub(super) fn uri(&self) -> &str {
        &self.source.uri
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives the event of a stage away; what is given is as of [`Audit::emit`].
    fn give(&self, stage: Stage, code: Option<u16>) -> Option<JoinHandle<bool>> {
        if self.omit.stage(stage) {
            return None;
        }
        let line = line(&self.source, &self.known(), self.level, stage, code);
        self.audit.emit(&line)
    }

    /// Gives it away, and says whether the request may go on.
    async fn emit(&self, stage: Stage, code: Option<u16>) -> bool {
        match self.give(stage, code) {
            Some(taken) => taken.await.unwrap_or(false),
            None => true,
        }
    }

    /// The request has come; whether it may be served.
    pub(super) async fn received(&self) -> bool {
        self.emit(Stage::RequestReceived, None).await
    }

    /// Adds an annotation that only belongs to records of at least a level.
    pub fn annotate_at(&self, level: Level, key: &str, value: impl Into<String>) {
        if self.level >= level {
            self.annotate(key, value);
        }
    }

    /// Adds an annotation; the first of a key stays.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        self.known().annotations.entry(key.to_owned()).or_insert_with(|| value.into());
    }

    /// The authorizers could not be asked.
    pub fn undecided(&self) {
        self.annotate(REASON, "internal error");
    }

    /// What the authorizers said.
    pub fn decided(&self, allowed: bool, reason: &str) {
        self.annotate(DECISION, if allowed { "allow" } else { "forbid" });
        self.annotate(REASON, reason);
    }

    /// The object that a write made or changed, where the path does not name it.
    pub fn names(&self, object: &Object) {
        if let Some(of) = self.source.object.as_ref().filter(|o| o.name.is_empty()) {
            self.known().object = Some(of.named(object.meta().name));
        }
    }

    /// What was sent; `parse` makes a tree of a body that is no JSON.
    pub fn request(&self, body: &Bytes, parse: impl FnOnce(&[u8]) -> Option<Value>) {
        if self.level >= Level::Request && !body.is_empty() {
            let json = recordable(body);
            let json = json.or_else(|| recordable(&parse(body)?.to_string().into()));
            self.known().request = json.map(|j| self.shown(j));
        }
    }

    /// An object as it is recorded.
    fn shown(&self, json: Box<serde_json::value::RawValue>) -> Box<serde_json::value::RawValue> {
        if !self.omit.managed_fields || !json.get().contains("managedFields") {
            return json;
        }
        let Ok(mut tree) = serde_json::from_str::<Value>(json.get()) else { return json };
        let strip = |o: &mut Value| {
            if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
                m.remove("managedFields");
            }
        };
        strip(&mut tree);
        tree.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        recordable(&tree.to_string().into()).unwrap_or(json)
    }

    /// Why it failed.
    pub fn failed(&self, status: &Status) {
        let status = Status { status: "Failure".to_owned(), ..status.clone() };
        self.known().failure = Some(status);
    }

    /// All has been answered.
    pub async fn complete(&self, code: u16) {
        self.emit(Stage::ResponseComplete, Some(code)).await;
    }

    /// A long answer begins.
    pub async fn started(&self, code: u16) {
        self.emit(Stage::ResponseStarted, Some(code)).await;
    }

    /// What a call within the process came to.
    pub async fn called(&self, result: &Result<Arc<Object>, Status>, success: u16) {
        match result {
            Ok(object) => {
                self.names(object);
                if self.level >= Level::RequestResponse {
                    self.known().response = recordable(&object.json()).map(|j| self.shown(j));
                }
                self.complete(success).await;
            }
            Err(s) => {
                self.failed(s);
                self.complete(s.code).await;
            }
        }
    }

    /// The answer to a request that could not be served as it should.
    pub async fn panicked(&self) -> Reply {
        let status = Status::internal_plain(PANICKED);
        self.failed(&status);
        self.emit(Stage::Panic, Some(500)).await;
        respond::status(&status)
    }

    /// Watches the answer until its end; `long`: it takes as long as the client likes.
    pub async fn answer(self: Arc<Self>, reply: Reply, long: bool) -> Reply {
        let code = reply.status().as_u16();
        if long && reply.status().is_success() || code == 101 {
            self.started(code).await;
            return reply.map(|inner| Streamed { inner, record: self, code }.boxed_unsync());
        }
        let json = reply.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
        if self.level < Level::RequestResponse || !json {
            self.complete(code).await;
            return reply;
        }
        let (parts, body) = reply.into_parts();
        let Ok(body) = body.collect().await;
        let bytes = body.to_bytes();
        self.known().response = recordable(&bytes).map(|j| self.shown(j));
        self.complete(code).await;
        Reply::from_parts(parts, respond::full(bytes))
    }
}

/// A long answer; its end is recorded when it is dropped.
struct Streamed {
    inner: Body,
    record: Arc<Record>,
    code: u16,
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // Nobody is left to wait for it.
        drop(self.record.give(Stage::ResponseComplete, Some(self.code)));
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
