//! What a cache remembers of the last events: for watches that resume, and for lists at exact
//! revisions, whose objects are told by undoing the events since.

use std::collections::VecDeque;
use std::sync::Arc;

use api::Status;
use store::Revision;

use super::{CacheEvent, Change, Objects, too_old};

/// See the module.
pub(super) struct Recent {
    events: VecDeque<Arc<CacheEvent>>,
    /// Watches can start after any revision from here on.
    oldest: Revision,
    /// The objects can be told at any revision from here on: of an event from before a restart it
    /// may not be known what it replaced.
    exact: Revision,
}

impl Recent {
    /// Nothing is known of what was before a revision.
    pub(super) fn since_revision(oldest: Revision) -> Recent {
        Recent::of(VecDeque::new(), oldest)
    }

    /// Takes all events after `oldest`, in order.
    pub(super) fn of(events: VecDeque<Arc<CacheEvent>>, oldest: Revision) -> Recent {
        let unknown = events.iter().rfind(|e| e.old.is_none() && e.change != Change::Added);
        let exact = unknown.map_or(oldest, |e| e.revision);
        Recent { events, oldest, exact }
    }

    pub(super) fn push(&mut self, event: Arc<CacheEvent>) {
        self.events.push_back(event);
    }

    /// All events that are remembered.
    pub(super) fn events(&self) -> impl Iterator<Item = &Arc<CacheEvent>> {
        self.events.iter()
    }

    /// Forgets the events up to a revision.
    pub(super) fn forget(&mut self, through: Revision) {
        while let Some(event) = self.events.front()
            && event.revision <= through
        {
            self.oldest = event.revision;
            self.events.pop_front();
        }
        self.exact = self.exact.max(self.oldest);
    }

    /// The events after `revision`.
    pub(super) fn since(&self, revision: Revision) -> Result<impl Iterator<Item = &Arc<CacheEvent>>, Status> {
        if revision < self.oldest {
            return Err(too_old(revision, self.oldest));
        }
        let from = self.events.partition_point(|e| e.revision <= revision);
        Ok(self.events.range(from..))
    }

    /// What is to be undone, the last event first, to see the objects at a revision.
    pub(super) fn undone(&self, revision: Revision) -> Result<Vec<Arc<CacheEvent>>, Status> {
        if revision < self.exact {
            return Err(too_old(revision, self.oldest));
        }
        let from = self.events.partition_point(|e| e.revision <= revision);
        Ok(self.events.range(from..).rev().cloned().collect())
    }
}

/// The objects before some events, the last of which comes first.
pub(super) fn undo(mut objects: Objects, events: &[Arc<CacheEvent>]) -> Objects {
    for event in events {
        let key = Arc::from(event.object.key());
        match &event.old {
            Some(old) => objects.insert(key, old.clone()),
            None => objects.remove(&key),
        };
    }
    objects
}
