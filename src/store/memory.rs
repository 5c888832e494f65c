//! A store in memory, for tests: every guarantee except Durable and HistoryAcrossRestart.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use crate::hub::{Hub, RingLimits};
use crate::record::RECORD_BYTES_MAX;
use crate::{Error, Event, Expect, KeyValue, Range, Revision, Store, Watch, lock};

const HISTORY_EVENTS: usize = 100_000;

/// A [`Store`] that forgets everything when it is dropped.
pub struct MemoryStore {
    state: Mutex<State>,
    hub: Arc<Hub>,
}

#[derive(Default)]
struct State {
    map: BTreeMap<Arc<str>, KeyValue>,
    revision: Revision,
    closed: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that remembers the last 100 000 events.
    pub fn new() -> Self {
        Self::with_history(HISTORY_EVENTS)
    }

    /// An empty store that remembers the last `events` events.
    pub fn with_history(events: usize) -> Self {
        let limits = RingLimits { events, bytes: usize::MAX };
        Self { state: Mutex::default(), hub: Hub::new(0, 0, limits, None) }
    }

    fn write(&self, key: &str, value: Option<Bytes>, expect: Expect) -> Result<Revision, Error> {
        check_size(key, value.as_ref())?;
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::Closed);
        }
        let current = state.map.get(key);
        if !holds(expect, current.map(|entry| entry.revision), value.is_some()) {
            return Err(Error::Conflict { key: key.into(), current: current.cloned() });
        }
        if value.is_none() && current.is_none() {
            return Ok(state.revision);
        }
        let revision = state.revision + 1;
        let key: Arc<str> = key.into();
        match &value {
            Some(value) => {
                let entry = KeyValue { key: key.clone(), value: value.clone(), revision };
                state.map.insert(key.clone(), entry);
            }
            None => {
                state.map.remove(&key);
            }
        }
        state.revision = revision;
        let batch: Arc<[Event]> = Arc::new([Event { revision, key, value }]);
        self.hub.publish(&batch, revision);
        Ok(revision)
    }

    fn state(&self) -> Result<std::sync::MutexGuard<'_, State>, Error> {
        let state = lock(&self.state);
        if state.closed { Err(Error::Closed) } else { Ok(state) }
    }
}

/// Whether a write may take place on a key that was last written at `current`. A
/// deletion of an absent key holds only when nothing is expected.
pub(crate) fn holds(expect: Expect, current: Option<Revision>, put: bool) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none() && put,
        Expect::Revision(revision) => current == Some(revision),
    }
}

/// Refuses what no record can hold.
pub(crate) fn check_size(key: &str, value: Option<&Bytes>) -> Result<(), Error> {
    let size = value.map_or(0, Bytes::len);
    if key.len() + size > RECORD_BYTES_MAX {
        return Err(Error::TooLarge { key: key.into(), size, limit: RECORD_BYTES_MAX });
    }
    Ok(())
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        Ok(self.state()?.map.get(key).cloned())
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        let state = self.state()?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut items: Vec<KeyValue> = state
            .map
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(if limit == 0 { usize::MAX } else { limit.saturating_add(1) })
            .map(|(_, entry)| entry.clone())
            .collect();
        let more = limit > 0 && items.len() > limit;
        if more {
            items.truncate(limit);
        }
        Ok(Range { items, revision: state.revision, more })
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, Error> {
        self.write(key, Some(value), expect)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision, Error> {
        self.write(key, None, expect)
    }

    async fn watch(&self, after: Revision) -> Result<Watch, Error> {
        self.hub.watch(after)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        drop(self.state()?);
        self.hub.forget(revision);
        Ok(())
    }

    fn revision(&self) -> Revision {
        lock(&self.state).revision
    }

    async fn close(&self) -> Result<(), Error> {
        lock(&self.state).closed = true;
        self.hub.close();
        Ok(())
    }
}
