//! The watch cache: every object once in memory, served at exact revisions, and watched.
//!
//! One [`Cache`] per stored resource holds a persistent (immutable) ordered map and the
//! recent events ([`recent`]), which [`memory`] bounds. One task (see [`Caches::run`]) follows
//! the store's watch and feeds all caches, so they all stand at one revision. After a restart
//! [`history`] makes the recent events again from what the store remembers.
//!
//! Invariants: events enter in revision order; a watcher sees every event after its start
//! exactly once or is closed; a slow watcher is closed, never waited for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use api::{Object, Status};
use imbl::OrdMap;
use store::Revision;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::encryption::split;
use crate::storage::{self, Storage};

mod ages;
mod event;
mod history;
mod memory;
mod recent;

use event::event_of;
pub use event::{CacheEvent, Change, Delivery, frame};
use memory::Memory;
use recent::{Recent, undo};

/// Events that may wait for one watcher.
const WATCHER_QUEUE: usize = 1024;
/// How long a list waits for a revision that the server has not reached.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// The objects of a resource by key, at one revision.
pub type Objects = OrdMap<Arc<str>, Arc<Object>>;

/// Which objects a watcher wants.
pub type Selects = Box<dyn Fn(&Object) -> bool + Send + Sync>;

struct Watcher {
    prefix: String,
    selects: Selects,
    sender: mpsc::Sender<(Change, Arc<Delivery>)>,
}

struct State {
    objects: Objects,
    /// The revision of the last event that was taken in.
    revision: Revision,
    recent: Recent,
    watchers: Vec<Watcher>,
    /// While the objects are being read: the events since that began.
    loading: Option<Vec<store::Event>>,
}

/// The cache of one stored resource.
pub struct Cache {
    prefix: String,
    state: Mutex<State>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({})", self.prefix)
    }
}

/// What a new watcher gets: past events first, then live ones.
pub struct Subscription {
    /// Events between the start revision and now, as this watcher sees them.
    pub past: Vec<(Change, Arc<CacheEvent>)>,
    /// The objects at the time of subscription, for watches that start with a state.
    pub objects: Objects,
    /// The revision at the time of subscription.
    pub revision: Revision,
    /// Everything after. Closed when the watcher falls behind.
    pub live: mpsc::Receiver<(Change, Arc<Delivery>)>,
}

impl Cache {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The plain collections inside cannot be left half-changed by a panic that matters.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// All objects now, with no promise of freshness.
    pub fn objects(&self) -> Objects {
        self.lock().objects.clone()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.lock().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects at exactly `revision`.
    ///
    /// # Errors
    /// 410 when that is older than the history.
    pub fn objects_at(&self, revision: Revision) -> Result<Objects, Status> {
        let (objects, since) = {
            let s = self.lock();
            let since = if revision >= s.revision { Vec::new() } else { s.recent.undone(revision)? };
            (s.objects.clone(), since)
        };
        Ok(undo(objects, &since))
    }

    /// Starts a watch of keys with `prefix`. `after`: 0 starts with the current state.
    ///
    /// # Errors
    /// 410 when `after` is older than the history.
    pub fn subscribe(
        &self,
        prefix: &str,
        after: Revision,
        now: Revision,
        selects: Selects,
    ) -> Result<Subscription, Status> {
        let mut s = self.lock();
        let mut past = Vec::new();
        if after != 0 {
            for event in s.recent.since(after)? {
                if event.object.key().starts_with(prefix)
                    && let Some(change) = event.seen(&*selects)
                {
                    past.push((change, event.clone()));
                }
            }
        }
        let (sender, live) = mpsc::channel(WATCHER_QUEUE);
        s.watchers.retain(|w| !w.sender.is_closed());
        s.watchers.push(Watcher { prefix: prefix.to_owned(), selects, sender });
        Ok(Subscription { past, objects: s.objects.clone(), revision: s.revision.max(now), live })
    }

    /// Number of open watches.
    pub fn watchers(&self) -> usize {
        self.lock().watchers.iter().filter(|w| !w.sender.is_closed()).count()
    }

    /// An empty cache that keeps events until its objects have been read.
    fn loading(prefix: &str) -> Cache {
        let recent = Recent::since_revision(Revision::MAX);
        let loading = Some(Vec::new());
        let state = State { objects: Objects::new(), revision: 0, recent, watchers: Vec::new(), loading };
        Cache { prefix: prefix.to_owned(), state: Mutex::new(state) }
    }

    /// Takes in what was read, and what has happened since.
    fn loaded(self: &Arc<Self>, storage: &Storage, range: &store::Range, memory: &Memory) -> Result<(), Status> {
        let mut objects = Objects::new();
        for item in &range.items {
            let object = storage.decode(&item.key, &item.value, item.revision)?;
            objects.insert(Arc::from(&item.key[self.prefix.len()..]), object);
        }
        let missed = {
            let mut s = self.lock();
            s.revision = range.revision;
            s.recent = Recent::since_revision(range.revision);
            s.objects = objects;
            s.loading.take().unwrap_or_default()
        };
        missed.iter().filter(|e| e.revision > range.revision).try_for_each(|e| self.apply(storage, e, memory))
    }

    /// Forgets the events up to a revision.
    fn forget(&self, through: Revision) {
        self.lock().recent.forget(through);
    }

    fn apply(self: &Arc<Self>, storage: &Storage, event: &store::Event, memory: &Memory) -> Result<(), Status> {
        let key: Arc<str> = Arc::from(&event.key[self.prefix.len()..]);
        let mut s = self.lock();
        if let Some(kept) = &mut s.loading {
            kept.push(event.clone());
            return Ok(());
        }
        if event.revision <= s.revision {
            // It was in what was read.
            return Ok(());
        }
        let old = s.objects.get(&key).cloned();
        s.revision = event.revision;
        let Some(event) = event_of(storage, event, old, None)? else {
            // The deletion of what was never here: nobody has seen it.
            return Ok(());
        };
        match event.change {
            Change::Deleted => s.objects.remove(&key),
            _ => s.objects.insert(key.clone(), event.object.clone()),
        };
        let delivery = Arc::new(Delivery::of(event.clone()));
        s.watchers.retain(|w| {
            if !key.starts_with(&w.prefix) {
                return !w.sender.is_closed();
            }
            match event.seen(&*w.selects) {
                // A watcher that cannot keep up is closed by dropping its sender.
                Some(change) => w.sender.try_send((change, delivery.clone())).is_ok(),
                None => !w.sender.is_closed(),
            }
        });
        let (revision, bytes) = (event.revision, event.kept_bytes());
        s.recent.push(event);
        drop(s);
        memory.add(Instant::now(), revision, self, bytes);
        Ok(())
    }
}

fn too_old(revision: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {revision} ({oldest})"))
}

/// All caches, and the revision up to which they have followed the store.
pub struct Caches {
    storage: Arc<Storage>,
    by_prefix: RwLock<HashMap<String, Arc<Cache>>>,
    applied: watch::Sender<Revision>,
    ages: Mutex<ages::Ages>,
    memory: Memory,
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caches")
    }
}

impl Caches {
    /// Loads everything under the given prefixes, and the recent events, so that watches from
    /// before a restart go on.
    ///
    /// # Errors
    /// A store error, or a value that does not decode.
    pub async fn load(storage: Arc<Storage>, prefixes: &[String]) -> Result<Arc<Caches>, Status> {
        let range = storage.store().range("/registry/", None, 0).await.map_err(storage::status_of)?;
        let (past, complete) = history::read(storage.store(), range.revision).await?;
        let known = prefixes.iter().chain(past.keys());
        let mut objects: BTreeMap<&str, Objects> = known.map(|p| (p.as_str(), Objects::new())).collect();
        for item in &range.items {
            let Some(prefix) = prefix_of(&item.key) else { continue };
            // Custom resources, too, are in no prefix that was given.
            let object = storage.decode(&item.key, &item.value, item.revision)?;
            objects.entry(prefix).or_default().insert(Arc::from(&item.key[prefix.len()..]), object);
        }
        let revision = range.revision;
        let mut by_prefix = HashMap::new();
        for (prefix, objects) in objects {
            let recent = match past.get(prefix) {
                Some(past) => history::rebuild(&storage, prefix, past, &objects)?,
                None => Recent::since_revision(complete),
            };
            let state = Mutex::new(State { objects, revision, recent, watchers: Vec::new(), loading: None });
            by_prefix.insert(prefix.to_owned(), Arc::new(Cache { prefix: prefix.to_owned(), state }));
        }
        let memory = Memory::default();
        let mut remembered: Vec<(Revision, &Arc<Cache>, usize)> = Vec::new();
        for cache in by_prefix.values() {
            remembered.extend(cache.lock().recent.events().map(|e| (e.revision, cache, e.kept_bytes())));
        }
        remembered.sort_unstable_by_key(|(revision, ..)| *revision);
        let now = Instant::now();
        remembered.into_iter().for_each(|(revision, cache, bytes)| memory.add(now, revision, cache, bytes));
        Ok(Arc::new(Caches {
            storage,
            by_prefix: RwLock::new(by_prefix),
            applied: watch::Sender::new(revision),
            ages: Mutex::default(),
            memory,
        }))
    }

    /// Begins to hold a key space that was not known at the start; one that is held stays.
    ///
    /// # Errors
    /// A store error, or a value that does not decode.
    pub async fn add(&self, prefix: &str) -> Result<(), Status> {
        let cache = {
            let mut all = self.by_prefix.write().unwrap_or_else(|e| e.into_inner());
            if all.contains_key(prefix) {
                return Ok(());
            }
            let cache = Arc::new(Cache::loading(prefix));
            all.insert(prefix.to_owned(), cache.clone());
            cache
        };
        // Events from here on are kept, so that none is missed between reading and following.
        let loaded = match self.storage.store().range(prefix, None, 0).await {
            Ok(range) => cache.loaded(&self.storage, &range, &self.memory),
            Err(e) => Err(storage::status_of(e)),
        };
        if loaded.is_err() {
            self.remove(prefix);
        }
        loaded
    }

    /// Forgets a key space; its watches end.
    pub fn remove(&self, prefix: &str) {
        self.by_prefix.write().unwrap_or_else(|e| e.into_inner()).remove(prefix);
    }

    /// The cache of a key space.
    pub fn get(&self, prefix: &str) -> Option<Arc<Cache>> {
        self.by_prefix.read().unwrap_or_else(|e| e.into_inner()).get(prefix).cloned()
    }

    /// The revision up to which every cache has followed the store.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Whether the state at a revision is still shown; see [`ages`].
    ///
    /// # Errors
    /// 410 for one that was superseded too long ago.
    pub fn kept(&self, revision: Revision) -> Result<(), Status> {
        let oldest = self.ages.lock().unwrap_or_else(|e| e.into_inner()).oldest(Instant::now());
        if revision < oldest { Err(too_old(revision, oldest)) } else { Ok(()) }
    }

    /// Waits until the caches show everything that the store has acknowledged, and returns
    /// the revision they then stand at.
    ///
    /// # Errors
    /// 504 when that takes longer than [`FRESH_TIMEOUT`].
    pub async fn fresh(&self) -> Result<Revision, Status> {
        self.reached(self.storage.store().revision()).await
    }

    /// Waits, however long that takes, until the caches show everything that the store has
    /// acknowledged by now, and returns the revision they then stand at.
    pub async fn caught_up(&self) -> Revision {
        let revision = self.storage.store().revision();
        // The sender is in here: it cannot be gone.
        self.applied.subscribe().wait_for(|r| *r >= revision).await.map_or(revision, |r| *r)
    }

    /// Waits until the caches have reached `revision`.
    ///
    /// # Errors
    /// 504 with upstream's cause when they do not in time.
    pub async fn reached(&self, revision: Revision) -> Result<Revision, Status> {
        let now = self.applied();
        if now >= revision {
            return Ok(now);
        }
        let mut rx = self.applied.subscribe();
        let waited = tokio::time::timeout(FRESH_TIMEOUT, rx.wait_for(|r| *r >= revision)).await;
        if let Ok(Ok(r)) = waited {
            return Ok(*r);
        }
        let mut s = Status::timeout(format!("Too large resource version: {revision}, current: {}", self.applied()), 1);
        if let Some(d) = &mut s.details {
            d.causes.push(api::status::Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            });
        }
        Err(s)
    }

    /// Follows the store until cancelled. Essential: the server ends when this ends.
    ///
    /// # Errors
    /// When the store's watch fails or an event does not decode.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), Status> {
        let mut watch = self.storage.store().watch(self.applied()).await.map_err(storage::status_of)?;
        loop {
            let batch = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                batch = watch.events.recv() => batch,
            };
            let events = match batch {
                Some(Ok(events)) => events,
                Some(Err(store::Error::WatchLagged { .. })) => {
                    // Too slow for the live channel: the store's history has what was missed.
                    watch = self.storage.store().watch(self.applied()).await.map_err(storage::status_of)?;
                    continue;
                }
                Some(Err(e)) => return Err(storage::status_of(e)),
                None => return Err(Status::unavailable("the store has ended its watch")),
            };
            for event in events.iter() {
                if let Some(cache) = prefix_of(&event.key).and_then(|p| self.get(p)) {
                    cache.apply(&self.storage, event, &self.memory)?;
                }
                self.applied.send_replace(event.revision);
            }
            self.ages.lock().unwrap_or_else(|e| e.into_inner()).note(Instant::now(), self.applied());
        }
    }
}

/// `/registry/<group>/<plural>/` of a key.
fn prefix_of(key: &str) -> Option<&str> {
    split(key).map(|(prefix, _)| prefix)
}
