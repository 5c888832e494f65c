//! List + watch with a cache, shared between all its users (upstream: `client-go/tools/cache`).
//!
//! An [`Informer`] lists once, then follows the watch; a 410 or a gap makes it list again and
//! tell its handlers the difference. Objects are the `Arc`s that the API hands out, so in the
//! server process the cache holds no second copy.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// The subscription it belongs to; handlers go with it.
    subscription: Option<u64>,
}

struct Inner {
    client: Client,
    gvr: Gvr,
    params: ListParams,
    cache: RwLock<Cache>,
    /// Handlers run in the informer's task, in order, and must not block. Each with its subscription.
    handlers: Mutex<Vec<(Option<u64>, Handler)>>,
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
            subscription: None,
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
    /// that is already there. It runs in the informer's task and must not block. A handler
    /// added through a [`Subscription`] goes with it.
    pub fn on_change(&self, handler: impl Fn(&Change) + Send + Sync + 'static) {
        // The handlers' lock is held for the replay, so that no change can slip in between.
        let mut handlers = self.inner.handlers.lock().unwrap_or_else(|e| e.into_inner());
        for object in self.objects() {
            handler(&Change { old: None, new: Some(object) });
        }
        handlers.push((self.subscription, Box::new(handler)));
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

    /// Waits until the first list has been taken in: for ever when the informer ends before that.
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
        for (_, handler) in handlers.iter() {
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
    /// Selected, not only subscribed to: it runs as long as the factory.
    kept: bool,
    subscriptions: BTreeSet<u64>,
}

/// The use of an [`Informer`] whose resource may go away: the informer ends with its last
/// subscription, and the handlers that were added through this one are not called after its drop.
pub struct Subscription {
    informers: Informers,
    selection: (Gvr, ListParams),
    id: u64,
    informer: Informer,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscription({:?})", self.selection.0)
    }
}

impl Deref for Subscription {
    type Target = Informer;

    fn deref(&self) -> &Informer {
        &self.informer
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.informers.end(&self.selection, self.id);
    }
}

struct FactoryInner {
    client: Client,
    tasks: TaskTracker,
    cancel: CancellationToken,
    made: Mutex<HashMap<(Gvr, ListParams), Made>>,
    /// How many subscriptions there were.
    subscriptions: AtomicU64,
}

impl std::fmt::Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Informers")
    }
}

impl Informers {
    /// A factory whose informers read through `client`, run on `tasks` and end with `cancel`.
    pub fn new(client: Client, tasks: TaskTracker, cancel: CancellationToken) -> Informers {
        Informers {
            inner: Arc::new(FactoryInner {
                client,
                tasks,
                cancel,
                made: Mutex::default(),
                subscriptions: AtomicU64::new(0),
            }),
        }
    }

    /// The informer of all objects of a kind, made and started at the first call.
    pub fn of<K: Kind>(&self) -> Informer {
        self.select(Gvr::of::<K>(), ListParams::all())
    }

    /// The informer of a selection, made and started at the first call. It runs as long as the
    /// factory.
    pub fn select(&self, gvr: Gvr, params: ListParams) -> Informer {
        self.made(&(gvr, params), |made| {
            made.kept = true;
            made.informer.clone()
        })
    }

    /// The informer of a selection that is not needed for ever, made and started when it does
    /// not run yet.
    pub fn subscribe(&self, gvr: Gvr, params: ListParams) -> Subscription {
        let (id, selection) = (self.inner.subscriptions.fetch_add(1, Ordering::Relaxed), (gvr, params));
        let informer = self.made(&selection, |made| {
            made.subscriptions.insert(id);
            Informer { subscription: Some(id), ..made.informer.clone() }
        });
        Subscription { informers: self.clone(), selection, id, informer }
    }

    fn made<T>(&self, selection: &(Gvr, ListParams), with: impl FnOnce(&mut Made) -> T) -> T {
        let mut made = self.inner.made.lock().unwrap_or_else(|e| e.into_inner());
        with(made.entry(selection.clone()).or_insert_with(|| self.start(selection.clone())))
    }

    fn start(&self, (gvr, params): (Gvr, ListParams)) -> Made {
        let informer = Informer::new(self.inner.client.clone(), gvr, params);
        let (task, cancel) = (informer.clone(), self.inner.cancel.child_token());
        let ends = cancel.clone();
        self.inner.tasks.spawn(async move {
            let _ = ends.run_until_cancelled(task.run()).await;
            task.end();
        });
        Made { informer, cancel, kept: false, subscriptions: BTreeSet::new() }
    }

    /// Ends a subscription, and the informer with the last one.
    fn end(&self, selection: &(Gvr, ListParams), subscription: u64) {
        let informer = {
            let mut all = self.inner.made.lock().unwrap_or_else(|e| e.into_inner());
            let Some(made) = all.get_mut(selection) else { return };
            made.subscriptions.remove(&subscription);
            let informer = made.informer.clone();
            if made.subscriptions.is_empty() && !made.kept {
                made.cancel.cancel();
                all.remove(selection);
            }
            informer
        };
        // Without the factory's lock: a handler may be asking for an informer just now.
        informer.inner.handlers.lock().unwrap_or_else(|e| e.into_inner()).retain(|(of, _)| *of != Some(subscription));
    }
}

#[cfg(test)]
mod tests;
