//! A revisioned key space with watch: bytes in, bytes out.
//!
//! A [`Store`] is an ordered map from keys to values with one global, gapless
//! `u64` revision: every successful write takes the next one. It knows nothing
//! of HTTP, JSON or Kubernetes.
//!
//! Guarantees, by name (the contract suite proves each on every backend):
//!
//! * **Durable** – a write is acknowledged only when it would survive a power cut.
//! * **Gapless** – the revisions of successful writes are consecutive.
//! * **CompareAndSet** – a write whose [`Expect`] does not hold changes nothing.
//! * **ReadYourWrites** – a read that starts after an acknowledgement sees the write.
//! * **OrderedWatch** – a watch delivers every event after its start revision
//!   exactly once, in revision order, or ends with [`Error::Compacted`] or
//!   [`Error::WatchLagged`].
//! * **HistoryAcrossRestart** – a watch may resume from any revision inside the
//!   history window, also after a restart.

//!
//! The files, from the bottom up:
//!
//! * `disk` – the file layer, real or (`simulated`) one that loses what was not synced
//! * `record`, `log`, `manifest` – the bytes on disk and the rules for changing them
//! * `engine` – the materialized current state: sled, or a simulated one
//! * `hub` – recent events and the watchers, from history over to live
//! * `unapplied` – what the engine has yet to be fed
//! * `commit` – commit, checkpoint and recovery, without a thread or a clock of its own
//! * `ration` – how often writes that may wait get a sync of their own
//! * `durable` – [`DurableStore`]: the writer thread around `commit`
//! * `memory` – [`MemoryStore`]
//! * `conformance` – the contract suite; `model` – random histories against a map

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

mod commit;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;

#[cfg(test)]
mod crash;
mod disk;
mod durable;
mod engine;
mod hub;
mod log;
mod manifest;
mod memory;
#[cfg(test)]
mod model;
mod ration;
mod read;
mod record;
#[cfg(test)]
mod simulated;
mod unapplied;

pub use durable::{DurableStore, Options};
pub use memory::MemoryStore;

/// The counter that every successful write advances by one. 0 is the empty store.
pub type Revision = u64;

/// One key with its current value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Arc<str>,
    /// The value as it was written.
    pub value: Bytes,
    /// The revision of the write that put this value.
    pub revision: Revision,
}

/// What must hold of a key for a write to take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is expected.
    Any,
    /// The key must not exist.
    Absent,
    /// The key must exist, last written at this revision.
    Revision(Revision),
}

/// Result of [`Store::range`]: the entries and the revision at which they were read.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// The entries in key order.
    pub items: Vec<KeyValue>,
    /// The store's revision at the time of the read.
    pub revision: Revision,
    /// Whether entries beyond `limit` were left out.
    pub more: bool,
}

/// One change, as a watch delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision that the change took.
    pub revision: Revision,
    /// The key that changed.
    pub key: Arc<str>,
    /// The new value; `None` for a deletion.
    pub value: Option<Bytes>,
}

impl Event {
    /// What the key holds after it.
    fn entry(&self) -> Option<KeyValue> {
        let value = self.value.clone()?;
        Some(KeyValue { key: self.key.clone(), value, revision: self.revision })
    }
}

/// An ordered key space with one global revision. See the module for its guarantees.
///
/// Keys are UTF-8 and ordered bytewise.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The value of one key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error>;

    /// All entries whose key starts with `prefix`, in key order, at most `limit`
    /// (0 = all), beginning after `after` when that is given.
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error>;

    /// Writes a value and returns the revision it took, once durable.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, Error>;

    /// As [`Store::put`], for what is written often and is worth little: it may wait half a second
    /// for the sync of other writes. Every guarantee holds all the same.
    async fn put_unhurried(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, Error> {
        self.put(key, value, expect).await
    }

    /// As [`Store::delete`], in the manner of [`Store::put_unhurried`].
    async fn delete_unhurried(&self, key: &str, expect: Expect) -> Result<Revision, Error> {
        self.delete(key, expect).await
    }

    /// Deletes a key and returns the revision of the deletion, once durable.
    /// An absent key is [`Error::Conflict`] unless `expect` is [`Expect::Any`];
    /// then it changes nothing and returns the current revision.
    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision, Error>;

    /// Every event with a revision greater than `after`, first from history, then live.
    async fn watch(&self, after: Revision) -> Result<Watch, Error>;

    /// Forgets history up to and including `revision`; watches from before it
    /// are then refused with [`Error::Compacted`].
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// The revision of the latest acknowledged write.
    fn revision(&self) -> Revision;

    /// Makes everything durable, writes a checkpoint and stops the backend's tasks.
    async fn close(&self) -> Result<(), Error>;
}

/// A stream of [`Event`] batches in revision order.
#[derive(Debug)]
pub struct Watch {
    /// Batches of events; the channel is bounded, and a watcher that falls
    /// behind receives [`Error::WatchLagged`] and is closed.
    pub events: tokio::sync::mpsc::Receiver<Result<Arc<[Event]>, Error>>,
}

/// Why a store operation did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The write's [`Expect`] did not hold. `current` is what the key holds now.
    #[error("the key {key:?} is not as expected")]
    Conflict {
        /// The key.
        key: String,
        /// The entry at the time of the attempt.
        current: Option<KeyValue>,
    },
    /// History before `oldest` is gone.
    #[error("revision {requested} has been compacted; the oldest available is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that a watch can start after.
        oldest: Revision,
    },
    /// A watcher did not read its events fast enough and was closed.
    #[error("the watcher fell behind and was closed at revision {revision}")]
    WatchLagged {
        /// The last revision it was sent.
        revision: Revision,
    },
    /// The key or value is larger than a record may be.
    #[error("the value of {key:?} has {size} bytes; at most {limit} can be stored")]
    TooLarge {
        /// The key.
        key: String,
        /// The value's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Something on disk is not what was written there.
    #[error("{file} is corrupt at byte {offset}: {what}. {advice}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        what: String,
        /// What a person can do.
        advice: String,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        file: String,
        /// The system's answer.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The data directory is in use by another process.
    #[error("{0} is in use by another process; stop it first or choose another --data-dir")]
    Locked(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// What a person can do when what is damaged cannot be made good.
const RESTORE_ADVICE: &str = "The disk may be failing. Restore a backup of the data directory, \
                              or move this one away to begin with an empty cluster";

/// Describes a failed operation on a file.
fn io_error(action: &'static str, file: String, error: std::io::Error) -> Error {
    Error::Io { action, file, source: Arc::new(error) }
}

/// Locks a mutex; a panic of another holder is no reason to stop serving, since
/// no critical section here leaves its data half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
