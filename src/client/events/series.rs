//! Records events as series, the form of `events.k8s.io` (upstream: `client-go/tools/events`; of
//! the control plane the scheduler writes it).
//!
//! Events are the same when all but their note is. The second one begins a series, which is
//! written at once; those that follow are counted here, and written every half hour and when
//! nothing was added for six minutes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::core::v1::ObjectReference;
use api::k8s::events::v1::{Event, EventSeries};
use api::meta::apis::meta::v1::{MicroTime, ObjectMeta};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{QUEUE, TOGETHER};
use crate::api::{Client, PatchKind};

/// Without another one for so long, a series has ended.
const FINISHED: Duration = Duration::from_secs(360);
/// How often the count of a series that goes on is written.
const REFRESH: Duration = Duration::from_secs(1800);
/// How many events are remembered.
const REMEMBERED: usize = 4096;
/// Longest note, in bytes.
const NOTE_MAX: usize = 1024;
/// What stands for the rest of a longer one.
const MORE: &str = " ...";

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    kind: &'static str,
    reason: &'static str,
    action: &'static str,
    text: String,
}

/// What is the same in the events of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    about: [Option<String>; 7],
    kind: &'static str,
    reason: &'static str,
    action: &'static str,
}

impl From<&Note> for Key {
    fn from(n: &Note) -> Key {
        let o = n.about.clone();
        let about = [o.api_version, o.kind, o.namespace, o.name, o.uid, o.resource_version, o.field_path];
        Key { about, kind: n.kind, reason: n.reason, action: n.action }
    }
}

/// An event that is remembered: the first note, and how many have followed until when.
#[derive(Clone, Debug)]
struct Held {
    note: Arc<Note>,
    first: Timestamp,
    /// Tells those apart that came at one time.
    number: u64,
    series: Option<(i32, Timestamp)>,
    written: bool,
}

impl Held {
    fn last(&self) -> Timestamp {
        self.series.map_or(self.first, |(_, last)| last)
    }

    fn place(&self) -> (String, String) {
        let about = &self.note.about;
        let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        let stamp = self.first.as_nanosecond() + i128::from(self.number);
        (namespace, format!("{}.{stamp:x}", about.name.as_deref().unwrap_or_default()))
    }
}

/// What is remembered of events.
#[derive(Debug, Default)]
struct Memory {
    held: HashMap<Key, Held>,
    next: u64,
}

impl Memory {
    /// Takes in a note; gives its key when something is to be written.
    fn observe(&mut self, note: Arc<Note>, now: Timestamp) -> Option<Key> {
        let key = Key::from(&*note);
        match self.held.get_mut(&key) {
            None => {
                if self.held.len() >= REMEMBERED {
                    self.held.retain(|_, h| h.series.is_some());
                }
                if self.held.len() >= REMEMBERED {
                    tracing::debug!(reason = note.reason, "an event was dropped: too many series go on");
                    return None;
                }
                self.next += 1;
                let held = Held { note, first: now, number: self.next, series: None, written: false };
                self.held.insert(key.clone(), held);
                Some(key)
            }
            Some(h) => {
                let begins = h.series.is_none();
                h.series = Some((h.series.map_or(2, |(count, _)| count.saturating_add(1)), now));
                begins.then_some(key)
            }
        }
    }

    /// Forgets what has ended; gives the series among it, whose counts are to be written.
    fn finish(&mut self, now: Timestamp) -> Vec<Held> {
        let since = now - FINISHED;
        let (ended, held) = self.held.drain().partition(|(_, h)| h.last() < since);
        self.held = held;
        let ended: HashMap<Key, Held> = ended;
        ended.into_values().filter(|h| h.series.is_some()).collect()
    }
}

/// Records the events of one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SeriesRecorder {
    sender: mpsc::Sender<Arc<Note>>,
}

impl SeriesRecorder {
    /// A recorder for `controller`, such as `default-scheduler`.
    pub fn new(client: Client, controller: &str, tasks: &TaskTracker, cancel: CancellationToken) -> SeriesRecorder {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
        let writer = Writer {
            client,
            controller: controller.to_owned(),
            instance: format!("{controller}-{host}"),
            memory: Memory::default(),
        };
        tasks.spawn(async move {
            let _ = cancel.run_until_cancelled(writer.run(receiver)).await;
        });
        SeriesRecorder { sender }
    }

    /// A `Normal` event: what was done with the object, why, and what there is to say of it.
    pub fn normal(&self, about: ObjectReference, reason: &'static str, action: &'static str, text: &str) {
        self.send("Normal", about, reason, action, text);
    }

    /// A `Warning` event.
    pub fn warning(&self, about: ObjectReference, reason: &'static str, action: &'static str, text: &str) {
        self.send("Warning", about, reason, action, text);
    }

    fn send(&self, kind: &'static str, about: ObjectReference, reason: &'static str, action: &'static str, text: &str) {
        let note = Note { about, kind, reason, action, text: shortened(text) };
        if self.sender.try_send(Arc::new(note)).is_err() {
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= NOTE_MAX {
        return text.to_owned();
    }
    let end = (0..=NOTE_MAX - MORE.len()).rev().find(|i| text.is_char_boundary(*i));
    format!("{}{MORE}", &text[..end.unwrap_or_default()])
}

struct Writer {
    client: Client,
    controller: String,
    instance: String,
    memory: Memory,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Arc<Note>>) {
        let mut taken = Vec::with_capacity(TOGETHER);
        let mut finish = interval_at(Instant::now() + FINISHED, FINISHED);
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        loop {
            tokio::select! {
                n = notes.recv_many(&mut taken, TOGETHER) => {
                    if n == 0 {
                        return;
                    }
                    self.observe(std::mem::take(&mut taken)).await;
                }
                _ = finish.tick() => {
                    let ended = self.memory.finish(Timestamp::now());
                    let own = &self;
                    futures::stream::iter(&ended).for_each_concurrent(TOGETHER, |h| async move {
                        own.try_put(h).await;
                    }).await;
                }
                _ = refresh.tick() => {
                    let series = self.memory.held.iter().filter(|(_, h)| h.series.is_some());
                    let keys = series.map(|(k, _)| k.clone()).collect();
                    self.write(keys).await;
                }
            }
        }
    }

    async fn observe(&mut self, notes: Vec<Arc<Note>>) {
        let now = Timestamp::now();
        let mut keys: Vec<Key> = Vec::new();
        for note in notes {
            // One that is followed by its second is written with it.
            if let Some(key) = self.memory.observe(note, now).filter(|k| !keys.contains(k)) {
                keys.push(key);
            }
        }
        self.write(keys).await;
    }

    /// Writes what is remembered under these keys; what cannot be written is forgotten.
    async fn write(&mut self, keys: Vec<Key>) {
        let planned: Vec<(Key, Held)> =
            keys.into_iter().filter_map(|k| Some((k.clone(), self.memory.held.get(&k)?.clone()))).collect();
        let own = &*self;
        let written: Vec<(Key, bool)> = futures::stream::iter(planned)
            .map(|(key, held)| async move { (key, own.try_put(&held).await) })
            .buffer_unordered(TOGETHER)
            .collect()
            .await;
        for (key, written) in written {
            match self.memory.held.get_mut(&key) {
                Some(held) if written => held.written = true,
                _ => drop(self.memory.held.remove(&key)),
            }
        }
    }

    async fn try_put(&self, held: &Held) -> bool {
        let put = self.put(held).await;
        if let Err(s) = &put {
            tracing::debug!(error = %s, "an event was not recorded");
        }
        put.is_ok()
    }

    /// Makes an event, or tells the count of its series.
    async fn put(&self, held: &Held) -> Result<(), api::Status> {
        let (namespace, name) = held.place();
        let series = held.series.map(|(count, last)| EventSeries { count, last_observed_time: MicroTime(last) });
        if held.written {
            let patch = json!({"series": series});
            match self.client.patch::<Event>(&namespace, &name, "", PatchKind::Strategic, &patch).await {
                // It has expired: write a new one.
                Err(s) if s.is_not_found() => {}
                result => return result.map(drop),
            }
        }
        let note = &held.note;
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
            event_time: Some(MicroTime(held.first)),
            series,
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(note.action.to_owned()),
            reason: Some(note.reason.to_owned()),
            regarding: Some(note.about.clone()),
            note: Some(note.text.clone()),
            type_: Some(note.kind.to_owned()),
            ..Default::default()
        };
        self.client.create(&event).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(object: &str, text: &str) -> Arc<Note> {
        let about = ObjectReference { name: Some(object.into()), ..Default::default() };
        Arc::new(Note { about, kind: "Warning", reason: "FailedScheduling", action: "Scheduling", text: text.into() })
    }

    #[test]
    fn the_second_begins_a_series_and_the_others_are_only_counted() {
        let (mut m, now) = (Memory::default(), Timestamp::UNIX_EPOCH);
        let key = m.observe(note("a", "one node"), now).unwrap();
        assert_eq!(m.held[&key].series, None);
        let later = now + Duration::from_secs(1);
        assert_eq!(m.observe(note("a", "two nodes"), later).as_ref(), Some(&key));
        assert_eq!(m.held[&key].series, Some((2, later)));
        assert_eq!(m.observe(note("a", "two nodes"), later), None);
        assert_eq!(m.held[&key].series, Some((3, later)));
        assert_eq!(m.held[&key].note.text, "one node");
        assert_ne!(m.observe(note("b", "one node"), later), None);
    }

    #[test]
    fn what_nothing_is_added_to_ends_and_a_series_is_written_once_more() {
        let (mut m, now) = (Memory::default(), Timestamp::UNIX_EPOCH);
        for object in ["single", "series", "series", "lasting"] {
            m.observe(note(object, ""), now);
        }
        let later = now + FINISHED + Duration::from_secs(1);
        m.observe(note("lasting", ""), later);
        let ended = m.finish(later);
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].series, Some((2, now)));
        assert_eq!(m.held.len(), 1);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let text = shortened(&"ä".repeat(600));
        assert!(text.len() <= NOTE_MAX && text.ends_with("ä ..."), "{}", text.len());
        assert_eq!(shortened("short"), "short");
    }
}
