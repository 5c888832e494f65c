//! The crash harness: the power goes at any operation, the disk fails at any
//! operation, a bit flips anywhere. Everything is a function of the seed; a
//! failure names it, and `STORE_CRASH_SEED=<n>` runs it alone.
//!
//! Validators, by guarantee: **Durable** (nothing acknowledged is lost),
//! **Unharmed** (what was refused is not there, what was neither is whole or
//! absent), **Gapless**, **HistoryAcrossRestart**.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::commit::{Core, Limits, Write};
use crate::disk::Disk;
use crate::engine::Engine;
use crate::log::Cursor;
use crate::manifest::Manifest;
use crate::simulated::{Fault, SimulatedDisk, SimulatedEngine};
use crate::{Error, Event, Expect, KeyValue, Revision, read};

const POWER_CUTS: u64 = 1000;
const DISK_ERRORS: u64 = 500;

const LIMITS: Limits = Limits {
    history_window: Duration::from_millis(400),
    history_bytes: 12 << 10,
    segment_bytes: 3 << 10,
    checkpoint_bytes: 6 << 10,
    checkpoint_interval: Duration::from_secs(3600),
    reserve_bytes: 0,
    apply_bytes: 1 << 10,
};

/// The store under test beside what is known about it.
struct World {
    seed: u64,
    random: StdRng,
    disk: SimulatedDisk,
    engine: SimulatedEngine,
    now_ms: u64,
    /// Every event that is known to have happened, by revision.
    history: Vec<Event>,
    /// The events of the batch that was neither acknowledged nor refused.
    in_doubt: Vec<Event>,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let engine = SimulatedEngine::new(disk.clone());
        let random = StdRng::seed_from_u64(seed ^ 0x5a5a);
        Self { seed, random, disk, engine, now_ms: 1, history: vec![], in_doubt: vec![] }
    }

    fn open(&mut self) -> Result<Core, Error> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let manifest = Manifest::read(&*disk)?;
        let engine = Arc::new(self.engine.clone());
        assert!(engine.revision().unwrap() >= manifest.checkpoint, "seed {}", self.seed);
        Core::open(disk, engine, manifest, LIMITS, self.now_ms)
    }

    fn last(&self) -> Revision {
        self.history.len() as Revision
    }

    fn model(&self) -> BTreeMap<String, KeyValue> {
        let mut map = BTreeMap::new();
        for event in &self.history {
            match &event.value {
                Some(value) => {
                    let (key, value) = (event.key.clone(), value.clone());
                    let entry = KeyValue { key, value, revision: event.revision };
                    map.insert(event.key.to_string(), entry);
                }
                None => {
                    map.remove(&*event.key);
                }
            }
        }
        map
    }

    fn batch(&mut self) -> Vec<Write> {
        let model = self.model();
        let count = self.random.random_range(1..=6);
        (0..count)
            .map(|_| {
                let key = format!("key/{}", self.random.random_range(0..12));
                let size = match self.random.random_range(0..10) {
                    0 => 2500,
                    1 => 0,
                    _ => self.random.random_range(1..300),
                };
                let mut bytes = vec![0; size];
                self.random.fill(&mut bytes[..]);
                let deletes = self.random.random_range(0..4) == 0;
                let expect = match self.random.random_range(0..4) {
                    0 => Expect::Absent,
                    1 => Expect::Revision(model.get(&key).map_or(7, |entry| entry.revision)),
                    _ => Expect::Any,
                };
                Write { key: key.into(), value: (!deletes).then(|| bytes.into()), expect }
            })
            .collect()
    }

    /// One batch, and a checkpoint or compaction when it is time. Whether all went well.
    fn step(&mut self, core: &mut Core) -> bool {
        self.now_ms += self.random.random_range(0..100);
        let writes = self.batch();
        let answers = core.commit(&writes, self.now_ms);
        let mut went_well = true;
        let mut events: Vec<Event> = Vec::new();
        for (write, answer) in writes.iter().zip(answers) {
            match answer {
                Ok(revision) if revision > self.last() + events.len() as u64 => {
                    assert_eq!(revision, self.last() + events.len() as u64 + 1, "Gapless");
                    let (key, value) = (write.key.clone(), write.value.clone());
                    events.push(Event { revision, key, value });
                }
                Ok(_) | Err(Error::Conflict { .. }) => {}
                Err(_) => went_well = false,
            }
        }
        assert!(went_well || events.is_empty(), "seed {}: half a batch was acknowledged", self.seed);
        if !went_well {
            self.in_doubt = evaluate(&writes, &self.model(), self.last());
        }
        self.history.extend(events);
        core.apply();
        if went_well && self.random.random_range(0..8) == 0 {
            let revision = self.random.random_range(0..=self.last());
            went_well = core.compact(revision).is_ok();
        }
        if went_well && core.deadline_ms().is_some_and(|deadline| deadline <= self.now_ms) {
            let reached = core.begin_checkpoint().unwrap();
            let engine = core.engine().checkpoint();
            // Writes go on while the engine is at it.
            if engine.is_ok() && self.random.random() {
                let writes = [Write { key: "mid".into(), value: Some(Bytes::new()), expect: Expect::Any }];
                let next = self.last() + 1;
                let event = Event { revision: next, key: "mid".into(), value: Some(Bytes::new()) };
                match core.commit(&writes, self.now_ms).remove(0) {
                    Ok(revision) => {
                        assert_eq!(revision, next, "Gapless");
                        self.history.push(event);
                    }
                    Err(_) => {
                        went_well = false;
                        self.in_doubt = vec![event];
                    }
                }
                core.apply();
            }
            let finished = core.finish_checkpoint(engine.map(|()| reached), self.now_ms);
            went_well &= finished.is_ok();
        }
        went_well
    }

    /// Checks a freshly opened store. What was in doubt may have happened up to any
    /// revision, in order and whole.
    fn verify(&mut self, core: &Core) {
        let seed = self.seed;
        let shared = core.shared();
        let last = shared.revision.load(Ordering::Acquire);
        assert!(last >= self.last(), "seed {seed}: Durable: {last} < {}", self.last());
        let extra = (last - self.last()) as usize;
        assert!(extra <= self.in_doubt.len(), "seed {seed}: Unharmed: revisions from nowhere");
        self.history.extend(self.in_doubt.drain(..).take(extra));
        let range = read::range(&shared, "", None, 0).unwrap();
        let found: BTreeMap<_, _> = range.items.into_iter().map(|entry| (entry.key.to_string(), entry)).collect();
        assert_eq!(found, self.model(), "seed {seed}: Durable");
        self.verify_history(core);
    }

    fn verify_history(&self, core: &Core) {
        let seed = self.seed;
        let oldest = core.shared().hub.oldest();
        let mut cursor = Cursor::after(oldest);
        let mut next = oldest;
        while next < self.last() {
            let batches = core.log_index().read(&mut cursor, 512).unwrap();
            let batches = batches.unwrap_or_else(|| panic!("seed {seed}: history ends at {next}"));
            for event in batches.iter().flat_map(|batch| batch.iter()) {
                assert_eq!(*event, self.history[next as usize], "seed {seed}: HistoryAcrossRestart");
                next += 1;
            }
        }
    }

    fn cut(&mut self) {
        self.disk.cut();
        self.engine.cut(&mut self.random);
    }

    /// Opens until it succeeds; every failed attempt may end in another power cut.
    fn recover(&mut self) -> Core {
        for attempt in 0.. {
            if attempt < 3 && self.random.random_range(0..3) == 0 {
                self.disk.fail_in(self.random.random_range(1..6), Fault::PowerCut);
            }
            match self.open() {
                Ok(core) if !self.disk.is_dark() => return core,
                Ok(_) => {}
                Err(error) => {
                    assert!(self.disk.is_dark(), "seed {}: {error}", self.seed);
                }
            }
            self.cut();
        }
        unreachable!("the attempts have no end")
    }
}

/// What a batch would do, decided independently of the store.
fn evaluate(writes: &[Write], model: &BTreeMap<String, KeyValue>, last: Revision) -> Vec<Event> {
    let mut held: BTreeMap<&str, Revision> = model.iter().map(|(key, entry)| (key.as_str(), entry.revision)).collect();
    let mut events = Vec::new();
    for write in writes {
        let current = held.get(&*write.key).copied();
        let holds = match write.expect {
            Expect::Any => write.value.is_some() || current.is_some(),
            Expect::Absent => current.is_none() && write.value.is_some(),
            Expect::Revision(revision) => current == Some(revision),
        };
        if !holds {
            continue;
        }
        let revision = last + events.len() as u64 + 1;
        match write.value {
            Some(_) => held.insert(&write.key, revision),
            None => held.remove(&*write.key),
        };
        events.push(Event { revision, key: write.key.clone(), value: write.value.clone() });
    }
    events
}

fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("STORE_CRASH_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("STORE_CRASH_POINTS").unwrap_or(count)).collect(),
    }
}

#[test]
fn power_cut_at_any_operation_loses_nothing_acknowledged() {
    for seed in seeds(POWER_CUTS) {
        let mut world = World::new(seed);
        for _ in 0..4 {
            let mut core = world.recover();
            world.verify(&core);
            let point = world.random.random_range(1..160);
            world.disk.fail_in(point, Fault::PowerCut);
            while !world.disk.is_dark() {
                world.step(&mut core);
            }
            drop(core);
            world.cut();
        }
        let core = world.recover();
        world.verify(&core);
    }
}

#[test]
fn refused_write_leaves_nothing_behind_and_the_store_goes_on() {
    for seed in seeds(DISK_ERRORS) {
        let mut world = World::new(seed);
        let mut core = world.open().unwrap();
        for _ in 0..4 {
            world.disk.fail_in(world.random.random_range(1..60), Fault::Error);
            for _ in 0..20 {
                world.step(&mut core);
                // A refused write is not in doubt: it has been taken back.
                world.in_doubt.clear();
                let range = read::range(&core.shared(), "", None, 0).unwrap();
                assert_eq!(range.revision, world.last(), "seed {seed}: Gapless");
                assert_eq!(range.items.len(), world.model().len(), "seed {seed}: reads go on");
            }
            world.verify_history(&core);
        }
        drop(core);
        world.disk.mend();
        if world.random.random() {
            world.cut();
        }
        let core = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.verify(&core);
    }
}

#[test]
fn write_that_cannot_be_taken_back_stops_writing_until_reopened() {
    let mut refused_for_good = 0;
    for seed in seeds(200) {
        let mut world = World::new(seed);
        let mut core = world.open().unwrap();
        world.disk.fail_in(world.random.random_range(1..40), Fault::Errors(3));
        while world.step(&mut core) {}
        let in_doubt = world.in_doubt.clone();
        for _ in 0..4 {
            world.step(&mut core);
        }
        if world.last() == core.shared().revision.load(Ordering::Acquire) && !in_doubt.is_empty() {
            refused_for_good += 1;
        }
        let stuck = !world.in_doubt.is_empty();
        if stuck {
            world.in_doubt = in_doubt;
        }
        drop(core);
        world.cut();
        let core = world.recover();
        world.verify(&core);
    }
    assert!(refused_for_good > 0 || std::env::var_os("STORE_CRASH_SEED").is_some());
}

#[test]
fn full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    let mut world = World::new(1);
    let mut core = world.open().unwrap();
    world.disk.set_capacity(2000);
    let put = |size| Write { key: "k".into(), value: Some(vec![1; size].into()), expect: Expect::Any };
    let mut accepted = 0;
    while core.commit(&[put(300)], 1).remove(0).is_ok() {
        core.apply();
        accepted += 1;
    }
    assert!((4..7).contains(&accepted), "{accepted}");
    let shared = core.shared();
    assert_eq!(read::get(&shared, "k").unwrap().unwrap().revision, accepted);
    let refused = core.commit(&[put(300)], 1).remove(0);
    assert!(
        matches!(&refused, Err(Error::Io { source, .. })
            if source.kind() == std::io::ErrorKind::StorageFull),
        "{refused:?}"
    );
    world.disk.set_capacity(1 << 20);
    assert_eq!(core.commit(&[put(300)], 1).remove(0).unwrap(), accepted + 1);
    core.apply();
    drop(core);
    world.cut();
    let core = world.open().unwrap();
    assert_eq!(core.shared().revision.load(Ordering::Acquire), accepted + 1);
}

/// Writes ten frames and returns the name of the only segment.
fn ten_frames(world: &mut World) -> String {
    let mut core = world.open().unwrap();
    for index in 0..10_u8 {
        let value = Some(vec![index; 60].into());
        let write = Write { key: "k".into(), value, expect: Expect::Any };
        core.commit(&[write], 1).remove(0).unwrap();
        core.apply();
    }
    let names = world.disk.list().unwrap();
    names.into_iter().find(|name| name.ends_with(".log")).unwrap()
}

#[test]
fn bit_flip_before_the_last_frame_is_corruption_and_names_the_place() {
    let length = {
        let mut world = World::new(0);
        let name = ten_frames(&mut world);
        world.disk.contents(&name).len()
    };
    let last_frame = length - length / 10;
    for offset in 0..last_frame - 20 {
        let mut world = World::new(0);
        let name = ten_frames(&mut world);
        world.disk.flip(&name, offset);
        // A state engine that is new: the log alone must notice.
        world.engine = SimulatedEngine::new(world.disk.clone());
        match world.open() {
            Err(Error::Corrupt { file, offset: at, advice, .. }) => {
                assert!(file.ends_with(&name) && at as usize <= offset && !advice.is_empty());
            }
            Err(other) => panic!("offset {offset}: {other}"),
            Ok(_) => panic!("offset {offset}: not noticed"),
        }
    }
}

#[test]
fn last_frame_that_is_not_sound_is_cut_off() {
    let mut world = World::new(0);
    let name = ten_frames(&mut world);
    let length = world.disk.contents(&name).len();
    world.disk.flip(&name, length - 5);
    world.engine = SimulatedEngine::new(world.disk.clone());
    let core = world.open().unwrap();
    assert_eq!(core.shared().revision.load(Ordering::Acquire), 9);
    assert!(world.disk.contents(&name).len() < length);
    assert_eq!(world.engine.map().len(), 1);
}

#[test]
fn log_that_ends_before_the_state_is_corruption() {
    let mut world = World::new(0);
    let name = ten_frames(&mut world);
    // Replayed, all of it is in the state.
    drop(world.open().unwrap());
    let length = world.disk.contents(&name).len();
    world.disk.flip(&name, length - 5);
    assert!(matches!(world.open(), Err(Error::Corrupt { .. })));
    assert_eq!(world.disk.contents(&name).len(), length, "the log is left as it is");
}
