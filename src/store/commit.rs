//! Commit, checkpoint and recovery, without a thread of its own: the crash
//! harness drives the same code that the writer thread does.
//!
//! A write's way: expectations checked → frame appended and synced → **published**
//! (visible to reads through the hub, sent to watchers, acknowledged) → applied to
//! the engine, together with others. A checkpoint's way: the rest applied → engine
//! made durable → `CHECKPOINT` replaced → log segments dropped that are older than both the
//! checkpoint and the history window. No step starts before the one it relies on
//! is durable.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use crate::disk::Disk;
use crate::engine::Engine;
use crate::hub::{Hub, RingLimits};
use crate::log::Log;
use crate::manifest::Manifest;
use crate::memory::{check_size, holds};
use crate::unapplied::Unapplied;
use crate::{Error, Event, Expect, KeyValue, Revision, io_error, lock};

const RING: RingLimits = RingLimits { events: 4096, bytes: 1 << 20 };
/// A failed checkpoint is tried again after this long.
const RETRY_AFTER_FAILED_CHECKPOINT_MS: u64 = 60_000;

/// The limits that a store keeps; see [`crate::Options`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub history_window: Duration,
    pub history_bytes: u64,
    pub segment_bytes: u64,
    pub checkpoint_bytes: u64,
    pub checkpoint_interval: Duration,
    pub reserve_bytes: u64,
    /// How much the engine may be behind the log.
    pub apply_bytes: usize,
}

/// One requested change; no value is a deletion.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub key: Arc<str>,
    pub value: Option<Bytes>,
    pub expect: Expect,
}

/// What the writer shares with readers.
pub(crate) struct Shared {
    pub hub: Arc<Hub>,
    /// Everything up to here is in the engine; what is newer is in the hub's ring.
    pub applied: AtomicU64,
    /// The last acknowledged revision.
    pub revision: AtomicU64,
    /// Held for writing while the engine changes, for reading by a reader that
    /// could not get a consistent answer otherwise.
    pub gate: RwLock<()>,
    engine: Mutex<Option<Arc<dyn Engine>>>,
}

impl Shared {
    pub(crate) fn engine(&self) -> Result<Arc<dyn Engine>, Error> {
        lock(&self.engine).clone().ok_or(Error::Closed)
    }

    /// Refuses reads and watches from now on.
    pub(crate) fn close(&self) {
        lock(&self.engine).take();
        self.hub.close();
    }
}

/// See the module. Owned by the one writer.
pub(crate) struct Core {
    disk: Arc<dyn Disk>,
    log: Log,
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    manifest: Manifest,
    limits: Limits,
    /// Published, but not yet in the engine.
    unapplied: Unapplied,
    /// Why the engine no longer takes changes.
    engine_failure: Option<Error>,
    bytes_since_checkpoint: u64,
    /// When the first change since the last checkpoint was made.
    dirty_since_ms: Option<u64>,
    retry_checkpoint_ms: u64,
}

impl Core {
    /// Opens log and engine and brings the engine up to the end of the log.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        manifest: Manifest,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let found = engine.revision()?;
        let mut replayed = 0;
        let mut pending = Unapplied::default();
        let mut replay = |events: Vec<Event>| {
            replayed += events.len();
            pending.push(events);
            if pending.bytes() < limits.apply_bytes { Ok(()) } else { feed(&*engine, &mut pending) }
        };
        let log = Log::open(
            disk.clone(),
            manifest,
            (manifest.checkpoint.min(found), manifest.checkpoint.max(found)),
            limits.segment_bytes,
            now_ms,
            &mut replay,
        )?;
        feed(&*engine, &mut pending)?;
        let last = log.last();
        tracing::debug!(revision = last, replayed, "store opened");
        let oldest = manifest.oldest.max(log.before_first());
        let hub = Hub::new(last, oldest, RING, Some(log.index()));
        let shared = Arc::new(Shared {
            hub,
            applied: AtomicU64::new(last),
            revision: AtomicU64::new(last),
            gate: RwLock::new(()),
            engine: Mutex::new(Some(engine.clone())),
        });
        Ok(Self {
            disk,
            log,
            engine,
            shared,
            manifest,
            limits,
            unapplied: Unapplied::default(),
            engine_failure: None,
            bytes_since_checkpoint: 0,
            dirty_since_ms: (replayed > 0).then_some(now_ms),
            retry_checkpoint_ms: 0,
        })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    #[cfg(test)]
    pub(crate) fn log_index(&self) -> Arc<crate::log::Index> {
        self.log.index()
    }

    /// Decides and commits one batch. The answers are final and may be sent;
    /// [`Core::apply`] must follow.
    pub(crate) fn commit(&mut self, writes: &[Write], now_ms: u64) -> Vec<Result<Revision, Error>> {
        let mut events: Vec<Event> = Vec::with_capacity(writes.len());
        let mut answers = Vec::with_capacity(writes.len());
        let mut changed: HashMap<Arc<str>, Option<KeyValue>> = HashMap::new();
        let last = self.log.last();
        for write in writes {
            let revision = last + events.len() as u64 + 1;
            match self.decide(write, revision, &mut changed) {
                Ok(Some(event)) => {
                    events.push(event);
                    answers.push(Ok(revision));
                }
                Ok(None) => answers.push(Ok(revision - 1)),
                Err(error) => answers.push(Err(error)),
            }
        }
        if events.is_empty() {
            return answers;
        }
        match self.make_durable(&events, now_ms) {
            Ok(bytes) => {
                self.bytes_since_checkpoint += bytes;
                self.dirty_since_ms.get_or_insert(now_ms);
                let batch: Arc<[Event]> = events.into();
                let newest = last + batch.len() as u64;
                self.shared.hub.publish(&batch, self.shared.applied.load(Ordering::Acquire));
                self.shared.revision.store(newest, Ordering::Release);
                self.unapplied.push(batch.iter().cloned());
                answers
            }
            // Some answers rest on writes that did not happen: all are withdrawn.
            Err(error) => writes.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn decide(
        &self,
        write: &Write,
        revision: Revision,
        changed: &mut HashMap<Arc<str>, Option<KeyValue>>,
    ) -> Result<Option<Event>, Error> {
        check_size(&write.key, write.value.as_ref())?;
        let blind = write.expect == Expect::Any && write.value.is_some();
        if !blind {
            let current = match changed.get(&write.key) {
                Some(current) => current.clone(),
                None => match self.unapplied.get(&write.key) {
                    Some(current) => current.clone(),
                    None => self.engine.get(&write.key)?,
                },
            };
            let held = current.as_ref().map(|entry| entry.revision);
            if !holds(write.expect, held, write.value.is_some()) {
                return Err(Error::Conflict { key: write.key.to_string(), current });
            }
            if write.value.is_none() && current.is_none() {
                return Ok(None);
            }
        }
        let key = write.key.clone();
        let entry = write.value.clone().map(|value| KeyValue { key: key.clone(), value, revision });
        changed.insert(key.clone(), entry);
        Ok(Some(Event { revision, key, value: write.value.clone() }))
    }

    fn make_durable(&mut self, events: &[Event], now_ms: u64) -> Result<u64, Error> {
        if let Some(error) = &self.engine_failure {
            return Err(error.clone());
        }
        let full = |error| io_error("write", self.disk.path(""), error);
        let free = self.disk.free_bytes().map_err(full)?;
        // The engine needs room to take in what the log already promised. Deletions
        // may use half of what is kept for it, so that space can be won back.
        let deletions = events.iter().all(|event| event.value.is_none());
        let reserve = self.limits.reserve_bytes / if deletions { 2 } else { 1 };
        if free < reserve {
            return Err(full(std::io::Error::from(std::io::ErrorKind::StorageFull)));
        }
        self.log.append(events, now_ms)
    }

    /// Feeds the engine what was committed, when there is enough of it.
    pub(crate) fn apply(&mut self) {
        if self.unapplied.bytes() >= self.limits.apply_bytes {
            self.apply_all();
        }
    }

    fn apply_all(&mut self) {
        let Some((_, last)) = self.unapplied.events().filter(|_| self.engine_failure.is_none()) else { return };
        let _gate = self.shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        match feed(&*self.engine, &mut self.unapplied) {
            Ok(()) => self.shared.applied.store(last, Ordering::Release),
            Err(error) => {
                tracing::error!(%error, "the state engine failed; the store is read-only until a restart");
                self.engine_failure = Some(error);
            }
        }
    }

    /// Gives up history through `revision`, durably.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        let oldest = revision.min(self.log.last());
        if oldest > self.manifest.oldest {
            let manifest = Manifest { oldest, ..self.manifest };
            manifest.write(&*self.disk)?;
            self.manifest = manifest;
        }
        self.shared.hub.forget(oldest);
        self.drop_segments()
    }

    /// When there is next something to do without a request.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        if self.engine_failure.is_some() {
            return None;
        }
        let checkpoint = self.dirty_since_ms.map(|since| {
            let regular = since.saturating_add(millis(self.limits.checkpoint_interval));
            let due = if self.bytes_since_checkpoint >= self.limits.checkpoint_bytes { since } else { regular };
            due.max(self.retry_checkpoint_ms)
        });
        let trim = self.log.oldest_sealed_ms().map(|sealed| {
            let due = sealed.saturating_add(millis(self.limits.history_window)).saturating_add(1);
            due.max(self.retry_checkpoint_ms)
        });
        // History is trimmed together with a checkpoint, when one is due anyway.
        checkpoint.or(trim)
    }

    /// Up to where a checkpoint made now will reach; `None` when the engine failed.
    /// The caller runs [`Engine::checkpoint`] next, on any thread.
    pub(crate) fn begin_checkpoint(&mut self) -> Option<Revision> {
        self.apply_all();
        if self.engine_failure.is_some() {
            return None;
        }
        self.bytes_since_checkpoint = 0;
        self.dirty_since_ms = None;
        Some(self.shared.applied.load(Ordering::Acquire))
    }

    /// Records a checkpoint that the engine has completed, and drops what it and
    /// the history window no longer need.
    pub(crate) fn finish_checkpoint(&mut self, reached: Result<Revision, Error>, now_ms: u64) -> Result<(), Error> {
        let finished = reached.and_then(|checkpoint| {
            let sealed_before = now_ms.saturating_sub(millis(self.limits.history_window));
            let expired = self.log.expired(sealed_before, self.limits.history_bytes);
            let manifest = Manifest {
                checkpoint: checkpoint.max(self.manifest.checkpoint),
                oldest: self.manifest.oldest.max(expired.min(checkpoint)),
            };
            if manifest != self.manifest {
                manifest.write(&*self.disk)?;
                self.manifest = manifest;
            }
            self.shared.hub.forget(manifest.oldest);
            self.drop_segments()
        });
        self.retry_checkpoint_ms = now_ms
            + match &finished {
                Ok(()) => 0,
                Err(_) => RETRY_AFTER_FAILED_CHECKPOINT_MS,
            };
        if let Err(error) = &finished {
            tracing::warn!(%error, "the checkpoint failed and will be tried again");
            self.dirty_since_ms.get_or_insert(now_ms);
        }
        finished
    }

    fn drop_segments(&mut self) -> Result<(), Error> {
        self.log.drop_through(self.manifest.oldest.min(self.manifest.checkpoint))
    }
}

/// Brings the engine up to date.
fn feed(engine: &dyn Engine, unapplied: &mut Unapplied) -> Result<(), Error> {
    if let Some((events, _)) = unapplied.events() {
        engine.apply(events)?;
        *unapplied = Unapplied::default();
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
