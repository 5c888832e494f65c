//! Deployment: rolls pods from one template to the next through ReplicaSets
//! (upstream: `pkg/controller/deployment`).
//!
//! Invariants: at most `replicas + maxSurge` pods exist and at least `replicas - maxUnavailable`
//! are available as far as this controller decides; a ReplicaSet belongs to one template and one
//! revision; old ReplicaSets are kept up to `revisionHistoryLimit`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use api::k8s::core::v1::{Pod, PodTemplateSpec};
use api::meta::apis::meta::v1::{ObjectMeta, Time};
use async_trait::async_trait;
use client::api::PatchKind;
use client::events::reference;
use client::{Client, EventRecorder, Informer};
use jiff::Timestamp;
use serde_json::json;

use crate::pod_control::{self as pods, name, namespace, scaled};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "deployment-controller";
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a deployment that its ReplicaSets do not take over.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

struct DeploymentController {
    client: Client,
    recorder: EventRecorder,
    deployments: Informer,
    sets: Informer,
    pods: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    runtime::index_by_controller(&sets);
    let queue = Queue::default();
    runtime::enqueue_own(&deployments, &queue);
    runtime::enqueue_controller::<Deployment>(&sets, &queue);
    {
        // Recreate waits for the last old pod to go.
        let (queue, sets) = (queue.clone(), sets.clone());
        pods.on_change(move |c| {
            let m = c.object().meta();
            if c.new.is_some() {
                return;
            }
            let Some(owner) = m.owner_references.iter().find(|r| r.controller && r.kind == "ReplicaSet") else {
                return;
            };
            if let Some(set) = sets.object(&api::key_of(m.namespace, &owner.name))
                && let Some(d) = set.meta().owner_references.iter().find(|r| r.controller)
            {
                queue.add(api::key_of(m.namespace, &d.name));
            }
        });
    }
    let controller = DeploymentController {
        recorder: context.recorder(&client, NAME),
        client,
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    };
    runtime::run(context, Arc::new(controller), queue, vec![deployments, sets, pods], 4);
}

fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

fn revision(m: &ObjectMeta) -> i64 {
    m.annotations.as_ref().and_then(|a| a.get(REVISION)).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn created(rs: &ReplicaSet) -> (i64, String) {
    let t = rs.metadata.creation_timestamp.as_ref().map_or(0, |Time(t)| t.as_second());
    (t, name(rs).to_owned())
}

/// `(maxSurge, maxUnavailable)` of a rolling update; both zero would stand still, then one may
/// be unavailable.
fn budget(d: &Deployment) -> (i32, i32) {
    let Some(spec) = &d.spec else { return (1, 0) };
    let total = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).map_or(0, |v| scaled(v, total, true));
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(0, |v| scaled(v, total, false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(total)) }
}

fn is_rolling(d: &Deployment) -> bool {
    let kind = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    kind != Some("Recreate")
}

fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let clean = |t: &PodTemplateSpec| {
        let mut t = t.clone();
        if let Some(l) = t.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            l.remove(HASH_LABEL);
        }
        t
    };
    clean(a) == clean(b)
}

/// Spreads `delta` over the sets in proportion to their size: a scaling in the middle of a
/// rollout grows or shrinks old and new alike. Returns the new sizes.
fn proportional(sizes: &[i32], delta: i32) -> Vec<i32> {
    let total: i32 = sizes.iter().sum();
    let mut new: Vec<i32> = sizes.to_vec();
    if total == 0 || delta == 0 {
        return new;
    }
    let mut left = delta;
    for (i, size) in sizes.iter().enumerate() {
        let share = ((i64::from(*size) * i64::from(delta)) as f64 / f64::from(total)).round() as i32;
        let share = if delta > 0 { share.min(left).max(0) } else { share.max(left).max(-size).min(0) };
        new[i] += share;
        left -= share;
    }
    // What rounding left over goes to the largest.
    if let Some((i, _)) = sizes.iter().enumerate().max_by_key(|(_, s)| **s) {
        new[i] = (new[i] + left).max(0);
    }
    new
}

/// How many pods the new set should have next in a rolling update.
fn grow_to(wanted: i32, surge: i32, new: i32, all: i32) -> i32 {
    let room = (wanted + surge - all).max(0);
    if new >= wanted { wanted } else { new + room.min(wanted - new) }
}

/// What the old sets (size, available), oldest first, should shrink to next in a rolling update.
fn shrink_to(wanted: i32, unavailable: i32, new: (i32, i32), old: &[(i32, i32)]) -> Vec<i32> {
    let all: i32 = new.0 + old.iter().map(|o| o.0).sum::<i32>();
    let minimum = wanted - unavailable;
    let new_unavailable = new.0 - new.1;
    let mut may_go = (all - minimum - new_unavailable).max(0);
    let mut sizes: Vec<i32> = old.iter().map(|o| o.0).collect();
    // Unhealthy pods of old sets go first: they block nothing.
    for (size, (before, ready)) in sizes.iter_mut().zip(old) {
        let sick = (before - ready).max(0).min(may_go);
        *size -= sick;
        may_go -= sick;
    }
    let all_available: i32 = new.1 + old.iter().map(|o| o.1).sum::<i32>();
    let mut healthy_may_go = (all_available - minimum).max(0);
    for size in &mut sizes {
        let n = (*size).min(healthy_may_go).max(0);
        *size -= n;
        healthy_may_go -= n;
    }
    sizes
}

/// Everything about one deployment at one moment.
struct View {
    deployment: Arc<Deployment>,
    new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

impl View {
    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.iter())
    }
    fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
}

impl DeploymentController {
    async fn view(&self, d: Arc<Deployment>) -> Result<View, Status> {
        let spec = d.spec.clone().unwrap_or_default();
        let selector = pods::selector(&spec.selector)?;
        let mut sets = pods::claim::<Deployment, ReplicaSet>(&self.client, &self.sets, &*d, &selector).await?;
        sets.sort_by_key(|r| created(r));
        let new = sets
            .iter()
            .find(|r| {
                r.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, &spec.template))
            })
            .cloned();
        let old = sets.into_iter().filter(|r| new.as_ref().is_none_or(|n| n.metadata.uid != r.metadata.uid)).collect();
        Ok(View { deployment: d, new, old })
    }

    /// Annotations that a set takes over from its deployment, with its revision.
    fn annotations(&self, v: &View, revision_now: i64, existing: Option<&ReplicaSet>) -> BTreeMap<String, String> {
        let mut a = existing.and_then(|r| r.metadata.annotations.clone()).unwrap_or_default();
        for (k, value) in v.deployment.metadata.annotations.iter().flatten() {
            if !NOT_COPIED.contains(&k.as_str()) {
                a.insert(k.clone(), value.clone());
            }
        }
        let before = a.get(REVISION).cloned();
        let now = revision_now.to_string();
        if let Some(b) = before.filter(|b| *b != now) {
            let history = a.get(REVISION_HISTORY).map(|h| format!("{h},{b}")).unwrap_or(b);
            a.insert(REVISION_HISTORY.into(), history);
        }
        a.insert(REVISION.into(), now);
        self.size_annotations(v, &mut a);
        a
    }

    fn size_annotations(&self, v: &View, a: &mut BTreeMap<String, String>) {
        let surge = if is_rolling(&v.deployment) { budget(&v.deployment).0 } else { 0 };
        a.insert(DESIRED.into(), v.wanted().to_string());
        a.insert(MAX.into(), (v.wanted() + surge).to_string());
    }

    /// Makes sure that the new set exists and carries its revision.
    async fn ensure_new(&self, v: &mut View) -> Result<(), Status> {
        let newest_old = v.old.iter().map(|r| revision(&r.metadata)).max().unwrap_or(0);
        let d = v.deployment.clone();
        if let Some(new) = v.new.clone() {
            let current = revision(&new.metadata);
            let revision_now = if current > newest_old { current } else { newest_old + 1 };
            let wanted = self.annotations(v, revision_now, Some(&new));
            let min_ready = d.spec.as_ref().and_then(|s| s.min_ready_seconds);
            let same_ready = new.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) == min_ready.unwrap_or(0);
            if new.metadata.annotations.as_ref() != Some(&wanted) || !same_ready {
                let mut changed = (*new).clone();
                changed.metadata.annotations = Some(wanted);
                if let Some(s) = changed.spec.as_mut() {
                    s.min_ready_seconds = min_ready;
                }
                v.new = Some(self.client.update(&changed).await?);
            }
            return self.set_revision(&d, revision_now).await;
        }
        let spec = d.spec.clone().unwrap_or_default();
        let collisions = d.status.as_ref().and_then(|s| s.collision_count);
        let hash = pods::template_hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH_LABEL.into(), hash.clone());
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let size = if is_rolling(&d) {
            grow_to(v.wanted(), budget(&d).0, 0, v.old.iter().map(|r| replicas(r)).sum())
        } else {
            v.wanted()
        };
        let rs = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", name(&*d))),
                namespace: d.metadata.namespace.clone(),
                labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
                annotations: Some(self.annotations(v, newest_old + 1, None)),
                owner_references: Some(vec![pods::controller_ref(&*d)]),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        match self.client.create(&rs).await {
            Ok(made) => {
                let message = format!("Scaled up replica set {} from 0 to {size}", name(&*made));
                if size > 0 {
                    self.recorder.normal(reference(&*d), "ScalingReplicaSet", message);
                }
                v.new = Some(made);
                self.set_revision(&d, newest_old + 1).await
            }
            Err(s) if s.is_already_exists() => {
                // Ours, not yet in the cache, or a collision of hashes: then another hash next time.
                let existing = self
                    .client
                    .get::<ReplicaSet>(namespace(&*d), rs.metadata.name.as_deref().unwrap_or_default())
                    .await?;
                let ours = existing
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|r| Some(&r.uid) == d.metadata.uid.as_ref());
                let same = existing
                    .spec
                    .as_ref()
                    .and_then(|s| s.template.as_ref())
                    .is_some_and(|t| same_template(t, &spec.template));
                if !(ours && same) {
                    let patch = json!({"status": {"collisionCount": collisions.unwrap_or(0) + 1}});
                    self.client
                        .patch::<Deployment>(namespace(&*d), name(&*d), "status", PatchKind::Merge, &patch)
                        .await?;
                }
                Err(Status::stale("apps", "replicasets", rs.metadata.name.as_deref().unwrap_or_default()))
            }
            Err(s) => Err(s),
        }
    }

    async fn set_revision(&self, d: &Deployment, revision_now: i64) -> Result<(), Status> {
        if revision(&d.metadata) == revision_now {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {REVISION: revision_now.to_string()}}});
        // With the status, as upstream: the generation counts what users change.
        self.client.patch::<Deployment>(namespace(d), name(d), "status", PatchKind::Merge, &patch).await?;
        Ok(())
    }

    /// Sets a set's size and says so.
    async fn scale(&self, v: &View, rs: &Arc<ReplicaSet>, to: i32) -> Result<Arc<ReplicaSet>, Status> {
        let from = replicas(rs);
        let mut changed = (**rs).clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        let before = annotations.clone();
        self.size_annotations(v, annotations);
        if from == to && before == *annotations {
            return Ok(rs.clone());
        }
        if let Some(s) = changed.spec.as_mut() {
            s.replicas = Some(to);
        }
        let updated = self.client.update(&changed).await?;
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {} from {from} to {to}", name(&**rs));
            self.recorder.normal(reference(&*v.deployment), "ScalingReplicaSet", message);
        }
        Ok(updated)
    }

    /// Whether the deployment's size has changed since its sets were last scaled.
    fn is_scaling(&self, v: &View) -> bool {
        v.all().filter(|r| replicas(r) > 0).any(|r| {
            let desired =
                r.metadata.annotations.as_ref().and_then(|a| a.get(DESIRED)).and_then(|d| d.parse::<i32>().ok());
            desired.is_some_and(|d| d != v.wanted())
        })
    }

    async fn scale_all(&self, v: &mut View) -> Result<(), Status> {
        let active: Vec<Arc<ReplicaSet>> = v.all().filter(|r| replicas(r) > 0).cloned().collect();
        let targets = match active.as_slice() {
            [] => match &v.new {
                Some(n) => vec![(n.clone(), v.wanted())],
                None => Vec::new(),
            },
            [only] => vec![(only.clone(), v.wanted())],
            many if is_rolling(&v.deployment) => {
                let sizes: Vec<i32> = many.iter().map(|r| replicas(r)).collect();
                let allowed = if v.wanted() > 0 { v.wanted() + budget(&v.deployment).0 } else { 0 };
                let delta = allowed - sizes.iter().sum::<i32>();
                many.iter().cloned().zip(proportional(&sizes, delta)).collect()
            }
            _ => Vec::new(),
        };
        for (rs, size) in targets {
            let updated = self.scale(v, &rs, size).await?;
            replace(v, updated);
        }
        Ok(())
    }

    async fn roll(&self, v: &mut View) -> Result<(), Status> {
        let (surge, unavailable) = budget(&v.deployment);
        let Some(new) = v.new.clone() else { return Ok(()) };
        let all: i32 = v.all().map(|r| replicas(r)).sum();
        let size = grow_to(v.wanted(), surge, replicas(&new), all);
        if size != replicas(&new) {
            let updated = self.scale(v, &new, size).await?;
            replace(v, updated);
            return Ok(());
        }
        let old: Vec<(i32, i32)> = v.old.iter().map(|r| (replicas(r), available(r))).collect();
        let sizes = shrink_to(v.wanted(), unavailable, (replicas(&new), available(&new)), &old);
        for (rs, size) in v.old.clone().iter().zip(sizes) {
            if replicas(rs) != size {
                let updated = self.scale(v, rs, size).await?;
                replace(v, updated);
            }
        }
        Ok(())
    }

    async fn recreate(&self, v: &mut View) -> Result<(), Status> {
        for rs in v.old.clone() {
            if replicas(&rs) > 0 {
                let updated = self.scale(v, &rs, 0).await?;
                replace(v, updated);
            }
        }
        let old: Vec<&str> = v.old.iter().map(|r| pods::uid(&**r)).collect();
        let running = self.pods.objects().iter().any(|o| {
            let finished = || o.typed::<Pod>().is_ok_and(|p| matches!(pods::phase(&p), "Succeeded" | "Failed"));
            o.meta().owner_references.iter().any(|r| old.contains(&r.uid.as_str())) && !finished()
        });
        if running {
            return Ok(());
        }
        if v.new.is_none() {
            self.ensure_new(v).await?;
        }
        if let Some(new) = v.new.clone() {
            let updated = self.scale(v, &new, v.wanted()).await?;
            replace(v, updated);
        }
        Ok(())
    }

    async fn clean_up(&self, v: &View) -> Result<(), Status> {
        let Some(limit) = v.deployment.spec.as_ref().and_then(|s| s.revision_history_limit) else { return Ok(()) };
        let mut idle: Vec<&Arc<ReplicaSet>> = v
            .old
            .iter()
            .filter(|r| replicas(r) == 0 && actual(r) == 0 && r.metadata.deletion_timestamp.is_none())
            .collect();
        idle.sort_by_key(|r| revision(&r.metadata));
        let surplus = idle.len().saturating_sub(limit.max(0) as usize);
        for rs in &idle[..surplus] {
            pods::ignore_absent(self.client.delete::<ReplicaSet>(namespace(&***rs), name(&***rs)).await)?;
        }
        Ok(())
    }

    fn status(&self, v: &View, now: Timestamp) -> DeploymentStatus {
        let d = &v.deployment;
        let before = d.status.clone().unwrap_or_default();
        let total: i32 = v.all().map(|r| actual(r)).sum();
        let ready: i32 = v.all().map(|r| r.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)).sum();
        let available_now: i32 = v.all().map(|r| available(r)).sum();
        let updated = v.new.as_ref().map_or(0, |r| actual(r));
        let mut conditions = before.conditions.clone().unwrap_or_default();
        let unavailable = if is_rolling(d) { budget(d).1 } else { 0 };
        let enough = available_now >= v.wanted() - unavailable;
        let (status, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set_condition(&mut conditions, condition("Available", status, reason, message.into(), now), false);

        let complete = updated == v.wanted() && total == v.wanted() && available_now == v.wanted();
        let progressed = updated > before.updated_replicas.unwrap_or(0)
            || total < before.replicas.unwrap_or(0)
            || ready > before.ready_replicas.unwrap_or(0)
            || available_now > before.available_replicas.unwrap_or(0);
        let deadline = d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|s| *s != i32::MAX);
        let set_name = v.new.as_ref().map(|r| name(&**r).to_owned());
        let subject =
            set_name.as_ref().map_or_else(|| format!("Deployment {:?}", name(&**d)), |n| format!("ReplicaSet {n:?}"));
        let progressing = conditions.iter().find(|c| c.type_ == "Progressing").cloned();
        if d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false) {
            let c = condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into(), now);
            set_condition(&mut conditions, c, false);
        } else if complete {
            let c = condition(
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                format!("{subject} has successfully progressed."),
                now,
            );
            set_condition(&mut conditions, c, false);
        } else if progressed
            || progressing
                .as_ref()
                .is_none_or(|c| matches!(c.reason.as_deref(), Some("NewReplicaSetAvailable" | "DeploymentPaused")))
        {
            let c = condition("Progressing", "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            set_condition(&mut conditions, c, true);
        } else if let (Some(limit), Some(p)) = (deadline, progressing) {
            let since = p.last_update_time.as_ref().map_or(now, |Time(t)| *t);
            if now.as_second() - since.as_second() >= i64::from(limit) {
                let c = condition(
                    "Progressing",
                    "False",
                    "ProgressDeadlineExceeded",
                    format!("{subject} has timed out progressing."),
                    now,
                );
                set_condition(&mut conditions, c, false);
            }
        }
        let failure = v
            .all()
            .flat_map(|r| r.status.iter().flat_map(|s| s.conditions.iter().flatten()))
            .find(|c| c.type_ == "ReplicaFailure");
        conditions.retain(|c| c.type_ != "ReplicaFailure" || failure.is_some());
        if let Some(f) = failure {
            let c = condition(
                "ReplicaFailure",
                "True",
                f.reason.as_deref().unwrap_or_default(),
                f.message.clone().unwrap_or_default(),
                now,
            );
            set_condition(&mut conditions, c, false);
        }
        DeploymentStatus {
            observed_generation: d.metadata.generation,
            replicas: Some(total),
            updated_replicas: Some(updated),
            ready_replicas: Some(ready),
            available_replicas: Some(available_now),
            unavailable_replicas: Some(
                (v.all().map(|r| replicas(r)).sum::<i32>().max(v.wanted()) - available_now).max(0),
            ),
            collision_count: before.collision_count,
            terminating_replicas: None,
            conditions: Some(conditions),
        }
    }
}

fn replace(v: &mut View, updated: Arc<ReplicaSet>) {
    let same = |r: &Arc<ReplicaSet>| r.metadata.uid == updated.metadata.uid;
    if v.new.as_ref().is_some_and(same) {
        v.new = Some(updated);
    } else if let Some(slot) = v.old.iter_mut().find(|r| same(r)) {
        *slot = updated;
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition; one that says the same keeps its times unless `touch` is set.
fn set_condition(list: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition, touch: bool) {
    match list.iter_mut().find(|c| c.type_ == new.type_) {
        Some(c) if c.status == new.status && c.reason == new.reason && !touch => c.message = new.message,
        Some(c) => {
            if c.status == new.status {
                new.last_transition_time = c.last_transition_time.clone();
            }
            *c = new;
        }
        None => list.push(new),
    }
}

#[async_trait]
impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "deployment"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(d) = self.deployments.get::<Deployment>(key) else { return Ok(Action::Done) };
        let mut v = self.view(d).await?;
        let d = v.deployment.clone();
        let deleting = d.metadata.deletion_timestamp.is_some();
        let paused = d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
        if !deleting {
            if paused {
                self.scale_all(&mut v).await?;
            } else {
                if is_rolling(&d) || v.new.is_some() {
                    self.ensure_new(&mut v).await?;
                }
                if self.is_scaling(&v) {
                    self.scale_all(&mut v).await?;
                } else if is_rolling(&d) {
                    self.roll(&mut v).await?;
                } else {
                    self.recreate(&mut v).await?;
                }
            }
            self.clean_up(&v).await?;
        }
        let status = self.status(&v, Timestamp::now());
        let mut before = d.status.clone().unwrap_or_default();
        // The API shows no counter that is zero.
        for counter in [
            &mut before.replicas,
            &mut before.updated_replicas,
            &mut before.ready_replicas,
            &mut before.available_replicas,
            &mut before.unavailable_replicas,
        ] {
            counter.get_or_insert(0);
        }
        if status != before {
            let body = json!({"status": serde_json::to_value(&status).map_err(Status::internal)?});
            pods::ignore_absent(
                self.client.patch::<Deployment>(namespace(&*d), name(&*d), "status", PatchKind::Merge, &body).await,
            )?;
        }
        // Only time tells when progress is overdue.
        let open = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("ReplicaSetUpdated"));
        let deadline = d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|s| *s != i32::MAX);
        if let (Some(c), Some(limit)) = (open, deadline) {
            let since = c.last_update_time.as_ref().map_or(0, |Time(t)| t.as_second());
            let left = since + i64::from(limit) - Timestamp::now().as_second();
            return Ok(Action::After(Duration::from_secs(left.max(1) as u64)));
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolling_update_never_leaves_its_budget() {
        // Simulates pods that become available one step later, for many shapes of budget.
        for (wanted, surge, unavailable) in [(10, 3, 2), (1, 1, 0), (3, 0, 1), (5, 5, 0), (4, 1, 1)] {
            let (mut old, mut new) = (wanted, 0);
            for _ in 0..100 {
                let size = grow_to(wanted, surge, new, old + new);
                if size != new {
                    assert!(old + size <= wanted + surge);
                    new = size;
                } else {
                    old = shrink_to(wanted, unavailable, (new, new), &[(old, old)])[0];
                    assert!(old + new >= wanted - unavailable);
                }
            }
            assert_eq!((old, new), (0, wanted));
        }
    }

    #[test]
    fn sick_old_pods_go_first_and_healthy_ones_stay_while_the_new_are_not_ready() {
        // 10 wanted, 2 may be missing; 8 old of which 3 are sick, 5 new of which none is ready.
        assert_eq!(shrink_to(10, 2, (5, 0), &[(8, 5)]), vec![8]);
        assert_eq!(shrink_to(10, 2, (3, 3), &[(10, 7)]), vec![7 - 2]);
    }

    #[test]
    fn scaling_in_a_rollout_is_shared_in_proportion() {
        assert_eq!(proportional(&[8, 5], 13), vec![16, 10]);
        assert_eq!(proportional(&[8, 5], -13), vec![0, 0]);
        assert_eq!(proportional(&[3, 3, 3], 1).iter().sum::<i32>(), 10);
    }
}
