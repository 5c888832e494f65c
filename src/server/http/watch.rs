//! Watches over HTTP: frames of shared bytes, bookmarks, time limits.

use std::sync::Arc;
use std::time::Duration;

use api::protobuf::Kind;
use api::{Object, Resource, Status};
use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use super::list_options::ListOptions;
use super::negotiate::{Accepted, Form, Media};
use super::respond::{self, IncludeObject, Reply};
use crate::conversion::Conversions;
use crate::flow_control::Watching;
use crate::metrics::requests::{Events, Open};
use crate::registry::{Registry, Selection};
use crate::watch_cache::{self, CacheEvent, Caches, Change, Delivery, Objects, Subscription};

/// How much of what waits for a watcher goes out at once.
const TOGETHER: usize = 32 * 1024;
/// How often an idle watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How a watch shows what it shows.
struct Shape {
    resource: Arc<Resource>,
    accepted: Accepted,
    include: IncludeObject,
    /// Tables carry their columns in the first event only.
    columns: bool,
}

impl Shape {
    fn is_protobuf(&self) -> bool {
        self.accepted.media == Media::Protobuf
    }

    fn of_object(&mut self, event: &str, object: &Arc<Object>) -> Bytes {
        let body = match self.accepted.form {
            _ if self.is_protobuf() => return self.in_protobuf(event, &respond::served_bytes(&self.resource, object)),
            Form::Object => return watch_cache::frame(event, &respond::served_bytes(&self.resource, object)),
            Form::Metadata(version) => respond::partial_metadata(&object.to_value(), version),
            Form::Table(version) => {
                let meta = json!({"resourceVersion": object.meta().resource_version});
                let columns = std::mem::take(&mut self.columns);
                respond::table(&self.resource, std::slice::from_ref(object), self.include, columns, meta, version)
            }
        };
        watch_cache::frame(event, body.to_string().as_bytes())
    }

    fn in_protobuf(&self, event: &str, json: &[u8]) -> Bytes {
        match respond::protobuf_body(self.accepted.form, &self.resource, json) {
            Some(Ok(body)) => api::protobuf::watch_frame(event, &body),
            Some(Err(s)) => self.error(&s),
            None => self.error(&Status::internal("the object has no protobuf form")),
        }
    }

    fn of_delivery(&mut self, change: Change, delivery: &Delivery) -> Bytes {
        let object = &delivery.event.object;
        if self.accepted.form == Form::Object && self.resource.convert.is_none() {
            delivery.frame(change, self.is_protobuf(), || self.of_object(change.name(), object))
        } else {
            self.of_object(change.name(), object)
        }
    }

    /// As [`Shape::of_delivery`], after the resource's webhook has made the object one of its version.
    async fn converted(
        &mut self,
        conversions: &Conversions,
        change: Change,
        delivery: &Delivery,
    ) -> Result<Bytes, Status> {
        if self.resource.webhook().is_none() {
            return Ok(self.of_delivery(change, delivery));
        }
        let object = conversions.served_one(&self.resource, delivery.event.object.clone()).await?;
        Ok(self.of_object(change.name(), &object))
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        // It is shown as any other object is, which is of the stored version unless a webhook converted it.
        let r = &self.resource;
        let version = if r.webhook().is_some() { r.api_version() } else { r.storage_api_version() };
        let body = json!({"kind": r.kind, "apiVersion": version, "metadata": meta});
        match Object::from_value(&body) {
            Ok(o) => self.of_object("BOOKMARK", &Arc::new(o)),
            Err(e) => self.error(&Status::internal(e)),
        }
    }

    fn error(&self, status: &Status) -> Bytes {
        let json = status.to_value().to_string();
        if self.is_protobuf()
            && let Some(Ok(body)) = Kind::of("v1", "Status").map(|k| k.encode("v1", "Status", json.as_bytes()))
        {
            return api::protobuf::watch_frame("ERROR", &body);
        }
        watch_cache::frame("ERROR", json.as_bytes())
    }

    fn content_type(&self) -> &'static str {
        if self.is_protobuf() { "application/vnd.kubernetes.protobuf;stream=watch" } else { "application/json" }
    }
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The revision after which events are sent; 0 for none.
    pub after: u64,
    /// Whether the current objects are sent first, as ADDED.
    pub initial: bool,
    /// Whether a bookmark marks the end of the initial objects.
    pub mark_end: bool,
}

/// Subscribes a selection to its cache.
///
/// # Errors
/// 410 when the start is too old; 504 when it lies in the future.
pub async fn subscribe(
    registry: &Registry,
    resource: &Arc<Resource>,
    selection: Selection,
    start: Start,
) -> Result<Subscription, Status> {
    let now = match start {
        // A watch of what is to come need not wait for it.
        Start { initial: false, .. } => registry.caches().applied(),
        Start { after: 0, .. } => registry.caches().fresh().await?,
        Start { after, .. } => registry.caches().reached(after).await?,
    };
    let prefix = selection.key_prefix();
    let after = if start.initial {
        0
    } else if start.after == 0 {
        now
    } else {
        start.after
    };
    let resource_of = resource.clone();
    let cache = registry.cache(resource)?;
    cache.subscribe(&prefix, after, now, Box::new(move |o| selection.selects(&resource_of, o)))
}

/// Serves a watch.
///
/// # Errors
/// As upstream, only for bad parameters: what is wrong after those is sent in the stream.
#[allow(clippy::too_many_arguments)]
pub async fn serve(
    registry: &Registry,
    resource: &Arc<Resource>,
    selection: Selection,
    options: &ListOptions,
    accepted: Accepted,
    include: IncludeObject,
    counted: (Open, Arc<Events>, Watching),
) -> Result<Reply, Status> {
    let start = options.start(resource)?;
    // Upstream's default: between 30 and 60 minutes, so that watches do not all end at once.
    let seconds = options.timeout_seconds.filter(|n| *n > 0).unwrap_or_else(|| rand::random_range(1800..3600));
    let shape = Shape { resource: resource.clone(), accepted, include, columns: true };
    let content_type = shape.content_type();
    // The initial objects are selected again: the subscription holds them all.
    let check = Selection {
        namespace: selection.namespace.clone(),
        labels: selection.labels.clone(),
        fields: selection.fields.clone(),
    };
    let subscription = match subscribe(registry, resource, selection, start).await {
        Ok(s) => s,
        Err(s) if s.is_not_found() => return Err(s),
        Err(s) => return Ok(respond::bytes(200, content_type, shape.error(&s))),
    };
    let feed = Feed {
        shape,
        start,
        bookmarks: options.bookmarks,
        caches: registry.caches().clone(),
        conversions: registry.conversions()?.clone(),
        deadline: Instant::now() + Duration::from_secs(seconds),
        stage: Stage::Begins(check),
        subscription,
        counted,
    };
    // Whoever writes to the connection makes the frames: it ends with the connection, and an event
    // wakes no other task on its way.
    let stream = futures::stream::unfold(feed, |mut feed| async { feed.next().await.map(|b| (b, feed)) });
    let body = StreamBody::new(stream.map(|b| Ok(Frame::data(b)))).boxed_unsync();
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(reply)
}

/// One watch at work.
struct Feed {
    shape: Shape,
    subscription: Subscription,
    start: Start,
    bookmarks: bool,
    caches: Arc<Caches>,
    conversions: Arc<Conversions>,
    deadline: Instant,
    stage: Stage,
    /// The open stream, and the events of the resource.
    counted: (Open, Arc<Events>, Watching),
}

/// How far a watch has come.
enum Stage {
    /// The objects at the start are not selected yet.
    Begins(Selection),
    Initial(std::vec::IntoIter<Arc<Object>>),
    /// Events since the start that were there when it began.
    Past(std::vec::IntoIter<(Change, Arc<CacheEvent>)>),
    Live,
    Over,
}

impl Feed {
    /// What is sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        match self.frame().await {
            Ok(frame) => frame,
            Err(s) => {
                self.stage = Stage::Over;
                Some(self.shape.error(&s))
            }
        }
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match &mut self.stage {
                Stage::Begins(check) => {
                    // Only what comes later is needed then: the state that the watch began with may go.
                    let objects = std::mem::take(&mut self.subscription.objects);
                    let initial =
                        if self.start.initial { selected(&self.shape.resource, check, &objects) } else { vec![] };
                    let initial = self.conversions.served(&self.shape.resource, initial).await?;
                    self.stage = Stage::Initial(initial.into_iter());
                }
                Stage::Initial(objects) => match objects.next() {
                    Some(object) => {
                        return Ok(Some(self.counted(|shape| shape.of_object(Change::Added.name(), &object))));
                    }
                    None => {
                        self.stage = Stage::Past(std::mem::take(&mut self.subscription.past).into_iter());
                        if self.start.initial && self.start.mark_end {
                            let revision = self.subscription.revision;
                            return Ok(Some(self.counted(|shape| shape.bookmark(revision, true))));
                        }
                    }
                },
                Stage::Past(events) => match events.next() {
                    Some((change, event)) => {
                        let object = self.conversions.served_one(&self.shape.resource, event.object.clone()).await?;
                        return Ok(Some(self.counted(|shape| shape.of_object(change.name(), &object))));
                    }
                    None => self.stage = Stage::Live,
                },
                Stage::Live => return self.live().await,
                Stage::Over => return Ok(None),
            }
        }
    }

    /// The next events, or a bookmark.
    async fn live(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(events) = self.waiting().await? {
                return Ok(Some(events));
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.deadline) => return Ok(self.last()),
                () = tokio::time::sleep(BOOKMARK_EVERY), if self.bookmarks => {
                    // Read before the queue is known to be empty, so that nothing older is still to come.
                    let revision = self.caches.applied();
                    if self.subscription.live.is_empty() {
                        return Ok(Some(self.counted(|shape| shape.bookmark(revision, false))));
                    }
                }
                next = self.subscription.live.recv() => {
                    let (change, delivery) = next.ok_or_else(too_slow)?;
                    if let Some(frame) = self.one(change, &delivery).await? {
                        return Ok(Some(frame));
                    }
                }
            }
        }
    }

    /// What has happened already, in one piece: it costs one write, not one for each event.
    async fn waiting(&mut self) -> Result<Option<Bytes>, Status> {
        let mut frames: Vec<Bytes> = Vec::new();
        let mut size = 0;
        while size < TOGETHER && Instant::now() < self.deadline {
            match self.subscription.live.try_recv() {
                Ok((change, delivery)) => {
                    if let Some(frame) = self.one(change, &delivery).await? {
                        size += frame.len();
                        frames.push(frame);
                    }
                }
                Err(TryRecvError::Empty) => break,
                // What came before is sent first.
                Err(TryRecvError::Disconnected) if frames.is_empty() => return Err(too_slow()),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        Ok(match frames.as_slice() {
            [] => None,
            [_] => frames.pop(),
            many => Some(many.concat().into()),
        })
    }

    /// One event; nothing for one that the client has seen.
    async fn one(&mut self, change: Change, delivery: &Delivery) -> Result<Option<Bytes>, Status> {
        // The start may lie ahead of what the cache had seen.
        if delivery.event.revision <= self.start.after {
            return Ok(None);
        }
        let frame = self.shape.converted(&self.conversions, change, delivery).await?;
        self.counted.1.sent(frame.len());
        Ok(Some(frame))
    }

    /// What is sent when the time is over.
    fn last(&mut self) -> Option<Bytes> {
        self.stage = Stage::Over;
        let revision = self.caches.applied();
        self.bookmarks.then(|| self.counted(|shape| shape.bookmark(revision, false)))
    }

    fn counted(&mut self, frame: impl FnOnce(&mut Shape) -> Bytes) -> Bytes {
        let frame = frame(&mut self.shape);
        self.counted.1.sent(frame.len());
        frame
    }
}

/// The objects that a watch starts with.
fn selected(resource: &Resource, check: &Selection, objects: &Objects) -> Vec<Arc<Object>> {
    let prefix = check.key_prefix();
    let own = objects.range(Arc::from(prefix.as_str())..).take_while(|(key, _)| key.starts_with(&prefix));
    own.map(|(_, object)| object).filter(|o| check.selects(resource, o)).cloned().collect()
}

fn too_slow() -> Status {
    Status::expired("the watch could not keep up with the changes and was closed")
}
