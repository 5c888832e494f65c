//! History across a restart: the store's last events become the cache's recent events again.
//!
//! Read is what the last [`REVISIONS`] revisions did; of a resource, at most [`HISTORY`] events are
//! made into objects. What cannot be told in full is not told: the
//! history of a resource begins behind a deletion whose object was last written before that, and
//! behind what is sealed with a key that is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use api::{Object, Status};
use store::{Revision, Store};

use super::{Change, Objects, Recent, event_of, prefix_of};
use crate::storage::{self, Storage};

/// How many revisions are read back at a start: enough for the watches of clients that were
/// connected when the server ended, and few enough to be read in milliseconds.
const REVISIONS: u64 = 4096;
/// How many of them are made into events of one resource.
const HISTORY: usize = 1024;

/// The store's recent events of one resource.
#[derive(Debug, Default)]
pub(super) struct Past {
    events: VecDeque<store::Event>,
    /// The revision after which none is missing.
    oldest: Revision,
}

/// The recent events of every resource up to `now`, and the revision after which those of a
/// resource that is not among them (it has none) are complete.
///
/// # Errors
/// A store error, such as a damaged log.
pub(super) async fn read(store: &dyn Store, now: Revision) -> Result<(HashMap<String, Past>, Revision), Status> {
    let (mut watch, oldest) = begin(store, now.saturating_sub(REVISIONS)).await.map_err(storage::status_of)?;
    let mut past: HashMap<String, Past> = HashMap::new();
    let mut reached = oldest;
    while reached < now {
        let batch = watch.events.recv().await.unwrap_or(Err(store::Error::Closed)).map_err(storage::status_of)?;
        for event in batch.iter().filter(|e| e.revision <= now) {
            let Some(prefix) = prefix_of(&event.key) else { continue };
            let of_resource = past.entry(prefix.to_owned()).or_insert_with(|| Past { events: VecDeque::new(), oldest });
            of_resource.events.push_back(event.clone());
            if of_resource.events.len() > HISTORY
                && let Some(dropped) = of_resource.events.pop_front()
            {
                of_resource.oldest = dropped.revision;
            }
        }
        reached = batch.last().map_or(reached, |e| e.revision);
    }
    Ok((past, oldest))
}

/// A watch from `after`, or from the oldest revision that the store still has.
async fn begin(store: &dyn Store, after: Revision) -> Result<(store::Watch, Revision), store::Error> {
    match store.watch(after).await {
        Ok(watch) => Ok((watch, after)),
        Err(store::Error::Compacted { oldest, .. }) => Ok((store.watch(oldest).await?, oldest)),
        Err(e) => Err(e),
    }
}

/// What a cache would hold of recent events had it seen `past` happen and ended with `objects`.
///
/// # Errors
/// A value that does not decode.
pub(super) fn rebuild(storage: &Storage, prefix: &str, past: &Past, objects: &Objects) -> Result<Recent, Status> {
    let mut oldest = past.oldest;
    let mut events = VecDeque::with_capacity(past.events.len());
    let mut states: HashMap<Arc<str>, Option<Arc<Object>>> = HashMap::new();
    for event in &past.events {
        let key: Arc<str> = Arc::from(&event.key[prefix.len()..]);
        let old = states.get(&key).cloned().flatten();
        let current = objects.get(&key).filter(|o| o.revision() == event.revision);
        // Values from before a change of keys cannot be opened any more.
        let readable = event.value.as_deref().is_none_or(|v| storage.can_open(v));
        let known = if readable { event_of(storage, event, old, current)? } else { None };
        let Some(event) = known else {
            oldest = event.revision;
            events.clear();
            states.insert(key, None);
            continue;
        };
        states.insert(key, (event.change != Change::Deleted).then(|| event.object.clone()));
        events.push_back(event);
    }
    Ok(Recent::of(events, oldest))
}

#[cfg(test)]
mod tests;
