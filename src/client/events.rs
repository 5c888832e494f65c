//! Records Events about objects (upstream: `client-go/tools/record`).
//!
//! Events go through a bounded channel to one task; the same event about the same object
//! raises the count of the first instead of making a new one. When the channel is full,
//! events are dropped: they are a help for people, never a duty.

use std::collections::HashMap;
use std::sync::Arc;

use api::k8s::core::v1::{Event, EventSource, ObjectReference};
use api::meta::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Client, Kind, PatchKind};

/// How many events may wait to be written.
const QUEUE: usize = 1000;
/// How many distinct events are remembered for counting.
const REMEMBERED: usize = 4096;

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
            seen: HashMap::new(),
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

type Identity = (Option<String>, Option<String>, String, String);

struct Writer {
    client: Client,
    source: EventSource,
    /// What was written before: (namespace, event name, count).
    seen: HashMap<Identity, (String, String, i32)>,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Arc<Note>>) {
        while let Some(note) = notes.recv().await {
            if let Err(s) = self.write(&note).await {
                tracing::debug!(reason = %note.reason, error = %s, "an event was not recorded");
            }
        }
    }

    async fn write(&mut self, note: &Note) -> Result<(), api::Status> {
        let now = jiff::Timestamp::now();
        let id: Identity =
            (note.about.uid.clone(), note.about.field_path.clone(), note.reason.clone(), note.message.clone());
        if let Some((namespace, name, count)) = self.seen.get_mut(&id) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(now)});
            match self.client.patch::<Event>(namespace, name, "", PatchKind::Merge, &patch).await {
                Ok(_) => return Ok(()),
                // It has expired: write a new one.
                Err(s) if s.is_not_found() => {}
                Err(s) => return Err(s),
            }
        }
        let namespace = match &note.about.namespace {
            Some(n) if !n.is_empty() => n.clone(),
            _ => "default".to_owned(),
        };
        let object_name = note.about.name.clone().unwrap_or_default();
        let name = format!("{object_name}.{:x}", now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..Default::default() },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            source: Some(self.source.clone()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            type_: Some(note.kind.to_owned()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            ..Default::default()
        };
        self.client.create(&event).await?;
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(id, (namespace, name, 1));
        Ok(())
    }
}
