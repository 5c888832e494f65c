//! Garbage collection by owner references: background, foreground, orphan
//! (<https://kubernetes.io/docs/concepts/architecture/garbage-collection/>;
//! upstream: `pkg/controller/garbagecollector`).
//!
//! Every listable resource is watched once (the caches are shared with everyone else); an index
//! by owner UID gives the dependents. Keys are UIDs.
//!
//! Invariants: an object is deleted only when each of its owners is absent in the API itself, not
//! only in a cache, or waits in foreground deletion while no other owner is left; deletions carry
//! the UID that was judged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use api::{Object, OwnerRef, Status};
use async_trait::async_trait;
use client::api::{Call, Gvr, ListParams, PatchKind, Verb};
use client::{Client, Informer, Subscription};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::namespace::{Found, discover};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "generic-garbage-collector";
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const WORKERS: usize = 8;
/// Definitions come and go many at a time, and discovery is asked once for all of them.
const GATHERED: Duration = Duration::from_secs(1);
/// How long the first lists may take; upstream's.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where an object lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    gvr: Gvr,
    namespace: String,
    name: String,
}

#[derive(Default)]
struct Graph {
    /// What may have to go, by UID: objects with owners, and those that are being deleted.
    objects: HashMap<String, (Place, Arc<Object>)>,
    /// UIDs of dependents by the UID of an owner.
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    fn set(&mut self, place: &Place, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
        if let Some(o) = old {
            for r in o.meta().owner_references {
                if let Some(set) = self.dependents.get_mut(&r.uid) {
                    set.remove(o.meta().uid);
                    if set.is_empty() {
                        self.dependents.remove(&r.uid);
                    }
                }
            }
            self.objects.remove(o.meta().uid);
        }
        if let Some(o) = new.filter(|o| !o.meta().owner_references.is_empty() || o.meta().deletion_timestamp.is_some())
        {
            for r in o.meta().owner_references {
                self.dependents.entry(r.uid.clone()).or_default().insert(o.meta().uid.to_owned());
            }
            self.objects.insert(o.meta().uid.to_owned(), (place.clone(), o.clone()));
        }
    }

    fn dependents_of(&self, uid: &str) -> Vec<(Place, Arc<Object>)> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|u| self.objects.get(u).cloned()).collect()
    }
}

struct GarbageCollector {
    client: Client,
    graph: Arc<RwLock<Graph>>,
    kinds: Kinds,
}

/// What the owners of an owner reference's group and kind are.
#[derive(Clone)]
struct Owners {
    gvr: Gvr,
    namespaced: bool,
    known: Informer,
}

/// See [`Owners`].
type Kinds = Arc<RwLock<HashMap<(String, String), Owners>>>;

/// Starts the collector: it follows whatever discovery tells, again at every change of a custom
/// resource definition or an APIService.
pub fn start(context: &Context) {
    let changed = Arc::new(Notify::new());
    let definitions = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let services = Gvr::new("apiregistration.k8s.io", "v1", "apiservices");
    for gvr in [definitions, services] {
        let notify = changed.clone();
        context.informers.select(gvr, ListParams::all()).on_change(move |_| notify.notify_one());
    }
    let mut sources = Sources {
        context: context.clone(),
        graph: Arc::default(),
        queue: Queue::default(),
        kinds: Arc::default(),
        watched: HashMap::new(),
    };
    let client = (context.client_for)(NAME);
    let run = async move {
        let mut begun = false;
        loop {
            match resources(&client).await {
                Ok((found, unknown)) => {
                    sources.follow(found, &unknown);
                    if !std::mem::replace(&mut begun, true) {
                        sources.collect(client.clone()).await;
                    }
                    changed.notified().await;
                    tokio::time::sleep(GATHERED).await;
                }
                Err(s) => {
                    tracing::warn!(error = %s, "garbage collection waits for discovery");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    context.tasks.spawn(context.liveness.keep(NAME, &context.cancel, run));
}

/// The resources that are watched now, and the group versions of which nothing is known.
async fn resources(client: &Client) -> Result<(Vec<Found>, Vec<String>), Status> {
    let found = discover(client).await?;
    // Events own nothing and are owned by nobody; they are many.
    Ok((found.resources.into_iter().filter(|f| f.gvr.plural != "events").collect(), found.failed))
}

/// Everything that is watched.
struct Sources {
    context: Context,
    graph: Arc<RwLock<Graph>>,
    queue: Queue,
    kinds: Kinds,
    watched: HashMap<Gvr, Subscription>,
}

impl Sources {
    /// Watches what is served now, and that alone; what a server that does not answer has served
    /// is watched still.
    fn follow(&mut self, found: Vec<Found>, unknown: &[String]) {
        let served: HashSet<&Gvr> = found.iter().map(|f| &f.gvr).collect();
        let is_known = |g: &Gvr| !unknown.contains(&format!("{}/{}", g.group, g.version));
        let is_gone = |g: &Gvr| !served.contains(g) && is_known(g);
        let gone: Vec<Gvr> = self.watched.keys().filter(|g| is_gone(g)).cloned().collect();
        for gvr in gone {
            self.watched.remove(&gvr);
            let mut graph = self.graph.write().unwrap_or_else(|e| e.into_inner());
            let objects: Vec<_> = graph.objects.values().filter(|(p, _)| p.gvr == gvr).cloned().collect();
            objects.iter().for_each(|(place, o)| graph.set(place, Some(o), None));
        }
        let mut kinds = HashMap::new();
        for Found { gvr, kind, namespaced } in found {
            if !self.watched.contains_key(&gvr) {
                self.watched.insert(gvr.clone(), self.watch(&gvr));
            }
            let known = Informer::clone(&self.watched[&gvr]);
            kinds.insert((gvr.group.to_string(), kind), Owners { gvr, namespaced, known });
        }
        *self.kinds.write().unwrap_or_else(|e| e.into_inner()) = kinds;
    }

    fn watch(&self, gvr: &Gvr) -> Subscription {
        let informer = self.context.informers.subscribe(gvr.clone(), ListParams::all());
        let (graph, queue, gvr) = (self.graph.clone(), self.queue.clone(), gvr.clone());
        informer.on_change(move |c| {
            let m = c.object().meta();
            let place = Place { gvr: gvr.clone(), namespace: m.namespace.to_owned(), name: m.name.to_owned() };
            let dependents = {
                let mut g = graph.write().unwrap_or_else(|e| e.into_inner());
                g.set(&place, c.old.as_ref(), c.new.as_ref());
                if c.new.is_none() { g.dependents_of(m.uid) } else { Vec::new() }
            };
            for (_, d) in dependents {
                queue.add(d.meta().uid.to_owned());
            }
            let deleting = m.deletion_timestamp.is_some();
            if !m.owner_references.is_empty() || deleting {
                queue.add(m.uid.to_owned());
            }
            // Owners in foreground deletion wait for this one.
            for o in [&c.old, &c.new].into_iter().flatten() {
                for r in o.meta().owner_references {
                    queue.add(r.uid.clone());
                }
            }
        });
        informer
    }

    /// Starts the workers once all is known that can be listed.
    async fn collect(&self, client: Client) {
        let listed = futures::future::join_all(self.watched.values().map(|s| s.synced()));
        if tokio::time::timeout(PATIENCE, listed).await.is_err() {
            let missing: Vec<String> =
                self.watched.iter().filter(|(_, s)| !s.is_synced()).map(|(g, _)| g.plural.to_string()).collect();
            tracing::warn!(?missing, "garbage collection begins without resources that are not listed");
        }
        let controller = GarbageCollector { client, graph: self.graph.clone(), kinds: self.kinds.clone() };
        runtime::run(&self.context, Arc::new(controller), self.queue.clone(), Vec::new(), WORKERS);
    }
}

/// What is known of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Solid,
    /// In foreground deletion.
    Waiting,
    Absent,
}

impl GarbageCollector {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Graph> {
        self.graph.read().unwrap_or_else(|e| e.into_inner())
    }

    fn call(&self, verb: Verb, place: &Place, body: Option<Value>) -> Call {
        Call {
            verb,
            gvr: place.gvr.clone(),
            namespace: place.namespace.clone(),
            name: place.name.clone(),
            subresource: String::new(),
            query: Vec::new(),
            body: body.map(|b| b.to_string().into()),
        }
    }

    async fn owner(&self, dependent: &Place, r: &OwnerRef) -> Result<Owner, Status> {
        let waiting = |o: &Object| {
            let m = o.meta();
            m.deletion_timestamp.is_some() && m.finalizers.iter().any(|f| f == FOREGROUND)
        };
        let group = r.api_version.split_once('/').map_or("", |(g, _)| g);
        let kind = (group.to_owned(), r.kind.clone());
        let known = self.kinds.read().unwrap_or_else(|e| e.into_inner()).get(&kind).cloned();
        let Some(Owners { gvr, namespaced, known }) = known else {
            // A kind that is not served: nothing can be said, so nothing is deleted.
            return Ok(Owner::Solid);
        };
        let namespace = if namespaced { dependent.namespace.clone() } else { String::new() };
        if let Some(o) = known.object(&api::key_of(&namespace, &r.name)).filter(|o| o.meta().uid == r.uid) {
            return Ok(if waiting(&o) { Owner::Waiting } else { Owner::Solid });
        }
        let place = Place { gvr: gvr.clone(), namespace, name: r.name.clone() };
        match self.client.api().call(self.call(Verb::Get, &place, None)).await {
            Ok(o) if o.meta().uid == r.uid => Ok(if waiting(&o) { Owner::Waiting } else { Owner::Solid }),
            Ok(_) => Ok(Owner::Absent),
            Err(s) if s.is_not_found() => Ok(Owner::Absent),
            Err(s) => Err(s),
        }
    }

    async fn drop_finalizer(&self, place: &Place, object: &Object, finalizer: &str) -> Result<(), Status> {
        let rest: Vec<&String> = object.meta().finalizers.iter().filter(|f| *f != finalizer).collect();
        let patch = json!({"metadata": {"resourceVersion": object.meta().resource_version, "finalizers": rest}});
        gone_is_fine(self.client.api().call(self.call(Verb::Patch(PatchKind::Merge), place, Some(patch))).await)
    }

    /// Takes owners out of a dependent's references.
    async fn disown(&self, place: &Place, object: &Object, owners: &HashSet<&str>) -> Result<(), Status> {
        let current = object.to_value();
        let rest: Vec<&Value> = current["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|r| !owners.contains(r["uid"].as_str().unwrap_or_default()))
            .collect();
        let patch = json!({"metadata": {"resourceVersion": object.meta().resource_version, "ownerReferences": rest}});
        gone_is_fine(self.client.api().call(self.call(Verb::Patch(PatchKind::Merge), place, Some(patch))).await)
    }

    async fn delete(&self, place: &Place, object: &Object, policy: &str) -> Result<(), Status> {
        let m = object.meta();
        let options = json!({"propagationPolicy": policy,
            "preconditions": {"uid": m.uid, "resourceVersion": m.resource_version}});
        gone_is_fine(self.client.api().call(self.call(Verb::Delete, place, Some(options))).await)
    }

    async fn deleting(&self, place: &Place, object: &Arc<Object>) -> Result<(), Status> {
        let m = object.meta();
        if m.finalizers.iter().any(|f| f == ORPHAN) {
            let this = HashSet::from([m.uid]);
            for (p, d) in self.read_dependents(m.uid) {
                self.disown(&p, &d, &this).await?;
            }
            // A dependent that the cache does not show yet would be deleted after all.
            if self.read_dependents(m.uid).iter().any(|(_, d)| d.meta().owner_references.iter().any(|r| r.uid == m.uid))
            {
                return Err(Status::stale(&place.gvr.group, &place.gvr.plural, &place.name));
            }
            return self.drop_finalizer(place, object, ORPHAN).await;
        }
        if !m.finalizers.iter().any(|f| f == FOREGROUND) {
            return Ok(());
        }
        let dependents = self.read_dependents(m.uid);
        let blocks = |d: &Object| d.meta().owner_references.iter().any(|r| r.uid == m.uid && r.block_owner_deletion);
        if !dependents.iter().any(|(_, d)| blocks(d)) {
            return self.drop_finalizer(place, object, FOREGROUND).await;
        }
        for (p, d) in dependents {
            Box::pin(self.judge(&p, &d)).await?;
        }
        Ok(())
    }

    fn read_dependents(&self, uid: &str) -> Vec<(Place, Arc<Object>)> {
        self.read().dependents_of(uid)
    }

    /// Decides about an object with owners that is not being deleted.
    async fn judge(&self, place: &Place, object: &Arc<Object>) -> Result<(), Status> {
        let m = object.meta();
        if m.deletion_timestamp.is_some() || m.owner_references.is_empty() {
            return Ok(());
        }
        let (mut solid, mut waiting, mut absent) = (0, Vec::new(), Vec::new());
        for r in m.owner_references {
            match self.owner(place, r).await? {
                Owner::Solid => solid += 1,
                Owner::Waiting => waiting.push(r.uid.as_str()),
                Owner::Absent => absent.push(r.uid.as_str()),
            }
        }
        if solid > 0 {
            if waiting.is_empty() && absent.is_empty() {
                return Ok(());
            }
            return self.disown(place, object, &waiting.into_iter().chain(absent).collect()).await;
        }
        if waiting.is_empty() {
            // What its own deletion asked for stays: orphan, or foreground.
            let own = [(ORPHAN, "Orphan"), (FOREGROUND, "Foreground")];
            let policy = own.iter().find(|(f, _)| m.finalizers.iter().any(|x| x == f)).map_or("Background", |(_, p)| p);
            return self.delete(place, object, policy).await;
        }
        // Foreground: this one's own dependents first, unless it is part of a circle, which
        // would wait for itself for ever.
        let dependents = self.read_dependents(m.uid);
        let circle = dependents
            .iter()
            .any(|(_, d)| d.meta().deletion_timestamp.is_some() && d.meta().finalizers.iter().any(|f| f == FOREGROUND));
        if circle {
            let owners = waiting.iter().copied().collect();
            self.unblock(place, object, &owners).await?;
        }
        self.delete(place, object, if dependents.is_empty() { "Background" } else { "Foreground" }).await
    }

    /// Breaks a circle: owners no longer wait for this object.
    async fn unblock(&self, place: &Place, object: &Object, owners: &HashSet<&str>) -> Result<(), Status> {
        let mut current = object.to_value();
        for r in current["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
            if owners.contains(r["uid"].as_str().unwrap_or_default()) {
                r["blockOwnerDeletion"] = false.into();
            }
        }
        let patch = json!({"metadata": {"ownerReferences": current["metadata"]["ownerReferences"]}});
        gone_is_fine(self.client.api().call(self.call(Verb::Patch(PatchKind::Merge), place, Some(patch))).await)
    }
}

fn gone_is_fine(r: Result<Arc<Object>, Status>) -> Result<(), Status> {
    match r {
        Ok(_) => Ok(()),
        Err(s) if s.is_not_found() => Ok(()),
        Err(s) => Err(s),
    }
}

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "garbage_collector_attempt_to_delete"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some((place, object)) = self.read().objects.get(key).cloned() else { return Ok(Action::Done) };
        if object.meta().deletion_timestamp.is_some() {
            self.deleting(&place, &object).await?;
        } else {
            self.judge(&place, &object).await?;
        }
        Ok(Action::Done)
    }
}
