//! The ConfigMaps and Secrets that pods here refer to, each watched by itself for as long as a pod
//! uses it: the Node authorizer lets a kubelet see nothing else of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::k8s::core::v1::{ConfigMap, Secret};
use client::{Client, Gvr, Informer, Informers, ListParams};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a pod waits for the first answer about an object before it tries again.
const FIRST: Duration = Duration::from_secs(30);

/// Which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Kind {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
        }
    }

    /// Upstream's words for an object that is not there.
    pub fn not_found(self, name: &str) -> String {
        let plural = match self {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        };
        format!("{plural} {name:?} not found")
    }

    fn gvr(self) -> Gvr {
        match self {
            Kind::ConfigMap => Gvr::of::<ConfigMap>(),
            Kind::Secret => Gvr::of::<Secret>(),
        }
    }
}

/// The contents of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data(BTreeMap<String, Vec<u8>>);

impl Data {
    /// Contents from bytes by key.
    pub fn new(map: BTreeMap<String, Vec<u8>>) -> Data {
        Data(map)
    }

    /// By key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// By key, as text.
    pub fn get_text(&self, key: &str) -> Option<String> {
        self.get(key).map(|v| String::from_utf8_lossy(v).into_owned())
    }

    /// All, as text.
    pub fn text(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.0.iter().map(|(k, v)| (k.clone(), String::from_utf8_lossy(v).into_owned()))
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter()
    }
}

type Key = (Kind, String, String);

struct Watched {
    informer: Informer,
    end: CancellationToken,
    users: HashSet<String>,
}

/// Called with the UIDs of the pods whose object changed.
pub type OnChange = Arc<dyn Fn(&[String]) + Send + Sync>;

/// See the module.
pub struct Objects {
    client: Client,
    tasks: TaskTracker,
    cancel: CancellationToken,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    on_change: OnChange,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

impl Objects {
    /// None are watched yet.
    pub fn new(client: Client, tasks: TaskTracker, cancel: CancellationToken, on_change: OnChange) -> Objects {
        Objects { client, tasks, cancel, watched: Arc::default(), on_change }
    }

    fn informer(&self, user: &str, kind: Kind, namespace: &str, name: &str) -> Informer {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let (informer, fresh) = {
            let mut watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
            let mut fresh = false;
            let entry = watched.entry(key.clone()).or_insert_with(|| {
                fresh = true;
                let end = self.cancel.child_token();
                let informers = Informers::new(self.client.clone(), self.tasks.clone(), end.clone());
                let params = ListParams { namespace: namespace.to_owned(), ..ListParams::field("metadata.name", name) };
                Watched { informer: informers.select(kind.gvr(), params), end, users: HashSet::new() }
            });
            entry.users.insert(user.to_owned());
            (entry.informer.clone(), fresh)
        };
        if fresh {
            // Without the lock: the handler takes it, and is called at once for what is there.
            let (all, on_change) = (Arc::downgrade(&self.watched), self.on_change.clone());
            informer.on_change(move |_| {
                let Some(all) = all.upgrade() else { return };
                let users: Vec<String> = all
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .get(&key)
                    .map(|w| w.users.iter().cloned().collect())
                    .unwrap_or_default();
                on_change(&users);
            });
        }
        informer
    }

    /// The contents of an object on behalf of a pod; `None` when it does not exist.
    ///
    /// # Errors
    /// When the API does not answer in time.
    pub async fn data(&self, user: &str, kind: Kind, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        let informer = self.informer(user, kind, namespace, name);
        if tokio::time::timeout(FIRST, informer.synced()).await.is_err() {
            return Err(format!(
                "failed to sync {} cache: timed out waiting for the condition",
                kind.as_str().to_lowercase()
            ));
        }
        let key = api::key_of(namespace, name);
        Ok(match kind {
            Kind::ConfigMap => informer.get::<ConfigMap>(&key).map(|c| {
                let mut map: BTreeMap<String, Vec<u8>> =
                    c.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
                map.extend(c.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes())));
                Data(map)
            }),
            Kind::Secret => informer
                .get::<Secret>(&key)
                .map(|s| Data(s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect())),
        })
    }

    /// A pod is gone: what nobody else uses is not watched any more.
    pub fn release(&self, user: &str) {
        let mut watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
        watched.retain(|_, w| {
            w.users.remove(user);
            if w.users.is_empty() {
                w.end.cancel();
            }
            !w.users.is_empty()
        });
    }
}
