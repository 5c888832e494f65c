//! ReplicaSet and ReplicationController: as many pods as are wanted
//! (upstream: `pkg/controller/replicaset`).
//!
//! Invariants: pods are only ever made or deleted to bring the number of active, claimed pods to
//! `spec.replicas`; what has been made or deleted but has not come back through the watch yet is
//! counted, so that a stale cache never makes too many.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use api::k8s::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use api::k8s::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use api::meta::apis::meta::v1::Time;
use api::selector::LabelSelector;
use async_trait::async_trait;
use client::events::reference;
use client::{Client, EventRecorder, Informer, Kind};
use jiff::Timestamp;
use serde_json::json;

use crate::pod_control::{self as pods, available, deletion_rank, is_active, is_ready, name, namespace, node_of, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

/// Most pods that one reconcile makes or deletes.
const BURST: usize = 500;
/// How long the cache may take to show what was written.
const EXPECTATION_TIMEOUT: Duration = Duration::from_secs(300);

/// What ReplicaSet and ReplicationController have in common.
trait Replicas: Kind {
    /// The name of the controller's queue.
    const QUEUE: &'static str;

    fn wanted(&self) -> i32;
    fn selector(&self) -> Result<LabelSelector, Status>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn min_ready_seconds(&self) -> i32;
    fn counts(&self) -> (Counts, bool);
    fn with_counts(&self, counts: &Counts, failure: Option<&Status>, now: Timestamp) -> Self;
}

/// The numbers of a status, and the generation they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    generation: i64,
}

impl Replicas for ReplicaSet {
    const QUEUE: &'static str = "replicaset";

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn selector(&self) -> Result<LabelSelector, Status> {
        pods::selector(&self.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default())
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn counts(&self) -> (Counts, bool) {
        let s = self.status.clone().unwrap_or_default();
        let failing = s.conditions.iter().flatten().any(|c| c.type_ == "ReplicaFailure");
        let counts = Counts {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            generation: s.observed_generation.unwrap_or(0),
        };
        (counts, failing)
    }
    fn with_counts(&self, c: &Counts, failure: Option<&Status>, now: Timestamp) -> Self {
        let condition = failure.map(|s| ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(s.message.clone()),
            last_transition_time: Some(Time(now)),
        });
        let mut new = self.clone();
        new.status = Some(ReplicaSetStatus {
            replicas: c.replicas,
            fully_labeled_replicas: Some(c.fully_labeled),
            ready_replicas: Some(c.ready),
            available_replicas: Some(c.available),
            observed_generation: Some(c.generation),
            conditions: condition.map(|c| vec![c]),
            terminating_replicas: None,
        });
        new
    }
}

impl Replicas for ReplicationController {
    const QUEUE: &'static str = "replicationmanager";

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn selector(&self) -> Result<LabelSelector, Status> {
        Ok(LabelSelector::from_map(&self.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default()))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn counts(&self) -> (Counts, bool) {
        let s = self.status.clone().unwrap_or_default();
        let failing = s.conditions.iter().flatten().any(|c| c.type_ == "ReplicaFailure");
        let counts = Counts {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            generation: s.observed_generation.unwrap_or(0),
        };
        (counts, failing)
    }
    fn with_counts(&self, c: &Counts, failure: Option<&Status>, now: Timestamp) -> Self {
        let condition = failure.map(|s| ReplicationControllerCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(s.message.clone()),
            last_transition_time: Some(Time(now)),
        });
        let mut new = self.clone();
        new.status = Some(ReplicationControllerStatus {
            replicas: c.replicas,
            fully_labeled_replicas: Some(c.fully_labeled),
            ready_replicas: Some(c.ready),
            available_replicas: Some(c.available),
            observed_generation: Some(c.generation),
            conditions: condition.map(|c| vec![c]),
        });
        new
    }
}

/// Writes that the cache has not shown yet, by owner key.
#[derive(Default)]
struct Expectations {
    by_key: Mutex<HashMap<String, Expected>>,
}

struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    since: tokio::time::Instant,
}

impl Expectations {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<String, Expected>) -> T) -> T {
        f(&mut self.by_key.lock().unwrap_or_else(|e| e.into_inner()))
    }
    fn satisfied(&self, key: &str) -> bool {
        self.with(|m| match m.get(key) {
            None => true,
            Some(e) => (e.creations == 0 && e.deletions.is_empty()) || e.since.elapsed() > EXPECTATION_TIMEOUT,
        })
    }
    fn expect(&self, key: &str, creations: usize, deletions: HashSet<String>) {
        self.with(|m| m.insert(key.to_owned(), Expected { creations, deletions, since: tokio::time::Instant::now() }));
    }
    fn created(&self, key: &str, n: usize) {
        self.with(|m| {
            if let Some(e) = m.get_mut(key) {
                e.creations = e.creations.saturating_sub(n);
            }
        });
    }
    fn deleted(&self, key: &str, uid: &str) {
        self.with(|m| {
            if let Some(e) = m.get_mut(key) {
                e.deletions.remove(uid);
            }
        });
    }
    fn forget(&self, key: &str) {
        self.with(|m| m.remove(key));
    }
}

struct ReplicaController<K> {
    name: &'static str,
    client: Client,
    recorder: EventRecorder,
    owners: Informer,
    pods: Informer,
    expectations: Arc<Expectations>,
    kind: std::marker::PhantomData<fn() -> K>,
}

/// Starts both controllers.
pub fn start(context: &Context) {
    start_kind::<ReplicaSet>(context, "replicaset-controller");
    start_kind::<ReplicationController>(context, "replication-controller");
}

fn start_kind<K: Replicas>(context: &Context, name: &'static str) {
    let client = (context.client_for)(name);
    let (owners, pods) = (context.informers.of::<K>(), context.informers.of::<Pod>());
    runtime::index_by_controller(&pods);
    let queue = Queue::default();
    let expectations = Arc::new(Expectations::default());
    runtime::enqueue_own(&owners, &queue);
    {
        // Orphans may be claimed by any owner in their namespace whose selector matches.
        let (queue, owners) = (queue.clone(), owners.clone());
        pods.on_change(move |c| {
            let m = c.object().meta();
            if m.owner_references.iter().any(|r| r.controller) || c.new.is_none() {
                return;
            }
            for o in owners.objects().iter().filter(|o| o.meta().namespace == m.namespace) {
                let matches = o.typed::<K>().and_then(|k| k.selector()).is_ok_and(|s| s.matches(m.labels));
                if matches {
                    queue.add(o.key().to_owned());
                }
            }
        });
    }
    {
        let expectations = expectations.clone();
        pods.on_change(move |c| {
            let m = c.object().meta();
            let Some(r) = m.owner_references.iter().find(|r| r.controller && r.kind == K::KIND) else { return };
            let key = api::key_of(m.namespace, &r.name);
            if c.old.is_none() {
                expectations.created(&key, 1);
            }
            if c.new.as_ref().is_none_or(|o| o.meta().deletion_timestamp.is_some()) {
                expectations.deleted(&key, m.uid);
            }
        });
    }
    // After the expectations: a reconcile must see the change that woke it counted.
    runtime::enqueue_controller::<K>(&pods, &queue);
    let controller = ReplicaController::<K> {
        name,
        recorder: context.recorder(&client, name),
        client,
        owners: owners.clone(),
        pods: pods.clone(),
        expectations,
        kind: std::marker::PhantomData,
    };
    runtime::run(context, Arc::new(controller), queue, vec![owners, pods], 4);
}

/// The pods to delete: those whose loss costs least.
fn victims(mut active: Vec<Arc<Pod>>, surplus: usize) -> Vec<Arc<Pod>> {
    let mut per_node: HashMap<String, usize> = HashMap::new();
    for p in &active {
        *per_node.entry(node_of(p).to_owned()).or_default() += 1;
    }
    active.sort_by_cached_key(|p| deletion_rank(p, per_node.get(node_of(p)).copied().unwrap_or(0)));
    active.truncate(surplus);
    active
}

impl<K: Replicas> ReplicaController<K> {
    async fn scale(&self, key: &str, owner: &K, active: &[Arc<Pod>]) -> Option<Status> {
        let wanted = owner.wanted().max(0) as usize;
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            let template = owner.template()?;
            self.expectations.expect(key, missing, HashSet::new());
            let pod = pods::pod_from_template(template, namespace(owner), name(owner), pods::controller_ref(owner));
            let (made, error) = pods::create_all(&self.client, vec![pod; missing]).await;
            self.expectations.created(key, missing - made.len());
            for p in &made {
                self.recorder.normal(reference(owner), "SuccessfulCreate", format!("Created pod: {}", name(&**p)));
            }
            if let Some(s) = &error {
                self.recorder.warning(reference(owner), "FailedCreate", format!("Error creating: {s}"));
            }
            return error;
        }
        if active.len() > wanted {
            let surplus = (active.len() - wanted).min(BURST);
            let doomed = victims(active.to_vec(), surplus);
            self.expectations.expect(key, 0, doomed.iter().map(|p| uid(&**p).to_owned()).collect());
            for p in &doomed {
                let options = json!({"preconditions": {"uid": uid(&**p)}});
                match self.client.delete_with::<Pod>(namespace(&**p), name(&**p), &options).await {
                    Ok(()) => self.recorder.normal(
                        reference(owner),
                        "SuccessfulDelete",
                        format!("Deleted pod: {}", name(&**p)),
                    ),
                    Err(s) => {
                        self.expectations.deleted(key, uid(&**p));
                        if !s.is_not_found() && !s.is_conflict() {
                            return Some(s);
                        }
                    }
                }
            }
        }
        None
    }
}

#[async_trait]
impl<K: Replicas> Controller for ReplicaController<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn queue(&self) -> &'static str {
        K::QUEUE
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(owner) = self.owners.get::<K>(key) else {
            self.expectations.forget(key);
            return Ok(Action::Done);
        };
        let satisfied = self.expectations.satisfied(key);
        let selector = owner.selector()?;
        let claimed = pods::claim::<K, Pod>(&self.client, &self.pods, &*owner, &selector).await?;
        let active: Vec<Arc<Pod>> = claimed.into_iter().filter(|p| is_active(p)).collect();
        let failure = if satisfied && pods::meta(&*owner).deletion_timestamp.is_none() {
            self.scale(key, &owner, &active).await
        } else {
            None
        };

        let now = Timestamp::now();
        let template_labels = owner.template().and_then(|t| t.metadata.as_ref()?.labels.clone()).unwrap_or_default();
        let mut counts = Counts {
            replicas: active.len() as i32,
            generation: pods::meta(&*owner).generation.unwrap_or(0),
            ..Default::default()
        };
        let mut look_again: Option<Duration> = None;
        for p in &active {
            let l = pods::labels(&**p);
            counts.fully_labeled += i32::from(template_labels.iter().all(|(k, v)| l.get(k) == Some(v)));
            counts.ready += i32::from(is_ready(p));
            match available(p, owner.min_ready_seconds(), now) {
                Ok(()) => counts.available += 1,
                Err(left) => look_again = [look_again, left].into_iter().flatten().min(),
            }
        }
        let (current, failing) = owner.counts();
        if counts != current || failing != failure.is_some() {
            let written = self.client.update_status(&owner.with_counts(&counts, failure.as_ref(), now)).await;
            if written.as_ref().is_err_and(Status::is_not_found) {
                // Nobody's any more: what is left is the garbage collector's.
                return Ok(Action::Done);
            }
            written?;
        }
        match failure {
            Some(s) => Err(s),
            None => Ok(look_again.map_or(Action::Done, Action::After)),
        }
    }
}
