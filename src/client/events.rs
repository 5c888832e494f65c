//! Records Events about objects (upstream: `client-go/tools/record`); [`series`] has the newer form.
//!
//! Events go through a bounded channel to one task, which takes what has gathered while the
//! events before were written: the [`correlator`] makes few of many. When the channel is full,
//! events are dropped: they are a help for people, never a duty.

mod correlator;
mod series;

use std::collections::HashMap;
use std::sync::Arc;

use api::k8s::core::v1::{Event, EventSource, ObjectReference};
use api::meta::apis::meta::v1::{ObjectMeta, Time};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::correlator::{Correlator, Key, Seen};
pub use self::series::SeriesRecorder;
use crate::api::{Client, Kind, PatchKind};

/// How many events may wait to be written.
const QUEUE: usize = 1000;
/// How many are taken at a time, and written at once.
const TOGETHER: usize = 64;

struct Note {
    about: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
}

/// Records events as one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    sender: mpsc::Sender<Arc<Note>>,
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.reason, self.message)
    }
}

/// A reference to a typed object, as Events carry it.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let m = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: m.name.clone(),
        namespace: m.namespace.clone(),
        uid: m.uid.clone(),
        resource_version: m.resource_version.clone(),
        field_path: None,
    }
}

impl EventRecorder {
    /// A recorder for `component` (such as `kubelet`) on `host` (a node name, or empty).
    pub fn new(
        client: Client,
        component: &str,
        host: &str,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> EventRecorder {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            source: EventSource {
                component: Some(component.to_owned()),
                host: (!host.is_empty()).then(|| host.to_owned()),
            },
            correlator: Correlator::default(),
        };
        tasks.spawn(async move {
            let _ = cancel.run_until_cancelled(writer.run(receiver)).await;
        });
        EventRecorder { sender }
    }

    /// A `Normal` event.
    pub fn normal(&self, about: ObjectReference, reason: &str, message: impl Into<String>) {
        self.send(about, "Normal", reason, message.into());
    }

    /// A `Warning` event.
    pub fn warning(&self, about: ObjectReference, reason: &str, message: impl Into<String>) {
        self.send(about, "Warning", reason, message.into());
    }

    fn send(&self, about: ObjectReference, kind: &'static str, reason: &str, message: String) {
        let note = Note { about, kind, reason: reason.to_owned(), message };
        if self.sender.try_send(Arc::new(note)).is_err() {
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }
}

struct Writer {
    client: Client,
    source: EventSource,
    correlator: Correlator,
}

/// An event that is to be written.
struct Planned {
    note: Arc<Note>,
    message: String,
    seen: Seen,
    /// Tells those apart that are written at one time.
    index: usize,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Arc<Note>>) {
        let mut taken = Vec::with_capacity(TOGETHER);
        while notes.recv_many(&mut taken, TOGETHER).await > 0 {
            self.write(std::mem::take(&mut taken)).await;
        }
    }

    /// Writes what has gathered, each event once.
    async fn write(&mut self, notes: Vec<Arc<Note>>) {
        let now = Timestamp::now();
        let mut planned: HashMap<Key, (Arc<Note>, String)> = HashMap::new();
        for note in notes {
            if let Some((key, message)) = self.correlator.correlate(&note, now) {
                planned.insert(key, (note, message));
            }
        }
        let planned: Vec<(Key, Planned)> = planned
            .into_iter()
            .enumerate()
            .filter_map(|(index, (key, (note, message)))| {
                let seen = self.correlator.seen(&key)?.clone();
                Some((key, Planned { note, message, seen, index }))
            })
            .collect();
        let own = &*self;
        let written: Vec<_> = futures::stream::iter(planned)
            .map(|(key, p)| async move { (key, own.put(&p, now).await) })
            .buffer_unordered(TOGETHER)
            .collect()
            .await;
        for (key, result) in written {
            let named = result.map_err(|s| tracing::debug!(error = %s, "an event was not recorded")).ok();
            self.correlator.written(key, named);
        }
    }

    /// Counts an event that is there, or makes one; gives its namespace and name.
    async fn put(&self, p: &Planned, now: Timestamp) -> Result<(String, String), api::Status> {
        if let Some((namespace, name)) = &p.seen.written {
            let patch = json!({"count": p.seen.count, "lastTimestamp": Time(now), "message": p.message});
            match self.client.patch::<Event>(namespace, name, "", PatchKind::Merge, &patch).await {
                Ok(_) => return Ok((namespace.clone(), name.clone())),
                // It has expired: write a new one.
                Err(s) if s.is_not_found() => {}
                Err(s) => return Err(s),
            }
        }
        let note = &p.note;
        let namespace = match &note.about.namespace {
            Some(n) if !n.is_empty() => n.clone(),
            _ => "default".to_owned(),
        };
        let object_name = note.about.name.clone().unwrap_or_default();
        let name = format!("{object_name}.{:x}", now.as_nanosecond() + p.index as i128);
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..Default::default() },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(p.message.clone()),
            source: Some(self.source.clone()),
            first_timestamp: Some(Time(p.seen.first)),
            last_timestamp: Some(Time(now)),
            count: Some(p.seen.count),
            type_: Some(note.kind.to_owned()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            ..Default::default()
        };
        self.client.create(&event).await?;
        Ok((namespace, name))
    }
}
