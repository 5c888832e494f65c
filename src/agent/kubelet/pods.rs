//! Which pods run here: those that the API assigned to this node, and those of manifest files.
//! Each gets a [`Worker`]; this module starts workers, tells them of changes, and forgets them.
//!
//! A queue of names drives it: whatever changed, the current state is read again. The pods of
//! manifests ("static") show in the API as mirror pods, which [`mirror`](Pods::run_mirrors) makes.
//!
//! Upstream: `pkg/kubelet/{kubelet.go,pod,config}`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::k8s::core::v1::{Node, Pod};
use api::meta::apis::meta::v1::OwnerReference;
use client::{Informer, WorkQueue};
use serde_json::json;

use super::Shared;
use super::admission::{NodeView, admit};
use super::observed::Observed;
use super::spec::identity;
use super::status::{Verdict, is_terminal};
use super::worker::{Desired, Handle, Worker};
use crate::images::oci::digest;
use client::dirwatch::DirWatch;

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// A pod of the API, by `namespace/name`.
    Api(String),
    /// The manifests changed.
    Manifests,
    /// A worker has ended.
    Ended(String),
}

struct Entry {
    handle: Handle,
    is_static: bool,
}

/// See the module.
pub struct Pods {
    shared: Arc<Shared>,
    api: Informer,
    node: Informer,
    workers: Mutex<HashMap<String, Entry>>,
    statics: Mutex<BTreeMap<String, Arc<Pod>>>,
    queue: WorkQueue<Key>,
    mirrors: WorkQueue<String>,
    /// UIDs that were running before this agent started: they are not rejected.
    running_before: Mutex<HashSet<String>>,
    manifests_read: AtomicBool,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pods")
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR))
}

fn key(pod: &Pod) -> String {
    let id = identity(pod);
    api::key_of(&id.namespace, &id.name)
}

/// Reads a manifest and makes it this node's own.
///
/// # Errors
/// What is wrong with it.
pub fn read_manifest(text: &str, file: &str, node: &str) -> Result<Pod, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let value: serde_json::Value = serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())?;
    if value["kind"].as_str() != Some("Pod") {
        return Err("it is not of kind Pod".into());
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("it has no name")?;
    let uid = digest(format!("{node}\n{file}\n{text}").as_bytes())[7..39].to_owned();
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE.into(), "file".into());
    annotations.insert(HASH.into(), uid.clone());
    pod.metadata.uid = Some(uid);
    let spec = pod.spec.as_mut().ok_or("it has no spec")?;
    if spec.containers.is_empty() {
        return Err("it has no containers".into());
    }
    spec.node_name = Some(node.to_owned());
    spec.tolerations.get_or_insert_default().push(api::k8s::core::v1::Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    });
    Ok(pod)
}

fn read_manifests(dir: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut found = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') || ![".yaml", ".yml", ".json"].iter().any(|e| name.ends_with(e)) {
            continue;
        }
        let pod =
            std::fs::read_to_string(&file).map_err(|e| e.to_string()).and_then(|t| read_manifest(&t, &name, node));
        match pod {
            Ok(pod) => {
                found.insert(key(&pod), Arc::new(pod));
            }
            Err(e) => tracing::error!(file = %file.display(), error = %e, "a static pod's manifest is not usable"),
        }
    }
    found
}

impl Pods {
    /// Nothing runs yet. `api` has the pods of this node, `node` the Node itself.
    pub fn new(shared: Arc<Shared>, api: Informer, node: Informer) -> Arc<Pods> {
        let pods = Arc::new(Pods {
            shared,
            api: api.clone(),
            node,
            workers: Mutex::default(),
            statics: Mutex::default(),
            queue: WorkQueue::default(),
            mirrors: WorkQueue::new(Duration::from_millis(200), Duration::from_secs(60)),
            running_before: Mutex::default(),
            manifests_read: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&pods);
        api.on_change(move |c| {
            if let Some(pods) = weak.upgrade() {
                pods.queue.add(Key::Api(c.object().key().to_owned()));
            }
        });
        pods
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.workers.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn statics(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Pod>>> {
        self.statics.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes a pod's worker look again.
    pub fn wake(&self, uid: &str) {
        if let Some(e) = self.workers().get(uid) {
            e.handle.wake.notify_one();
        }
    }

    /// The runtime says that a container or sandbox of a pod ended.
    pub fn container_ended(&self, uid: &str, id: &str) {
        if let Some(e) = self.workers().get(uid) {
            e.handle.ended.lock().unwrap_or_else(|e| e.into_inner()).insert(id.to_owned());
            e.handle.wake.notify_one();
        }
    }

    /// Makes all workers look again.
    pub fn wake_all(&self) {
        for e in self.workers().values() {
            e.handle.wake.notify_one();
        }
    }

    /// An object that these pods use has changed.
    pub fn volumes_changed(&self, uid: &str) {
        if let Some(e) = self.workers().get(uid) {
            e.handle.volumes_changed.store(true, Ordering::Relaxed);
            e.handle.wake.notify_one();
        }
    }

    /// The pods that have a worker, with what was seen of them last.
    pub fn list(&self) -> Vec<(Arc<Pod>, Arc<Observed>)> {
        let workers = self.workers();
        workers.values().map(|e| (e.handle.desired.borrow().pod.clone(), e.handle.seen.borrow().clone())).collect()
    }

    /// One pod by namespace and name, with what was seen of it last.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, Arc<Observed>)> {
        let mut fitting: Vec<_> = self
            .list()
            .into_iter()
            .filter(|(p, _)| {
                let id = identity(p);
                id.namespace == namespace && id.name == name
            })
            .collect();
        // A pod that is going may share the name with its successor.
        fitting.sort_by_key(|(p, _)| p.metadata.deletion_timestamp.is_some());
        fitting.into_iter().next()
    }

    /// What is seen of a pod, from now on.
    pub fn follow(&self, uid: &str) -> Option<tokio::sync::watch::Receiver<Arc<Observed>>> {
        self.workers().get(uid).map(|e| e.handle.seen.clone())
    }

    /// Works until cancelled.
    pub async fn run(self: Arc<Self>) {
        match self.shared.runtime.list_sandboxes(&[]).await {
            Ok(all) => {
                let mut before = self.running_before.lock().unwrap_or_else(|e| e.into_inner());
                before.extend(all.iter().filter_map(|s| s.labels.get(super::observed::POD_UID).cloned()));
            }
            Err(e) => tracing::warn!(error = %e, "the runtime does not list its sandboxes"),
        }
        self.queue.add(Key::Manifests);
        while let Some(key) = self.queue.get().await {
            match &key {
                Key::Api(name) => self.api_changed(name),
                Key::Manifests => self.manifests_changed(),
                Key::Ended(uid) => self.ended(uid),
            }
            self.queue.done(&key);
        }
    }

    /// Watches the manifests' folder. Runs until cancelled.
    pub async fn run_manifests(self: Arc<Self>) {
        let dir = self.shared.config.static_pod_dir.clone();
        if let Err(e) = std::fs::create_dir_all(&dir) {
            return tracing::error!(dir = %dir.display(), error = %e, "no folder for static pods");
        }
        let mut watch = match DirWatch::new(&dir) {
            Ok(w) => w,
            Err(e) => return tracing::error!(dir = %dir.display(), error = %e, "static pods are not watched"),
        };
        loop {
            self.queue.add(Key::Manifests);
            if let Err(e) = watch.changed().await {
                return tracing::error!(dir = %dir.display(), error = %e, "static pods are not watched any more");
            }
        }
    }

    fn node_view(&self) -> NodeView {
        let c = &self.shared.config;
        let m = &self.shared.machine;
        let node = self.node.get::<Node>(&c.node_name);
        let mut labels = super::node::labels(c);
        labels.extend(node.as_ref().and_then(|n| n.metadata.labels.clone()).unwrap_or_default());
        let mut allocatable =
            super::resources::Amounts { cpu_millis: m.cpu_millis, memory_bytes: m.memory_bytes, ..Default::default() };
        allocatable.others.insert("ephemeral-storage".into(), m.storage_bytes);
        for (name, q) in node.iter().filter_map(|n| n.status.as_ref()).flat_map(|s| s.allocatable.iter().flatten()) {
            if !matches!(name.as_str(), "cpu" | "memory" | "pods" | "ephemeral-storage") {
                allocatable.others.insert(name.clone(), super::resources::value(q));
            }
        }
        NodeView { name: c.node_name.clone(), labels, allocatable, pods: i64::from(c.max_pods) }
    }

    fn admission(&self, pod: &Pod) -> Option<Verdict> {
        let uid = identity(pod).uid;
        let known = self.running_before.lock().unwrap_or_else(|e| e.into_inner()).contains(&uid);
        if known || is_terminal(pod.status.as_ref()) || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let others: Vec<Arc<Pod>> = self
            .workers()
            .values()
            .map(|e| e.handle.desired.borrow().clone())
            .filter(|d| d.verdict.is_none() && !d.removed)
            .map(|d| d.pod)
            .collect();
        let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
        admit(pod, &others, &self.node_view()).err()
    }

    fn spawn(self: &Arc<Self>, pod: Arc<Pod>, object: Option<Arc<Pod>>, is_static: bool) {
        let uid = identity(&pod).uid;
        let verdict = self.admission(&pod);
        if let Some(v) = &verdict {
            self.shared.recorder.warning(client::events::reference(&*pod), &v.reason, v.message.clone());
        }
        let desired = Desired { pod, object, removed: false, verdict };
        let (worker, handle) = Worker::new(self.shared.clone(), desired);
        self.workers().insert(uid.clone(), Entry { handle, is_static });
        self.weigh_burstable();
        let (weak, cancel) = (Arc::downgrade(self), self.shared.cancel.clone());
        self.shared.tasks.spawn(async move {
            if cancel.run_until_cancelled(worker.run()).await.is_some()
                && let Some(pods) = weak.upgrade()
            {
                pods.queue.add(Key::Ended(uid));
            }
        });
    }

    /// The burstable class as a whole gets the CPU weight of its pods' requests.
    fn weigh_burstable(&self) {
        let millis = self
            .list()
            .iter()
            .filter(|(p, _)| super::resources::qos(p) == super::resources::Qos::Burstable)
            .map(|(p, _)| super::resources::pod_totals(p).requests.cpu_millis)
            .sum();
        self.shared.cgroups.set_burstable_cpu(millis);
    }

    fn api_changed(self: &Arc<Self>, name: &str) {
        let pod = self.api.get::<Pod>(name);
        if pod.as_ref().is_some_and(|p| is_mirror(p)) || self.statics().contains_key(name) {
            self.mirrors.add(name.to_owned());
        }
        let current = pod.filter(|p| !is_mirror(p));
        let uid = current.as_ref().map(|p| identity(p).uid);
        let mut known = false;
        for (own, e) in self.workers().iter().filter(|(_, e)| !e.is_static) {
            if key(&e.handle.desired.borrow().pod) != name {
                continue;
            }
            if Some(own) == uid.as_ref() {
                known = true;
                e.handle.desired.send_if_modified(|d| {
                    let Some(p) = &current else { return false };
                    let changed = **p != *d.pod;
                    d.pod = p.clone();
                    d.object = Some(p.clone());
                    changed
                });
            } else {
                e.handle.desired.send_if_modified(|d| !std::mem::replace(&mut d.removed, true));
            }
        }
        if let Some(pod) = current
            && !known
        {
            self.spawn(pod.clone(), Some(pod), false);
        }
    }

    fn manifests_changed(self: &Arc<Self>) {
        let config = &self.shared.config;
        let now = read_manifests(&config.static_pod_dir, &config.node_name);
        let before = std::mem::replace(&mut *self.statics(), now.clone());
        self.manifests_read.store(true, Ordering::Relaxed);
        let wanted: HashMap<String, &Arc<Pod>> = now.values().map(|p| (identity(p).uid, p)).collect();
        for (uid, e) in self.workers().iter().filter(|(_, e)| e.is_static) {
            if !wanted.contains_key(uid) {
                e.handle.desired.send_if_modified(|d| !std::mem::replace(&mut d.removed, true));
            }
        }
        for (name, pod) in &now {
            // A pod of the same name that is still going comes first; its end looks here again.
            let busy = self.workers().values().any(|e| e.is_static && key(&e.handle.desired.borrow().pod) == *name);
            if !busy {
                self.spawn(pod.clone(), None, true);
            }
        }
        for name in now.keys().chain(before.keys()) {
            self.mirrors.add(name.clone());
        }
    }

    fn ended(self: &Arc<Self>, uid: &str) {
        let entry = self.workers().remove(uid);
        self.running_before.lock().unwrap_or_else(|e| e.into_inner()).remove(uid);
        self.weigh_burstable();
        match entry {
            Some(e) if e.is_static => self.queue.add(Key::Manifests),
            Some(e) => self.queue.add(Key::Api(key(&e.handle.desired.borrow().pod))),
            None => {}
        }
    }

    /// Keeps the mirror pods of static pods as they should be. Runs until cancelled.
    pub async fn run_mirrors(self: Arc<Self>) {
        self.api.synced().await;
        self.node.synced().await;
        while let Some(name) = self.mirrors.get().await {
            match self.mirror(&name).await {
                Ok(()) => self.mirrors.forget(&name),
                Err(s) => {
                    tracing::warn!(pod = %name, error = %s, "a mirror pod is not as it should be");
                    self.mirrors.add_rate_limited(name.clone());
                }
            }
            self.mirrors.done(&name);
        }
    }

    async fn mirror(&self, name: &str) -> Result<(), api::Status> {
        let client = &self.shared.client;
        let own = self.statics().get(name).cloned();
        let mirror = self.api.get::<Pod>(name).filter(|p| is_mirror(p));
        let hash = own.as_ref().map(|p| identity(p).uid);
        if let Some(m) = &mirror {
            let of = m.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR)).cloned();
            if of != hash || m.metadata.deletion_timestamp.is_some() {
                let id = identity(m);
                let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": id.uid}});
                self.show(name, None);
                return match client.delete_with::<Pod>(&id.namespace, &id.name, &options).await {
                    Err(s) if !s.is_not_found() && !s.is_conflict() => Err(s),
                    _ => Ok(()),
                };
            }
            self.show(name, Some(m.clone()));
            return Ok(());
        }
        self.show(name, None);
        let (Some(own), Some(hash)) = (own, hash) else { return Ok(()) };
        let mut pod = (*own).clone();
        pod.metadata.uid = None;
        pod.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
        if let Some(node) = self.node.get::<Node>(&self.shared.config.node_name) {
            pod.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: self.shared.config.node_name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                ..Default::default()
            }]);
        }
        match client.create(&pod).await {
            Ok(_) => Ok(()),
            Err(s) if s.is_already_exists() => Ok(()),
            Err(s) => Err(s),
        }
    }

    /// Tells a static pod's worker which object stands for it.
    fn show(&self, name: &str, mirror: Option<Arc<Pod>>) {
        for e in self.workers().values().filter(|e| e.is_static) {
            e.handle.desired.send_if_modified(|d| {
                if key(&d.pod) != name || d.object == mirror {
                    return false;
                }
                // The status we wrote ourselves is no reason to look again.
                let same =
                    d.object.as_ref().zip(mirror.as_ref()).is_some_and(|(a, b)| a.metadata.uid == b.metadata.uid);
                d.object = mirror.clone();
                !same
            });
        }
    }

    /// Ends and removes what belongs to no pod, once it is known which pods there are.
    pub async fn clean_orphans(&self, in_runtime: Vec<String>) {
        if !self.api.is_synced() || !self.manifests_read.load(Ordering::Relaxed) {
            return;
        }
        let mut found: HashSet<String> = in_runtime.into_iter().collect();
        found.extend(self.shared.volumes.pods());
        found.extend(self.shared.cgroups.pods());
        for uid in found {
            if self.workers().contains_key(&uid) || self.is_expected(&uid) {
                continue;
            }
            tracing::info!(pod = %uid, "ending what is left of a pod that is not here any more");
            if let Err(e) = self.clean_orphan(&uid).await {
                tracing::warn!(pod = %uid, error = %e, "not everything of a pod is gone");
            }
        }
    }

    /// Its worker is about to be made.
    fn is_expected(&self, uid: &str) -> bool {
        self.api.objects().iter().any(|o| o.meta().uid == uid)
            || self.statics().values().any(|p| identity(p).uid == uid)
    }

    async fn clean_orphan(&self, uid: &str) -> Result<(), String> {
        let runtime = &self.shared.runtime;
        let words = |e: super::cri::Error| e.message;
        let seen = super::observed::observe(&**runtime, uid, &Observed::default()).await.map_err(words)?;
        let labels = [(super::observed::POD_UID, uid)];
        let sandboxes = runtime.list_sandboxes(&labels).await.map_err(words)?;
        let grace = sandboxes
            .iter()
            .find_map(|s| s.annotations.get(super::observed::GRACE)?.parse().ok())
            .map_or(Duration::from_secs(30), Duration::from_secs);
        let stops = seen.running().map(|c| runtime.stop_container(&c.id, grace));
        futures::future::try_join_all(stops).await.map_err(words)?;
        for s in &seen.sandboxes {
            runtime.stop_sandbox(&s.id).await.map_err(words)?;
            runtime.remove_sandbox(&s.id).await.map_err(words)?;
        }
        self.shared.volumes.tear_down(uid).map_err(|e| e.to_string())?;
        self.shared.cgroups.remove_pod(uid).await;
        let suffix = format!("_{uid}");
        for e in std::fs::read_dir(self.shared.paths.pod_logs()).into_iter().flatten().flatten() {
            if e.file_name().to_string_lossy().ends_with(&suffix) {
                let _ = std::fs::remove_dir_all(e.path());
            }
        }
        Ok(())
    }

    /// Rotates logs that have grown too large, until cancelled. A file's size has no event that would
    /// not come with each line.
    pub async fn run_log_rotation(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(super::logs::INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.rotate_logs().await;
        }
    }

    async fn rotate_logs(&self) {
        for (_, seen) in self.list() {
            for c in seen.running().filter(|c| !c.log_path.is_empty()) {
                super::logs::rotate(&*self.shared.runtime, &c.id, Path::new(&c.log_path)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_this_nodes_pod() {
        let text = "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec:\n  containers: [{name: c, image: i}]\n  volumes: [{name: v, configMap: {name: x, defaultMode: 0644}}]\n";
        let pod = read_manifest(text, "a.yaml", "Node1").unwrap();
        assert_eq!(key(&pod), "default/a-node1");
        assert_eq!(pod.metadata.uid.as_ref().unwrap().len(), 32);
        let mode = pod.spec.unwrap().volumes.unwrap()[0].config_map.as_ref().unwrap().default_mode;
        assert_eq!(mode, Some(0o644));
        assert!(read_manifest("kind: Service", "b.yaml", "n").is_err());
    }
}
