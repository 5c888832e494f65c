//! What is durable in the log and not yet in the engine.
//!
//! The engine need not follow every commit: the log has it all, and readers take what is newer
//! from the hub. Fed in large batches, the engine writes each key once instead of at every
//! change, and leaves the disk to the log's syncs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::record::record_bytes;
use crate::{Event, KeyValue, Revision};

/// See the module.
#[derive(Default)]
pub(crate) struct Unapplied {
    events: Vec<Event>,
    /// What each changed key holds now.
    newest: HashMap<Arc<str>, Option<KeyValue>>,
    bytes: usize,
}

impl Unapplied {
    pub(crate) fn push(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.bytes += record_bytes(&event.key, event.value.as_ref());
            self.newest.insert(event.key.clone(), event.entry());
            self.events.push(event);
        }
    }

    /// What a key holds by the changes in here; `None` when none of them is to it.
    pub(crate) fn get(&self, key: &str) -> Option<&Option<KeyValue>> {
        self.newest.get(key)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All events in revision order, and the revision that they reach.
    pub(crate) fn events(&self) -> Option<(&[Event], Revision)> {
        self.events.last().map(|last| (&self.events[..], last.revision))
    }
}
