//! How much the events that the caches remember may keep in memory, all together: what they
//! replaced and deleted, and themselves. The oldest are forgotten first, whatever they are about,
//! so that neither many resources nor a busy one take more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use store::Revision;
use tokio::time::Instant;

use super::Cache;

const BYTES: usize = 8 << 20;
const EVENTS: usize = 16 << 10;
/// As long as the store can tell them.
const AGE: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Default)]
pub(super) struct Memory(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    /// When each event came, whose it is, and what it takes: its cache may be gone by the time
    /// that it is forgotten.
    events: VecDeque<(Instant, Revision, Weak<Cache>, usize)>,
    bytes: usize,
}

impl Memory {
    /// An event is remembered now. They come in the order of their revisions.
    pub(super) fn add(&self, now: Instant, revision: Revision, cache: &Arc<Cache>, bytes: usize) {
        let mut r = self.0.lock().unwrap_or_else(|e| e.into_inner());
        r.bytes += bytes;
        r.events.push_back((now, revision, Arc::downgrade(cache), bytes));
        while let Some((at, ..)) = r.events.front()
            && (r.bytes > BYTES || r.events.len() > EVENTS || now.duration_since(*at) > AGE)
            && let Some((_, revision, cache, bytes)) = r.events.pop_front()
        {
            r.bytes -= bytes;
            if let Some(cache) = cache.upgrade() {
                cache.forget(revision);
            }
        }
    }
}

#[cfg(test)]
mod tests;
