//! Recent events and the watchers of new ones.
//!
//! The hub holds the last batches in a ring and the channel of every live
//! watcher. A watcher that starts in the past is first fed from the log, then
//! from the ring, and becomes live under the ring's lock, so that no event can
//! slip between. Batches are shared: a thousand watchers hold one allocation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::log::{Cursor, Index};
use crate::{Error, Event, Revision, Watch, lock};

/// How many batches a live watcher may be behind; one more slot is kept for the
/// error that tells it so.
const WATCHER_BATCHES: usize = 1024;
/// How much of the log is read at a time for a watcher in the past.
const READ_BYTES: u64 = 256 << 10;

type Batch = Arc<[Event]>;
type Item = Result<Batch, Error>;

/// How many recent events are kept in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    pub events: usize,
    pub bytes: usize,
}

/// See the module.
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    limits: RingLimits,
    /// Where events older than the ring are; without a log the ring is all there is.
    log: Option<Arc<Index>>,
}

struct Inner {
    ring: VecDeque<Batch>,
    events: usize,
    bytes: usize,
    /// The ring holds every event in `(before_ring, last]`.
    before_ring: Revision,
    last: Revision,
    /// The oldest revision that a watch can start after.
    oldest: Revision,
    watchers: Vec<Live>,
    closed: bool,
}

struct Live {
    sender: Sender<Item>,
    /// Events up to here were sent or are not wanted.
    after: Revision,
}

enum Attach {
    Live,
    Batches(Vec<Batch>),
    /// The next event is older than the ring.
    InLog,
    Compacted(Revision),
    Closed,
}

impl Hub {
    pub(crate) fn new(last: Revision, oldest: Revision, limits: RingLimits, log: Option<Arc<Index>>) -> Arc<Self> {
        let inner = Inner {
            ring: VecDeque::new(),
            events: 0,
            bytes: 0,
            before_ring: last,
            last,
            oldest,
            watchers: Vec::new(),
            closed: false,
        };
        Arc::new(Self { inner: Mutex::new(inner), limits, log })
    }

    /// Adds a committed batch and sends it to the live watchers. Events after
    /// `keep_after` stay in the ring whatever its limits.
    pub(crate) fn publish(&self, batch: &Batch, keep_after: Revision) {
        let Some(newest) = batch.last().map(|event| event.revision) else {
            return;
        };
        let mut inner = lock(&self.inner);
        inner.last = newest;
        inner.events += batch.len();
        inner.bytes += batch_bytes(batch);
        inner.ring.push_back(batch.clone());
        while inner.events > self.limits.events || inner.bytes > self.limits.bytes {
            let Some(front) = inner.ring.front() else {
                break;
            };
            let Some(through) = front.last().map(|event| event.revision) else {
                break;
            };
            if through > keep_after || through == newest {
                break;
            }
            let (events, bytes) = (front.len(), batch_bytes(front));
            inner.ring.pop_front();
            inner.events -= events;
            inner.bytes -= bytes;
            inner.before_ring = through;
        }
        if self.log.is_none() {
            inner.oldest = inner.oldest.max(inner.before_ring);
        }
        inner.watchers.retain_mut(|watcher| watcher.send(batch));
    }

    /// The batches with events after `after`, and the revision they reach. `None`
    /// when the ring does not reach back that far.
    pub(crate) fn since(&self, after: Revision) -> Option<(Vec<Batch>, Revision)> {
        let inner = lock(&self.inner);
        (after >= inner.before_ring).then(|| (inner.since(after), inner.last))
    }

    /// Gives up history through `revision`.
    pub(crate) fn forget(&self, revision: Revision) {
        let mut inner = lock(&self.inner);
        inner.oldest = inner.oldest.max(revision.min(inner.last));
    }

    /// The oldest revision that a watch can start after.
    pub(crate) fn oldest(&self) -> Revision {
        lock(&self.inner).oldest
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.watchers.clear();
    }

    /// Every event after `after`: from history first, then live.
    pub(crate) fn watch(self: &Arc<Self>, after: Revision) -> Result<Watch, Error> {
        let (sender, events): (_, Receiver<Item>) = channel(WATCHER_BATCHES + 1);
        match self.attach(after, &sender) {
            Attach::Live => {}
            Attach::Closed => return Err(Error::Closed),
            Attach::Compacted(oldest) => {
                return Err(Error::Compacted { requested: after, oldest });
            }
            Attach::Batches(_) | Attach::InLog => {
                tokio::spawn(self.clone().catch_up(after, sender));
            }
        }
        Ok(Watch { events })
    }

    /// Makes the watcher live when it has seen all there is; else says what comes next.
    fn attach(&self, after: Revision, sender: &Sender<Item>) -> Attach {
        let mut inner = lock(&self.inner);
        if inner.closed {
            Attach::Closed
        } else if after < inner.oldest {
            Attach::Compacted(inner.oldest)
        } else if after >= inner.last {
            inner.watchers.retain(|watcher| !watcher.sender.is_closed());
            inner.watchers.push(Live { sender: sender.clone(), after });
            Attach::Live
        } else if after >= inner.before_ring {
            Attach::Batches(inner.since(after))
        } else {
            Attach::InLog
        }
    }

    /// Feeds a watcher in the past at its own pace until it is live.
    async fn catch_up(self: Arc<Self>, after: Revision, sender: Sender<Item>) {
        let mut cursor = Cursor::after(after);
        loop {
            let batches = match self.attach(cursor.after, &sender) {
                Attach::Live | Attach::Closed => return,
                Attach::Compacted(oldest) => {
                    let requested = cursor.after;
                    // A receiver that is gone needs no answer.
                    let _ = sender.send(Err(Error::Compacted { requested, oldest })).await;
                    return;
                }
                Attach::Batches(batches) => {
                    let last = batches.last().and_then(|batch| batch.last());
                    cursor = Cursor::after(last.map_or(cursor.after, |event| event.revision));
                    batches
                }
                Attach::InLog => {
                    let (moved, read) = self.clone().read_log(cursor).await;
                    cursor = moved;
                    match read {
                        Ok(batches) => batches,
                        Err(error) => {
                            let _ = sender.send(Err(error)).await;
                            return;
                        }
                    }
                }
            };
            for batch in batches {
                if sender.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn read_log(self: Arc<Self>, cursor: Cursor) -> (Cursor, Result<Vec<Batch>, Error>) {
        let before = cursor;
        let read = tokio::task::spawn_blocking(move || {
            let mut cursor = cursor;
            let read = self.log.as_ref().map_or(Ok(None), |log| log.read(&mut cursor, READ_BYTES));
            let read = read.and_then(|batches| {
                batches.ok_or_else(|| Error::Compacted { requested: before.after, oldest: self.oldest() })
            });
            (cursor, read)
        });
        read.await.unwrap_or((before, Err(Error::Closed)))
    }
}

impl Inner {
    fn since(&self, after: Revision) -> Vec<Batch> {
        let newer = |batch: &&Batch| batch.last().is_some_and(|event| event.revision > after);
        let mut batches: Vec<Batch> =
            self.ring.iter().rev().take_while(newer).map(|batch| behind(batch, after)).collect();
        batches.reverse();
        batches
    }
}

impl Live {
    /// Whether the watcher stays.
    fn send(&mut self, batch: &Batch) -> bool {
        let batch = behind(batch, self.after);
        let Some(last) = batch.last() else {
            return true;
        };
        if self.sender.capacity() <= 1 {
            let _ = self.sender.try_send(Err(Error::WatchLagged { revision: self.after }));
            return false;
        }
        self.after = last.revision;
        self.sender.try_send(Ok(batch)).is_ok()
    }
}

/// The part of a batch with revisions greater than `after`; all of it costs no copy.
fn behind(batch: &Batch, after: Revision) -> Batch {
    match batch.iter().position(|event| event.revision > after) {
        Some(0) => batch.clone(),
        Some(start) => batch[start..].into(),
        None => Arc::new([]),
    }
}

fn batch_bytes(batch: &Batch) -> usize {
    batch.iter().map(|event| event.key.len() + event.value.as_ref().map_or(0, Bytes::len)).sum()
}
