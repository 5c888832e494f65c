//! Random histories against a reference: a `BTreeMap` and a list of all events.
//!
//! Writes of a step are sent together, so that a backend may commit them as one
//! batch; the revisions it answers tell the order in which the reference runs them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::{DurableStore, Error, Event, Expect, KeyValue, MemoryStore, Options, Revision, Store, Watch};

/// What a random expectation is built from: the key's past decides what it means.
#[derive(Clone, Copy, Debug)]
enum Hope {
    Any,
    Absent,
    Current,
    Stale,
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        size: u16,
        hope: Hope,
    },
    Delete {
        key: u8,
        hope: Hope,
    },
    /// Blind writes to different keys, at once.
    Burst(Vec<u8>),
    Range {
        prefix: u8,
        limit: u8,
    },
    Watch {
        back: u8,
    },
    Compact {
        back: u8,
    },
    Reopen {
        tidy: bool,
    },
}

fn hope() -> impl Strategy<Value = Hope> {
    prop_oneof![Just(Hope::Any), Just(Hope::Absent), Just(Hope::Current), Just(Hope::Stale)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u8, 0..600_u16, hope()).prop_map(|(key, size, hope)| Step::Put { key, size, hope }),
        4 => (0..12_u8, hope()).prop_map(|(key, hope)| Step::Delete { key, hope }),
        3 => prop::collection::vec(0..12_u8, 1..9).prop_map(Step::Burst),
        3 => (0..4_u8, 0..6_u8).prop_map(|(prefix, limit)| Step::Range { prefix, limit }),
        2 => (0..60_u8).prop_map(|back| Step::Watch { back }),
        1 => (0..40_u8).prop_map(|back| Step::Compact { back }),
        1 => any::<bool>().prop_map(|tidy| Step::Reopen { tidy }),
    ]
}

fn key_name(key: u8) -> String {
    format!("{}/{key}", key % 3)
}

#[derive(Default)]
struct Model {
    map: BTreeMap<String, KeyValue>,
    events: Vec<Event>,
    compacted: Revision,
}

impl Model {
    fn revision(&self) -> Revision {
        self.events.len() as Revision
    }

    fn expect(&self, key: &str, hope: Hope) -> Expect {
        match hope {
            Hope::Any => Expect::Any,
            Hope::Absent => Expect::Absent,
            Hope::Current => Expect::Revision(self.map.get(key).map_or(1, |entry| entry.revision)),
            Hope::Stale => Expect::Revision(self.revision() + 3),
        }
    }

    /// What the write must answer; `Err` is a conflict with what is held.
    fn write(&mut self, key: &str, value: Option<Bytes>, expect: Expect) -> Result<Revision, Option<KeyValue>> {
        let current = self.map.get(key).cloned();
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none() && value.is_some(),
            Expect::Revision(revision) => current.as_ref().is_some_and(|entry| entry.revision == revision),
        };
        if !holds {
            return Err(current);
        }
        if value.is_none() && current.is_none() {
            return Ok(self.revision());
        }
        let revision = self.revision() + 1;
        let name: Arc<str> = key.into();
        match value.clone() {
            Some(value) => {
                let entry = KeyValue { key: name.clone(), value, revision };
                self.map.insert(key.into(), entry);
            }
            None => {
                self.map.remove(key);
            }
        }
        self.events.push(Event { revision, key: name, value });
        Ok(revision)
    }
}

struct World {
    model: Model,
    store: Arc<dyn Store>,
    directory: Option<tempfile::TempDir>,
    watches: Vec<(Revision, Watch)>,
    counter: u32,
}

fn open(directory: &Path) -> Arc<dyn Store> {
    let options = Options {
        segment_bytes: 1 << 10,
        checkpoint_bytes: 3 << 10,
        // Nothing expires by itself: what can be watched is then known exactly.
        ..Options::new(directory)
    };
    Arc::new(DurableStore::open(options).unwrap())
}

impl World {
    fn value(&mut self, size: u16) -> Bytes {
        self.counter += 1;
        Bytes::from(format!("{}{}", self.counter, "v".repeat(size.into())))
    }

    async fn write(&mut self, key: u8, value: Option<Bytes>, hope: Hope) {
        let key = key_name(key);
        let expect = self.model.expect(&key, hope);
        let answer = match value.clone() {
            Some(value) => self.store.put(&key, value, expect).await,
            None => self.store.delete(&key, expect).await,
        };
        let answer = match answer {
            Ok(revision) => Ok(revision),
            Err(Error::Conflict { current, .. }) => Err(current),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(answer, self.model.write(&key, value, expect));
        assert_eq!(self.store.get(&key).await.unwrap(), self.model.map.get(&key).cloned());
    }

    async fn burst(&mut self, keys: Vec<u8>) {
        let mut tasks = Vec::new();
        for key in keys {
            let (store, value) = (self.store.clone(), self.value(20));
            tasks.push(tokio::spawn(async move {
                let key = key_name(key);
                (store.put(&key, value.clone(), Expect::Any).await.unwrap(), key, value)
            }));
        }
        let mut done = Vec::new();
        for task in tasks {
            done.push(task.await.unwrap());
        }
        done.sort_by_key(|(revision, ..)| *revision);
        for (revision, key, value) in done {
            assert_eq!(self.model.write(&key, Some(value), Expect::Any), Ok(revision), "Gapless");
        }
    }

    async fn range(&self, prefix: u8, limit: u8) {
        let prefix = if prefix == 3 { String::new() } else { format!("{prefix}/") };
        let mut found = Vec::new();
        loop {
            let after = found.last().map(|entry: &KeyValue| entry.key.to_string());
            let page = self.store.range(&prefix, after.as_deref(), limit.into()).await.unwrap();
            assert_eq!(page.revision, self.model.revision());
            found.extend(page.items);
            if !page.more {
                break;
            }
        }
        let all = self.model.map.values().filter(|entry| entry.key.starts_with(&prefix));
        assert_eq!(found, all.cloned().collect::<Vec<_>>());
    }

    async fn watch(&mut self, back: u8) {
        let after = self.model.revision().saturating_sub(back.into());
        match self.store.watch(after).await {
            Ok(watch) => {
                assert!(after >= self.model.compacted, "compacted history was served");
                self.watches.push((after, watch));
            }
            Err(Error::Compacted { requested, oldest }) => {
                assert_eq!((requested, oldest), (after, self.model.compacted));
                assert!(after < oldest);
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Reads every open watch to the present.
    async fn drain(&mut self) {
        for (after, watch) in &mut self.watches {
            while *after < self.model.revision() {
                match watch.events.recv().await.unwrap() {
                    Ok(batch) => {
                        for event in batch.iter() {
                            assert_eq!(*event, self.model.events[*after as usize], "OrderedWatch");
                            *after += 1;
                        }
                    }
                    // A compaction may overtake a watch that is still in the past.
                    Err(Error::Compacted { requested, .. }) => {
                        assert!(requested == *after && *after < self.model.compacted);
                        *after = Revision::MAX;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        self.watches.retain(|(after, _)| *after != Revision::MAX);
    }

    async fn reopen(&mut self, tidy: bool) {
        if self.directory.is_none() {
            return;
        }
        self.drain().await;
        self.watches.clear();
        if tidy {
            self.store.close().await.unwrap();
        }
        // Stands in while the directory is free.
        drop(std::mem::replace(&mut self.store, Arc::new(MemoryStore::new())));
        self.store = open(self.directory.as_ref().unwrap().path());
        assert_eq!(self.store.revision(), self.model.revision(), "Durable");
    }

    async fn run(mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Put { key, size, hope } => {
                    let value = self.value(size);
                    self.write(key, Some(value), hope).await;
                }
                Step::Delete { key, hope } => self.write(key, None, hope).await,
                Step::Burst(keys) => self.burst(keys).await,
                Step::Range { prefix, limit } => self.range(prefix, limit).await,
                Step::Watch { back } => self.watch(back).await,
                Step::Compact { back } => {
                    let revision = self.model.revision().saturating_sub(back.into());
                    self.store.compact(revision).await.unwrap();
                    self.model.compacted = self.model.compacted.max(revision);
                }
                Step::Reopen { tidy } => self.reopen(tidy).await,
            }
        }
        self.range(3, 0).await;
        self.drain().await;
        self.reopen(true).await;
        self.range(3, 0).await;
    }
}

fn check(steps: Vec<Step>, durable: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let directory = durable.then(|| tempfile::tempdir().unwrap());
    let store: Arc<dyn Store> = match &directory {
        Some(directory) => open(directory.path()),
        None => Arc::new(MemoryStore::new()),
    };
    let world = World { model: Model::default(), store, directory, watches: Vec::new(), counter: 0 };
    runtime.block_on(world.run(steps));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_store_behaves_like_the_model(steps in prop::collection::vec(step(), 1..120)) {
        check(steps, false);
    }

    #[test]
    fn durable_store_behaves_like_the_model(steps in prop::collection::vec(step(), 1..120)) {
        check(steps, true);
    }
}
