//! sled 0.34 as the materialized state. No sled type leaves this file.
//!
//! What is not taken from sled: durability (its `flush` writes but does not sync;
//! a checkpoint syncs its files one by one), snapshots (its scans see changes
//! made meanwhile; `read` corrects them), background flushing (switched off: an
//! idle store writes nothing), patience (it may panic on a damaged file; every
//! call is guarded), and integrity: a flipped byte in its file can make it leave out
//! entries without a word. So every batch also writes a [`Summary`] of all entries,
//! and opening reads them all and compares.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Engine;
use crate::{Error, Event, KeyValue, Revision, io_error, lock};

/// No UTF-8 text contains this byte, so no key collides with it, and it sorts last.
const SUMMARY_KEY: &[u8] = b"\xffsummary";
const REVISION_BYTES: usize = 8;
/// Reads are served by the watch caches; this is for the pages that writes touch together.
const CACHE_BYTES: u64 = 1 << 20;
/// A scan of more than this is the one at the start, or as rare.
const SCAN_BYTES: u64 = 4 << 20;
/// sled's threads may hold its lock for a moment after a previous instance was dropped.
const REOPEN_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of all entries together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    /// The last revision applied.
    revision: Revision,
    /// How many entries there are.
    entries: u64,
    /// The sum of their [`checksum`]s, whatever their order.
    checksums: u64,
}

impl Summary {
    const BYTES: usize = 24;

    fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (part, number) in bytes.chunks_exact_mut(8).zip([self.revision, self.entries, self.checksums]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [revision, entries, checksums] = <[_; 3]>::try_from(numbers).ok()?.map(u64::from_le_bytes);
        Some(Self { revision, entries, checksums })
    }

    fn add(&mut self, checksum: u32) {
        self.entries = self.entries.wrapping_add(1);
        self.checksums = self.checksums.wrapping_add(checksum.into());
    }

    fn remove(&mut self, checksum: u32) {
        self.entries = self.entries.wrapping_sub(1);
        self.checksums = self.checksums.wrapping_sub(checksum.into());
    }
}

fn checksum(key: &[u8], stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(stored);
    hasher.finalize()
}

/// The state in a directory of its own.
pub(crate) struct SledEngine {
    /// Taken out only while it is opened again.
    db: RwLock<Option<::sled::Db>>,
    directory: PathBuf,
    summary: Mutex<Summary>,
}

impl SledEngine {
    /// Opens or creates the state. [`Error::Corrupt`] when sled cannot make sense of it, or
    /// when it does not hold what was written.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        Self::verified(opened(directory)?, directory)
    }

    fn verified(db: ::sled::Db, directory: &Path) -> Result<Self, Error> {
        let (noted, found) = guard(directory, || {
            let noted = db.get(SUMMARY_KEY)?;
            let mut found = Summary::default();
            for entry in db.range::<&[u8], _>(..SUMMARY_KEY) {
                let (key, stored) = entry?;
                found.add(checksum(&key, &stored));
            }
            Ok((noted, found))
        })?;
        let noted = match noted {
            Some(bytes) => Summary::decode(&bytes),
            None => Some(Summary::default()),
        };
        let noted = noted.ok_or_else(|| damaged(directory, "its summary is not sound".into()))?;
        if (Summary { revision: noted.revision, ..found }) != noted {
            let what =
                format!("it holds {} entries that are not the {} that were written", found.entries, noted.entries);
            return Err(damaged(directory, what));
        }
        Ok(Self { db: RwLock::new(Some(db)), directory: directory.to_owned(), summary: Mutex::new(noted) })
    }

    fn with<T>(&self, operation: impl FnOnce(&::sled::Db) -> ::sled::Result<T>) -> Result<T, Error> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let Some(db) = &*db else {
            return Err(damaged(&self.directory, "it could not be opened again".into()));
        };
        guard(&self.directory, || operation(db))
    }

    /// Opens it again, so that sled forgets what it has read: it evicts pages only once they were
    /// looked at thousands of times, and keeps all of a state that was read once from end to end.
    fn reopen(&self) -> Result<(), Error> {
        let summary = lock(&self.summary);
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*db {
            guard(&self.directory, || open.flush())?;
        }
        let closed = db.take();
        guard(&self.directory, || {
            drop(closed);
            Ok(())
        })?;
        let open = opened(&self.directory)?;
        let noted = guard(&self.directory, || open.get(SUMMARY_KEY))?.and_then(|bytes| Summary::decode(&bytes));
        if noted.unwrap_or_default() != *summary {
            return Err(damaged(&self.directory, "it does not hold what was written".into()));
        }
        *db = Some(open);
        Ok(())
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
        Ok(lock(&self.summary).revision)
    }

    fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let stored = self.with(|db| db.get(key))?;
        stored.map(|stored| self.decode(key.as_bytes(), &stored)).transpose()
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let limit = if limit == 0 { usize::MAX } else { limit };
        let entries = self.with(|db| {
            let range = db.range::<&[u8], _>((start, Bound::Excluded(SUMMARY_KEY)));
            let under_prefix = |entry: &::sled::Result<(::sled::IVec, ::sled::IVec)>| {
                entry.as_ref().map_or(true, |(key, _)| key.starts_with(prefix.as_bytes()))
            };
            range
                .take_while(under_prefix)
                .take(limit)
                .map(|entry| entry.map(|(key, stored)| self.decode(&key, &stored)))
                .collect::<::sled::Result<Vec<_>>>()
        })?;
        let entries = entries.into_iter().collect::<Result<Vec<_>, _>>()?;
        if entries.iter().map(|entry| entry.value.len() as u64).sum::<u64>() > SCAN_BYTES {
            self.reopen()?;
        }
        Ok(entries)
    }

    fn apply(&self, events: &[Event]) -> Result<(), Error> {
        let Some(last) = events.last() else {
            return Ok(());
        };
        // Of several changes to a key only the last one counts.
        let changes: BTreeMap<&str, &Event> = events.iter().map(|event| (&*event.key, event)).collect();
        let mut summary = lock(&self.summary);
        let mut next = Summary { revision: last.revision, ..*summary };
        let mut batch = ::sled::Batch::default();
        for (key, event) in changes {
            let key = key.as_bytes();
            if let Some(old) = self.with(|db| db.get(key))? {
                next.remove(checksum(key, &old));
            }
            match &event.value {
                Some(value) => {
                    let stored = [&event.revision.to_le_bytes()[..], value].concat();
                    next.add(checksum(key, &stored));
                    batch.insert(key, stored);
                }
                None => batch.remove(key),
            }
        }
        batch.insert(SUMMARY_KEY, &next.encode());
        self.with(|db| db.apply_batch(batch))?;
        *summary = next;
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), Error> {
        self.with(|db| db.flush())?;
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

/// Opens or creates sled's files.
fn opened(directory: &Path) -> Result<::sled::Db, Error> {
    let config = ::sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let begun = Instant::now();
    loop {
        match guard(directory, || config.open()) {
            Err(error) if is_busy(&error) && begun.elapsed() < REOPEN_PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
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
        advice: "Restart: the state is rebuilt from the log as far as that reaches back".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(engine: &SledEngine, revision: Revision, key: &str, value: Bytes) {
        engine.apply(&[Event { revision, key: key.into(), value: Some(value) }]).unwrap();
    }

    #[test]
    fn a_large_scan_leaves_everything_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(directory.path()).unwrap();
        let (count, value) = (12, Bytes::from(vec![7; 512 << 10]));
        (1..=count).for_each(|n| put(&engine, n, &format!("/k/{n:02}"), value.clone()));
        let again = std::thread::scope(|threads| {
            let scans = [0, 1].map(|_| threads.spawn(|| engine.scan("/k/", None, 0).unwrap().len()));
            put(&engine, count + 1, "/l", value.clone());
            scans.map(|s| s.join().unwrap())
        });
        assert_eq!(again, [count as usize; 2]);
        put(&engine, count + 2, "/k/01", Bytes::from_static(b"new"));
        assert_eq!(engine.get("/k/01").unwrap().unwrap().revision, count + 2);
        assert_eq!(engine.get("/l").unwrap().unwrap().value, value);
        drop(engine);
        let engine = SledEngine::open(directory.path()).unwrap();
        assert_eq!(engine.revision().unwrap(), count + 2);
        assert_eq!(engine.scan("/", None, 0).unwrap().len(), count as usize + 1);
    }
}
