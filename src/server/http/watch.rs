//! Watches over HTTP: frames of shared bytes, bookmarks, time limits.

use std::sync::Arc;
use std::time::Duration;

use api::{Object, Resource, Status};
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tokio::sync::mpsc;

use super::negotiate::{Accepted, Form};
use super::respond::{self, IncludeObject, Reply};
use crate::conversion::Conversions;
use crate::registry::{Registry, Selection};
use crate::request::Query;
use crate::watch_cache::{self, CacheEvent, Change, Subscription};

/// Frames that may wait for a slow connection.
const FRAMES: usize = 64;
/// How often an idle watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How a watch shows what it shows.
struct Shape {
    resource: Arc<Resource>,
    form: Form,
    include: IncludeObject,
    /// Tables carry their columns in the first event only.
    columns: bool,
}

impl Shape {
    fn of_object(&mut self, change: Change, object: &Arc<Object>) -> Bytes {
        let body = match self.form {
            Form::Object => return watch_cache::frame(change.name(), &respond::served_bytes(&self.resource, object)),
            Form::Metadata(version) => respond::partial_metadata(&object.to_value(), version),
            Form::Table(version) => {
                let meta = json!({"resourceVersion": object.meta().resource_version});
                let columns = std::mem::take(&mut self.columns);
                respond::table(&self.resource, std::slice::from_ref(object), self.include, columns, meta, version)
            }
        };
        watch_cache::frame(change.name(), body.to_string().as_bytes())
    }

    fn of_event(&mut self, change: Change, event: &CacheEvent) -> Bytes {
        if self.form == Form::Object && self.resource.convert.is_none() {
            event.frame(change)
        } else {
            self.of_object(change, &event.object)
        }
    }

    /// As [`Shape::of_event`], after the resource's webhook has made the object one of its version.
    async fn converted(
        &mut self,
        conversions: &Conversions,
        change: Change,
        event: &CacheEvent,
    ) -> Result<Bytes, Status> {
        if self.resource.webhook().is_none() {
            return Ok(self.of_event(change, event));
        }
        let converted = conversions.served(&self.resource, vec![event.object.clone()]).await?;
        Ok(converted.iter().map(|o| self.of_object(change, o)).collect::<Vec<_>>().concat().into())
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let body = match self.form {
            Form::Table(version) => {
                json!({"kind": "Table", "apiVersion": version, "metadata": meta, "columnDefinitions": null, "rows": []})
            }
            Form::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta})
            }
            Form::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": meta})
            }
        };
        watch_cache::frame("BOOKMARK", body.to_string().as_bytes())
    }
}

/// Ends a watch with an error.
async fn end(tx: &mpsc::Sender<Bytes>, s: &Status) {
    // When nobody listens any more, nobody needs to be told.
    let _ = tx.send(watch_cache::frame("ERROR", s.to_value().to_string().as_bytes())).await;
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

impl Start {
    /// Reads `resourceVersion` and `sendInitialEvents`.
    ///
    /// # Errors
    /// 400 for a resourceVersion that is no number.
    pub fn parse(query: &Query) -> Result<Start, Status> {
        let after = match query.get("resourceVersion") {
            None => 0,
            Some(s) => s
                .parse()
                .map_err(|_| Status::bad_request(format!("Invalid value: {s:?}: resourceVersion must be a number")))?,
        };
        let initial = match query.get("sendInitialEvents") {
            Some(v) => v == "true",
            None => after == 0,
        };
        Ok(Start { after, initial, mark_end: query.flag("sendInitialEvents") && query.flag("allowWatchBookmarks") })
    }
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
    let now = registry.caches().reached(start.after).await?;
    if start.initial {
        registry.caches().fresh().await?;
    }
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
/// As [`subscribe`], and 400 for bad parameters.
pub async fn serve(
    registry: &Registry,
    resource: &Arc<Resource>,
    selection: Selection,
    query: &Query,
    accepted: Accepted,
) -> Result<Reply, Status> {
    let start = Start::parse(query)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let seconds = match query.get("timeoutSeconds").and_then(|s| s.parse::<u64>().ok()) {
        Some(n) if n > 0 => n,
        // Upstream's default: between 30 and 60 minutes, so that watches do not all end at once.
        _ => rand::random_range(1800..3600),
    };
    let mut shape = Shape {
        resource: resource.clone(),
        form: accepted.form,
        include: IncludeObject::parse(query.get("includeObject")),
        columns: true,
    };
    // The initial objects are selected again here: the subscription holds them all.
    let check = Selection {
        namespace: selection.namespace.clone(),
        labels: selection.labels.clone(),
        fields: selection.fields.clone(),
    };
    let prefix = selection.key_prefix();
    let mut subscription = match subscribe(registry, resource, selection, start).await {
        Ok(s) => s,
        // Upstream answers 200 and sends the error in the stream.
        Err(s) if s.is_gone() => {
            let frame = watch_cache::frame("ERROR", s.to_value().to_string().as_bytes());
            return Ok(respond::bytes(200, "application/json", frame));
        }
        Err(s) => return Err(s),
    };
    let (tx, rx) = mpsc::channel::<Bytes>(FRAMES);
    let registry_caches = registry.caches().clone();
    let conversions = registry.conversions()?.clone();
    let resource = resource.clone();
    // The task ends with the connection: its sends fail once the body is dropped.
    tokio::spawn(async move {
        let deadline = tokio::time::sleep(Duration::from_secs(seconds));
        tokio::pin!(deadline);
        if start.initial {
            let objects = std::mem::take(&mut subscription.objects);
            let own = objects.range(Arc::from(prefix.as_str())..).take_while(|(key, _)| key.starts_with(&prefix));
            let selected = own.map(|(_, object)| object).filter(|o| check.selects(&resource, o)).cloned();
            let initial = match resource.webhook() {
                None => selected.collect(),
                Some(_) => match conversions.served(&resource, selected.collect()).await {
                    Ok(converted) => converted,
                    Err(s) => return end(&tx, &s).await,
                },
            };
            for object in &initial {
                if tx.send(shape.of_object(Change::Added, object)).await.is_err() {
                    return;
                }
            }
            if start.mark_end && tx.send(shape.bookmark(subscription.revision, true)).await.is_err() {
                return;
            }
        }
        for (change, event) in std::mem::take(&mut subscription.past) {
            let frame = match shape.converted(&conversions, change, &event).await {
                Ok(frame) => frame,
                Err(s) => return end(&tx, &s).await,
            };
            if tx.send(frame).await.is_err() {
                return;
            }
        }
        loop {
            let frame = tokio::select! {
                () = &mut deadline => {
                    if bookmarks {
                        let _ = tx.send(shape.bookmark(registry_caches.applied(), false)).await;
                    }
                    return;
                }
                () = tx.closed() => return,
                () = tokio::time::sleep(BOOKMARK_EVERY), if bookmarks => {
                    // Read before the queue is known to be empty, so that nothing older is still to come.
                    let revision = registry_caches.applied();
                    if !subscription.live.is_empty() { continue; }
                    shape.bookmark(revision, false)
                }
                next = subscription.live.recv() => match next {
                    Some((change, event)) => match shape.converted(&conversions, change, &event).await {
                        Ok(frame) => frame,
                        Err(s) => return end(&tx, &s).await,
                    },
                    None => {
                        let s = Status::expired("the watch could not keep up with the changes and was closed");
                        return end(&tx, &s).await;
                    }
                },
            };
            if tx.send(frame).await.is_err() {
                return;
            }
        }
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
    let body = StreamBody::new(futures::StreamExt::map(stream, |b| Ok(Frame::data(b)))).boxed_unsync();
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}
