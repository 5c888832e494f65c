//! A disk and an engine in memory that are honest about power cuts.
//!
//! [`SimulatedDisk`] keeps for every file what is synced and what is merely
//! written, and for the directory which names are synced. [`SimulatedDisk::cut`]
//! forgets: of unsynced bytes any 512-byte sectors may survive, be zero or be
//! garbage, and the length may be anything between; of unsynced names, a prefix of
//! the changes survives. At a chosen operation the power goes: that operation may
//! take effect in part, all later ones fail.
//!
//! [`SimulatedEngine`] keeps, as sled may, any part of what was applied since its
//! last checkpoint.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::{Disk, File};
use crate::engine::Engine;
use crate::{Error, Event, KeyValue, Revision, lock};

const SECTOR: usize = 512;

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: this operation may happen in part, none after it happens.
    PowerCut,
    /// This one operation fails, perhaps half done, as on a full or failing disk.
    Error,
    /// This operation and this many after it fail, so that taking back fails too.
    Errors(u64),
}

/// See the module. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    random: StdRng,
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    /// Every state the names went through since they were last synced.
    name_states: Vec<BTreeMap<String, u64>>,
    next_file: u64,
    operations: u64,
    fault: Option<(u64, Fault)>,
    dark: bool,
    capacity: u64,
}

#[derive(Clone, Default)]
struct Contents {
    written: Vec<u8>,
    synced: Vec<u8>,
}

/// What an operation may do.
enum Verdict {
    Proceed,
    /// Do a random part, then fail.
    Partly(io::Error),
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let inner = Inner {
            random: StdRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            name_states: Vec::new(),
            next_file: 0,
            operations: 0,
            fault: None,
            dark: false,
            capacity: u64::MAX,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Arms a fault, this many changing operations from now.
    pub(crate) fn fail_in(&self, operations: u64, fault: Fault) {
        let mut inner = lock(&self.inner);
        inner.fault = Some((inner.operations + operations, fault));
    }

    /// Disarms a fault that has not come yet.
    pub(crate) fn mend(&self) {
        lock(&self.inner).fault = None;
    }

    pub(crate) fn is_dark(&self) -> bool {
        lock(&self.inner).dark
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        lock(&self.inner).capacity = bytes;
    }

    /// Cuts the power if it is still on, forgets what was not synced, and switches it on again.
    pub(crate) fn cut(&self) {
        let mut inner = lock(&self.inner);
        let Inner { random, files, .. } = &mut *inner;
        for contents in files.values_mut() {
            contents.lose_unsynced(random);
        }
        let states = inner.name_states.len();
        if states > 0 {
            let survived = inner.random.random_range(0..=states);
            if survived > 0 {
                inner.synced_names = inner.name_states[survived - 1].clone();
            }
        }
        inner.names = inner.synced_names.clone();
        inner.name_states.clear();
        inner.fault = None;
        inner.dark = false;
    }

    /// Flips a bit of a file, also in what is synced.
    pub(crate) fn flip(&self, name: &str, offset: usize) {
        let mut inner = lock(&self.inner);
        let id = inner.names[name];
        let contents = inner.files.get_mut(&id).expect("a named file");
        contents.written[offset] ^= 0x10;
        contents.synced = contents.written.clone();
    }

    /// The contents of a file.
    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        let inner = lock(&self.inner);
        inner.files[&inner.names[name]].written.clone()
    }
}

impl Contents {
    fn lose_unsynced(&mut self, random: &mut StdRng) {
        if self.written != self.synced {
            let (low, high) = {
                let (a, b) = (self.synced.len(), self.written.len());
                (a.min(b), a.max(b))
            };
            let length = match random.random_range(0..4) {
                0 => self.synced.len(),
                1 => self.written.len(),
                _ => random.random_range(low..=high),
            };
            let mut survived = vec![0; length];
            for (index, sector) in survived.chunks_mut(SECTOR).enumerate() {
                let start = index * SECTOR;
                let part = |of: &[u8]| of.get(start..).unwrap_or_default().to_vec();
                let (old, new) = (part(&self.synced), part(&self.written));
                let choice = random.random_range(0..10);
                for (at, byte) in sector.iter_mut().enumerate() {
                    let (old, new) = (old.get(at).copied(), new.get(at).copied());
                    *byte = match choice {
                        // What was synced and not overwritten stays whatever happens.
                        _ if old.is_some() && (old == new || new.is_none()) => old.unwrap_or(0),
                        0..6 => new.or(old).unwrap_or(0),
                        6 | 7 => old.unwrap_or(0),
                        _ => random.random(),
                    };
                }
            }
            self.written = survived;
        }
        self.synced = self.written.clone();
    }
}

impl Inner {
    fn changing(&mut self) -> Verdict {
        self.operations += 1;
        if self.dark {
            return Verdict::Partly(io::Error::other("the power is off"));
        }
        let Some((at, fault)) = self.fault else {
            return Verdict::Proceed;
        };
        let reached = self.operations >= at;
        match fault {
            Fault::PowerCut if reached => {
                self.dark = true;
                Verdict::Partly(io::Error::other("the power went"))
            }
            Fault::Error if self.operations == at => Verdict::Partly(full()),
            Fault::Errors(more) if reached && self.operations <= at + more => {
                Verdict::Partly(io::Error::other("the disk fails"))
            }
            _ => Verdict::Proceed,
        }
    }

    /// Changes the names; with a fault, perhaps.
    fn change_names(&mut self, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let was_dark = self.dark;
        let verdict = self.changing();
        let happens = matches!(verdict, Verdict::Proceed) || (!was_dark && self.random.random());
        if happens {
            change(self);
            self.name_states.push(self.names.clone());
        }
        match verdict {
            Verdict::Proceed => Ok(()),
            Verdict::Partly(error) => Err(error),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].written.len() as u64).sum()
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk for SimulatedDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inner = lock(&self.inner);
        let id = *inner.names.get(name).ok_or_else(not_found)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut inner = lock(&self.inner);
        let mut id = 0;
        inner.change_names(|inner| match inner.names.get(name) {
            Some(&existing) => {
                id = existing;
                inner.files.entry(existing).or_default().written.clear();
            }
            None => {
                id = inner.next_file;
                inner.next_file += 1;
                inner.files.insert(id, Contents::default());
                inner.names.insert(name.into(), id);
            }
        })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let id = *inner.names.get(from).ok_or_else(not_found)?;
        inner.change_names(|inner| {
            inner.names.remove(from);
            inner.names.insert(to.into(), id);
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.names.get(name).ok_or_else(not_found)?;
        inner.change_names(|inner| {
            inner.names.remove(name);
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.inner).names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        if let Verdict::Partly(error) = inner.changing() {
            return Err(error);
        }
        inner.synced_names = inner.names.clone();
        inner.name_states.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = lock(&self.inner);
        Ok(inner.capacity.saturating_sub(inner.used()))
    }

    fn path(&self, name: &str) -> String {
        format!("/simulated/{name}")
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
}

impl SimulatedFile {
    fn change(&mut self, change: impl FnOnce(&mut Contents, usize), whole: usize) -> io::Result<()> {
        let mut inner = lock(&self.disk.inner);
        let was_dark = inner.dark;
        let room = inner.capacity.saturating_sub(inner.used()) as usize;
        let mut verdict = inner.changing();
        let mut part = whole;
        if matches!(verdict, Verdict::Proceed) && whole > room {
            verdict = Verdict::Partly(full());
            part = room;
        } else if matches!(verdict, Verdict::Partly(_)) {
            part = if was_dark { 0 } else { inner.random.random_range(0..=whole) };
        }
        if !was_dark {
            change(inner.files.entry(self.id).or_default(), part);
        }
        match verdict {
            Verdict::Proceed => Ok(()),
            Verdict::Partly(error) => Err(error),
        }
    }
}

impl File for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.change(|file, part| file.written.extend_from_slice(&bytes[..part]), bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = lock(&self.disk.inner);
        let verdict = inner.changing();
        let contents = inner.files.entry(self.id).or_default();
        match verdict {
            Verdict::Proceed => {
                contents.synced = contents.written.clone();
                Ok(())
            }
            // What reached the disk before the failure is settled by the cut.
            Verdict::Partly(error) => Err(error),
        }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut inner = lock(&self.disk.inner);
        if let Verdict::Partly(error) = inner.changing() {
            return Err(error);
        }
        inner.files.entry(self.id).or_default().written.truncate(length as usize);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let inner = lock(&self.disk.inner);
        inner.files.get(&self.id).map(|file| file.written.len() as u64).ok_or_else(not_found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = lock(&self.disk.inner);
        let file = inner.files.get(&self.id).ok_or_else(not_found)?;
        let rest = file.written.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// See the module. Clones are the same engine.
#[derive(Clone)]
pub(crate) struct SimulatedEngine {
    disk: SimulatedDisk,
    state: Arc<Mutex<EngineState>>,
}

#[derive(Default)]
struct EngineState {
    map: BTreeMap<String, KeyValue>,
    revision: Revision,
    durable: BTreeMap<String, KeyValue>,
    durable_revision: Revision,
    since: Vec<Event>,
}

impl SimulatedEngine {
    pub(crate) fn new(disk: SimulatedDisk) -> Self {
        Self { disk, state: Arc::default() }
    }

    /// Keeps the last checkpoint and any part of what came after it.
    pub(crate) fn cut(&self, random: &mut StdRng) {
        let mut state = lock(&self.state);
        let mut map = std::mem::take(&mut state.durable);
        let mut revision = state.durable_revision;
        let keep = random.random_range(0..=100);
        for event in std::mem::take(&mut state.since) {
            if random.random_range(0..100) < keep {
                revision = revision.max(event.revision);
                change(&mut map, &event);
            }
        }
        *state =
            EngineState { map: map.clone(), revision, durable: map, durable_revision: revision, since: Vec::new() };
    }

    pub(crate) fn map(&self) -> BTreeMap<String, KeyValue> {
        lock(&self.state).map.clone()
    }
}

fn change(map: &mut BTreeMap<String, KeyValue>, event: &Event) {
    let key = event.key.to_string();
    match &event.value {
        Some(value) => {
            let (value, revision) = (value.clone(), event.revision);
            map.insert(key, KeyValue { key: event.key.clone(), value, revision });
        }
        None => {
            map.remove(&key);
        }
    }
}

impl Engine for SimulatedEngine {
    fn revision(&self) -> Result<Revision, Error> {
        Ok(lock(&self.state).revision)
    }

    fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        Ok(lock(&self.state).map.get(key).cloned())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let state = lock(&self.state);
        let entries = state
            .map
            .values()
            .filter(|entry| entry.key.starts_with(prefix))
            .filter(|entry| after.is_none_or(|after| *entry.key > *after));
        Ok(entries.take(if limit == 0 { usize::MAX } else { limit }).cloned().collect())
    }

    fn apply(&self, events: &[Event]) -> Result<(), Error> {
        let mut state = lock(&self.state);
        for event in events {
            change(&mut state.map, event);
            state.revision = event.revision;
            state.since.push(event.clone());
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), Error> {
        // Counts as an operation, so that the power can go during it.
        if let Verdict::Partly(error) = lock(&self.disk.inner).changing() {
            return Err(crate::io_error("sync", "engine".into(), error));
        }
        let mut state = lock(&self.state);
        state.durable = state.map.clone();
        state.durable_revision = state.revision;
        state.since.clear();
        Ok(())
    }
}
