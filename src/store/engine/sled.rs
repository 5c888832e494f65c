//! sled 0.34 as the materialized state. No sled type leaves this file.
//!
//! What is not taken from sled: durability (its `flush` writes but does not sync;
//! a checkpoint syncs its files one by one), snapshots (its scans see changes
//! made meanwhile; `read` corrects them), background flushing (switched off: an
//! idle store writes nothing), and patience (it may panic on a damaged file;
//! every call is guarded).

use std::fs;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Engine;
use crate::{Error, Event, KeyValue, Revision, io_error};

/// No UTF-8 text contains this byte, so no key collides with it, and it sorts last.
const REVISION_KEY: &[u8] = b"\xffrevision";
const REVISION_BYTES: usize = 8;
const CACHE_BYTES: u64 = 8 << 20;
/// sled's threads may hold its lock for a moment after a previous instance was dropped.
const REOPEN_PATIENCE: Duration = Duration::from_secs(10);

/// The state in a directory of its own.
pub(crate) struct SledEngine {
    db: ::sled::Db,
    directory: PathBuf,
}

impl SledEngine {
    /// Opens or creates the state. [`Error::Corrupt`] when sled cannot make sense of it.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let config = ::sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let begun = Instant::now();
        loop {
            match guard(directory, || config.open()) {
                Ok(db) => {
                    return Ok(Self { db, directory: directory.to_owned() });
                }
                Err(error) if is_busy(&error) && begun.elapsed() < REOPEN_PATIENCE => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn guard<T>(&self, operation: impl FnOnce() -> ::sled::Result<T>) -> Result<T, Error> {
        guard(&self.directory, operation)
    }

    fn decode(&self, key: &[u8], stored: &[u8]) -> Result<KeyValue, Error> {
        let decoded = || {
            let (revision, value) = stored.split_first_chunk::<REVISION_BYTES>()?;
            Some(KeyValue {
                key: Arc::from(std::str::from_utf8(key).ok()?),
                value: Bytes::copy_from_slice(value),
                revision: Revision::from_le_bytes(*revision),
            })
        };
        decoded().ok_or_else(|| damaged(&self.directory, "an entry is not sound".into()))
    }
}

impl Engine for SledEngine {
    fn revision(&self) -> Result<Revision, Error> {
        let stored = self.guard(|| self.db.get(REVISION_KEY))?;
        let Some(stored) = stored else { return Ok(0) };
        let bytes = <[u8; REVISION_BYTES]>::try_from(&stored[..])
            .map_err(|_| damaged(&self.directory, "its revision is not sound".into()))?;
        Ok(Revision::from_le_bytes(bytes))
    }

    fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let stored = self.guard(|| self.db.get(key))?;
        stored.map(|stored| self.decode(key.as_bytes(), &stored)).transpose()
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let limit = if limit == 0 { usize::MAX } else { limit };
        let entries = self.guard(|| {
            let range = self.db.range::<&[u8], _>((start, Bound::Excluded(REVISION_KEY)));
            let under_prefix = |entry: &::sled::Result<(::sled::IVec, ::sled::IVec)>| {
                entry.as_ref().map_or(true, |(key, _)| key.starts_with(prefix.as_bytes()))
            };
            range
                .take_while(under_prefix)
                .take(limit)
                .map(|entry| entry.map(|(key, stored)| self.decode(&key, &stored)))
                .collect::<::sled::Result<Vec<_>>>()
        })?;
        entries.into_iter().collect()
    }

    fn apply(&self, events: &[Event]) -> Result<(), Error> {
        let Some(last) = events.last() else {
            return Ok(());
        };
        let mut batch = ::sled::Batch::default();
        for event in events {
            match &event.value {
                Some(value) => {
                    let mut stored = Vec::with_capacity(REVISION_BYTES + value.len());
                    stored.extend_from_slice(&event.revision.to_le_bytes());
                    stored.extend_from_slice(value);
                    batch.insert(event.key.as_bytes(), stored);
                }
                None => batch.remove(event.key.as_bytes()),
            }
        }
        batch.insert(REVISION_KEY, &last.revision.to_le_bytes());
        self.guard(|| self.db.apply_batch(batch))
    }

    fn checkpoint(&self) -> Result<(), Error> {
        self.guard(|| self.db.flush())?;
        sync_tree(&self.directory).map_err(|error| io_error("sync", self.directory.display().to_string(), error))
    }
}

/// Syncs every file and directory under `directory`. sled removes files as it
/// goes; one that is gone needs no sync.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let synced = if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())
        } else {
            fs::File::open(entry.path()).and_then(|file| file.sync_all())
        };
        match synced {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    fs::File::open(directory)?.sync_all()
}

/// Runs a sled operation and turns its errors and panics into ours.
fn guard<T>(directory: &Path, operation: impl FnOnce() -> ::sled::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(error))) => Err(io_error("use", directory.display().to_string(), error)),
        Ok(Err(error)) => Err(damaged(directory, error.to_string())),
        Err(_) => Err(damaged(directory, "the state engine gave up on it".into())),
    }
}

fn is_busy(error: &Error) -> bool {
    // sled wraps the lock's refusal in an error of kind Other.
    matches!(error, Error::Io { source, .. } if source.to_string().contains("could not acquire lock"))
}

fn damaged(directory: &Path, what: String) -> Error {
    Error::Corrupt {
        file: directory.display().to_string(),
        offset: 0,
        what,
        advice: "Restart: the state is rebuilt from the log if the log reaches back far \
                 enough; otherwise restore a snapshot into a new data directory"
            .into(),
    }
}
