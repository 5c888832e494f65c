//! The ConfigMaps and Secrets that pods here refer to, each watched by itself for as long as a pod
//! uses it: the Node authorizer lets a kubelet see nothing else of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::k8s::core::v1::{ConfigMap, Secret};
use client::{Gvr, Informer, Informers, ListParams, Subscription};

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

/// Called with the UID of a pod one of whose objects changed.
pub type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// What a pod, by its UID, refers to.
type Reference = (Kind, String, String);

/// See the module.
pub struct Objects {
    informers: Informers,
    watched: Mutex<HashMap<String, HashMap<Reference, Subscription>>>,
    on_change: OnChange,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

impl Objects {
    /// None are watched yet.
    pub fn new(informers: Informers, on_change: OnChange) -> Objects {
        Objects { informers, watched: Mutex::default(), on_change }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<Reference, Subscription>>> {
        self.watched.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn informer(&self, user: &str, kind: Kind, namespace: &str, name: &str) -> Informer {
        let reference = (kind, namespace.to_owned(), name.to_owned());
        if let Some(watched) = self.lock().get(user).and_then(|of| of.get(&reference)) {
            return Informer::clone(watched);
        }
        let params = ListParams { namespace: namespace.to_owned(), ..ListParams::field("metadata.name", name) };
        let subscription = self.informers.subscribe(kind.gvr(), params);
        let informer = Informer::clone(&subscription);
        let (uid, on_change) = (user.to_owned(), self.on_change.clone());
        subscription.on_change(move |_| on_change(&uid));
        self.lock().entry(user.to_owned()).or_default().insert(reference, subscription);
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
        let released = self.lock().remove(user);
        drop(released);
    }
}
