//! List + watch with a cache, shared between all its users (upstream: `client-go/tools/cache`).
//!
//! An [`Informer`] lists once, then follows the watch; a 410 or a gap makes it list again and
//! tell its handlers the difference. Objects are the `Arc`s that the API hands out, so in the
//! server process the cache holds no second copy.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use api::Object;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Client, Event, Gvr, Kind, ListParams};

/// A change in an informer's cache: at least one of the two is there.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object before; `None` when it is new.
    pub old: Option<Arc<Object>>,
    /// The object now; `None` when it is gone.
    pub new: Option<Arc<Object>>,
}

impl Change {
    /// The object now, or its last state.
    pub fn object(&self) -> &Arc<Object> {
        match (&self.new, &self.old) {
            (Some(o), _) | (None, Some(o)) => o,
            (None, None) => unreachable!("a change always has an object"),
        }
    }
}

type Handler = Box<dyn Fn(&Change) + Send + Sync>;
type IndexFn = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

struct Index {
    of: IndexFn,
    keys: HashMap<String, BTreeSet<String>>,
}

/// An object that is found by its key, which it holds itself.
struct ByKey(Arc<Object>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

#[derive(Default)]
struct Cache {
    objects: HashSet<ByKey>,
    indexes: HashMap<&'static str, Index>,
}

impl Cache {
    fn set(&mut self, key: &str, new: Option<Arc<Object>>) -> Option<Arc<Object>> {
        let old = match &new {
            Some(o) => self.objects.replace(ByKey(o.clone())),
            None => self.objects.take(key),
        };
        let old = old.map(|found| found.0);
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                for value in (index.of)(old) {
                    if let Some(set) = index.keys.get_mut(&value) {
                        set.remove(key);
                        if set.is_empty() {
                            index.keys.remove(&value);
                        }
                    }
                }
            }
            if let Some(new) = &new {
                for value in (index.of)(new) {
                    index.keys.entry(value).or_default().insert(key.to_owned());
                }
            }
        }
        old
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Informer {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    gvr: Gvr,
    params: ListParams,
    cache: RwLock<Cache>,
    /// Handlers run in the informer's task, in order, and must not block.
    handlers: Mutex<Vec<Handler>>,
    synced: watch::Sender<bool>,
}

impl std::fmt::Debug for Informer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Informer({:?})", self.inner.gvr)
    }
}

impl Informer {
    /// An informer that does not run yet; [`Informers`] makes and runs them.
    fn new(client: Client, gvr: Gvr, params: ListParams) -> Informer {
        Informer {
            inner: Arc::new(Inner {
                client,
                gvr,
                params,
                cache: RwLock::default(),
                handlers: Mutex::default(),
                synced: watch::Sender::new(false),
            }),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Cache> {
        self.inner.cache.read().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds an index: `of` gives the values under which an object is found by [`Informer::by_index`].
    /// An index of the same name that exists already is kept.
    pub fn add_index(&self, name: &'static str, of: impl Fn(&Object) -> Vec<String> + Send + Sync + 'static) {
        let mut c = self.inner.cache.write().unwrap_or_else(|e| e.into_inner());
        if c.indexes.contains_key(name) {
            return;
        }
        let mut keys: HashMap<String, BTreeSet<String>> = HashMap::new();
        for ByKey(object) in &c.objects {
            for value in of(object) {
                keys.entry(value).or_default().insert(object.key().to_owned());
            }
        }
        c.indexes.insert(name, Index { of: Box::new(of), keys });
    }

    /// Calls `handler` with every change from now on, after calling it once for each object
    /// that is already there. It runs in the informer's task and must not block.
    pub fn on_change(&self, handler: impl Fn(&Change) + Send + Sync + 'static) {
        // The handlers' lock is held for the replay, so that no change can slip in between.
        let mut handlers = self.inner.handlers.lock().unwrap_or_else(|e| e.into_inner());
        for object in self.objects() {
            handler(&Change { old: None, new: Some(object) });
        }
        handlers.push(Box::new(handler));
    }

    /// The object of a key (`namespace/name` or `name`).
    pub fn object(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).map(|found| found.0.clone())
    }

    /// The typed object of a key; `None` also when it does not decode, which is logged.
    pub fn get<K: Kind>(&self, key: &str) -> Option<Arc<K>> {
        decoded(self.object(key)?)
    }

    /// All objects, in no particular order.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.read().objects.iter().map(|found| found.0.clone()).collect()
    }

    /// All typed objects, in no particular order.
    pub fn list<K: Kind>(&self) -> Vec<Arc<K>> {
        self.objects().into_iter().filter_map(decoded).collect()
    }

    /// The objects of an index value, in key order.
    pub fn by_index(&self, index: &'static str, value: &str) -> Vec<Arc<Object>> {
        let c = self.read();
        let Some(keys) = c.indexes.get(index).and_then(|i| i.keys.get(value)) else { return Vec::new() };
        keys.iter().filter_map(|k| c.objects.get(k.as_str())).map(|found| found.0.clone()).collect()
    }

    /// The typed objects of an index value, in key order.
    pub fn list_by_index<K: Kind>(&self, index: &'static str, value: &str) -> Vec<Arc<K>> {
        self.by_index(index, value).into_iter().filter_map(decoded).collect()
    }

    /// Whether another one is this one.
    pub fn is_same(&self, other: &Informer) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Waits until the first list has been taken in.
    pub async fn synced(&self) {
        let mut rx = self.inner.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = rx.wait_for(|s| *s).await;
    }

    /// Whether the first list has been taken in.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    fn apply(&self, key: &str, new: Option<Arc<Object>>) {
        let handlers = self.inner.handlers.lock().unwrap_or_else(|e| e.into_inner());
        let old = self.inner.cache.write().unwrap_or_else(|e| e.into_inner()).set(key, new.clone());
        if old.is_none() && new.is_none() {
            return;
        }
        let change = Change { old, new };
        for handler in handlers.iter() {
            handler(&change);
        }
    }

    async fn list_once(&self) -> Result<String, api::Status> {
        let list = self.inner.client.api().list(&self.inner.gvr, &self.inner.params).await?;
        let mut gone: BTreeSet<String> = self.read().objects.iter().map(|found| found.0.key().to_owned()).collect();
        for object in list.items {
            gone.remove(object.key());
            if self.object(object.key()).is_none_or(|old| old.revision() != object.revision()) {
                self.apply(object.key(), Some(object.clone()));
            }
        }
        for key in gone {
            self.apply(&key, None);
        }
        Ok(list.resource_version)
    }

    /// Follows a watch until it ends; returns where to resume, `None` to list again.
    async fn follow(&self, from: String) -> Option<String> {
        let mut params = self.inner.params.clone();
        params.resource_version = from.clone();
        let mut last = from;
        let mut events = match self.inner.client.api().watch(&self.inner.gvr, &params).await {
            Ok(w) => w,
            Err(s) if s.is_gone() => return None,
            Err(s) => {
                tracing::debug!(resource = %self.inner.gvr.plural, error = %s, "watch refused");
                tokio::time::sleep(Duration::from_millis(500)).await;
                return Some(last);
            }
        };
        while let Some(event) = events.recv().await {
            match event {
                Ok(Event::Added(o) | Event::Modified(o)) => {
                    last = o.meta().resource_version.to_owned();
                    self.apply(o.key(), Some(o.clone()));
                }
                Ok(Event::Deleted(o)) => {
                    last = o.meta().resource_version.to_owned();
                    self.apply(o.key(), None);
                }
                Ok(Event::Bookmark(rv)) => last = rv,
                Err(s) => {
                    tracing::debug!(resource = %self.inner.gvr.plural, error = %s, "watch ended");
                    return (!s.is_gone()).then_some(last);
                }
            }
        }
        Some(last)
    }

    async fn run(&self) {
        let mut backoff = Duration::from_millis(100);
        let mut from: Option<String> = None;
        loop {
            match from.take() {
                None => match self.list_once().await {
                    Ok(rv) => {
                        backoff = Duration::from_millis(100);
                        self.inner.synced.send_replace(true);
                        from = Some(rv);
                    }
                    Err(s) => {
                        let resource = &self.inner.gvr.plural;
                        if s.is_not_found() {
                            // Its definition has gone, and whoever asked for it is about to notice.
                            tracing::debug!(%resource, "no longer served");
                        } else {
                            tracing::warn!(%resource, error = %s, "cannot list; trying again");
                        }
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(Duration::from_secs(10));
                    }
                },
                Some(rv) => from = self.follow(rv).await,
            }
        }
    }

    /// Lets go of the handlers: one that holds its informer would keep it, and its client, for ever.
    fn end(&self) {
        let handlers = std::mem::take(&mut *self.inner.handlers.lock().unwrap_or_else(|e| e.into_inner()));
        drop(handlers);
    }
}

fn decoded<K: Kind>(object: Arc<Object>) -> Option<Arc<K>> {
    object.typed::<K>().inspect_err(|s| tracing::error!(error = %s, "an object in a cache does not decode")).ok()
}

/// Makes informers, one for each distinct selection, and owns their tasks.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<FactoryInner>,
}

/// An informer that runs, and what ends it.
struct Made {
    informer: Informer,
    cancel: CancellationToken,
}

struct FactoryInner {
    client: Client,
    tasks: TaskTracker,
    cancel: CancellationToken,
    made: Mutex<HashMap<(Gvr, ListParams), Made>>,
}

impl std::fmt::Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Informers")
    }
}

impl Informers {
    /// A factory whose informers read through `client`, run on `tasks` and end with `cancel`.
    pub fn new(client: Client, tasks: TaskTracker, cancel: CancellationToken) -> Informers {
        Informers { inner: Arc::new(FactoryInner { client, tasks, cancel, made: Mutex::default() }) }
    }

    /// The informer of all objects of a kind, made and started at the first call.
    pub fn of<K: Kind>(&self) -> Informer {
        self.select(Gvr::of::<K>(), ListParams::all())
    }

    /// The informer of a selection, made and started at the first call.
    pub fn select(&self, gvr: Gvr, params: ListParams) -> Informer {
        let mut made = self.inner.made.lock().unwrap_or_else(|e| e.into_inner());
        made.entry((gvr.clone(), params.clone()))
            .or_insert_with(|| {
                let informer = Informer::new(self.inner.client.clone(), gvr, params);
                let (task, cancel) = (informer.clone(), self.inner.cancel.child_token());
                let ends = cancel.clone();
                self.inner.tasks.spawn(async move {
                    let _ = ends.run_until_cancelled(task.run()).await;
                    task.end();
                });
                Made { informer, cancel }
            })
            .informer
            .clone()
    }

    /// Ends the informer of a selection, whoever uses it: its resource is no longer served.
    pub fn forget(&self, gvr: &Gvr, params: &ListParams) {
        let mut made = self.inner.made.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(m) = made.remove(&(gvr.clone(), params.clone())) {
            m.cancel.cancel();
        }
    }

    /// Waits for the first list of every informer made so far.
    pub async fn synced(&self) {
        let mut all: VecDeque<Informer> = {
            let made = self.inner.made.lock().unwrap_or_else(|e| e.into_inner());
            made.values().map(|m| m.informer.clone()).collect()
        };
        while let Some(informer) = all.pop_front() {
            informer.synced().await;
        }
    }
}
