//! DaemonSet: one pod on every node that fits (upstream: `pkg/controller/daemon`).
//!
//! Invariants: a pod is meant for one node by a node affinity on `metadata.name`, and the scheduler
//! binds it; a rolling update keeps unavailable pods within `maxUnavailable`; every template that
//! was ever current is a ControllerRevision.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::Status;
use api::affinity::{node_fits, taints, untolerated};
use api::k8s::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use api::k8s::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Toleration,
};
use api::meta::apis::meta::v1::ObjectMeta;
use api::meta::apis::meta::v1::Time;
use api::meta::runtime::RawExtension;
use api::meta::util::intstr::IntOrString;
use async_trait::async_trait;
use client::events::reference;
use client::{Client, EventRecorder, Informer};
use jiff::Timestamp;
use serde_json::json;

use crate::pod_control::{self as pods, available, is_active, is_ready, name, namespace, node_of, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "daemon-set-controller";
const HASH: &str = "controller-revision-hash";
/// Taints that daemons always tolerate, with their effects.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

struct DaemonSetController {
    client: Client,
    recorder: EventRecorder,
    sets: Informer,
    pods: Informer,
    nodes: Informer,
    revisions: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let sets = context.informers.of::<DaemonSet>();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let revisions = context.informers.of::<ControllerRevision>();
    runtime::index_by_controller(&pods);
    runtime::index_by_controller(&revisions);
    let queue = Queue::default();
    runtime::enqueue_own(&sets, &queue);
    runtime::enqueue_controller::<DaemonSet>(&pods, &queue);
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        nodes.on_change(move |c| {
            // Heartbeats change nothing here.
            let facts = |o: &Option<Arc<api::Object>>| {
                o.as_ref().and_then(|o| o.typed::<Node>().ok()).map(|n| (n.metadata.labels.clone(), n.spec.clone()))
            };
            if facts(&c.old) != facts(&c.new) {
                sets.objects().iter().for_each(|o| queue.add(o.key().to_owned()));
            }
        });
    }
    let caches = vec![sets.clone(), pods.clone(), nodes.clone(), revisions.clone()];
    let recorder = context.recorder(&client, NAME);
    let controller = DaemonSetController { client, recorder, sets, pods, nodes, revisions };
    runtime::run(context, Arc::new(controller), queue, caches, 2);
}

/// The pod spec of a template as daemons run it: with the tolerations that daemons have.
fn with_tolerations(mut spec: PodSpec) -> PodSpec {
    let host_network = spec.host_network == Some(true);
    let list = spec.tolerations.get_or_insert_default();
    let network = host_network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let t = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !list.contains(&t) {
            list.push(t);
        }
    }
    spec
}

/// Whether a daemon should run on a node, and whether one that runs there may stay.
fn decide(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == name(node));
    if !named || !node_fits(spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let run = untolerated(tolerations, taints(node), &["NoSchedule", "NoExecute"]).is_none();
    let stay = untolerated(tolerations, taints(node), &["NoExecute"]).is_none();
    (run, stay)
}

/// Ties a pod to one node by affinity, replacing the required terms as upstream does.
fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity =
        spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_with(NodeAffinity::default);
    let required =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node that a pod runs on or is pinned to.
fn target(pod: &Pod) -> String {
    if !node_of(pod).is_empty() {
        return node_of(pod).to_owned();
    }
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = terms.into_iter().flat_map(|t| &t.node_selector_terms).flat_map(|t| t.match_fields.iter().flatten());
    fields
        .filter(|f| f.key == "metadata.name")
        .flat_map(|f| f.values.clone().unwrap_or_default())
        .next()
        .unwrap_or_default()
}

fn limit(v: Option<&IntOrString>, total: usize, default: usize) -> usize {
    match v {
        None => default,
        Some(IntOrString::Int(n)) => (*n).max(0) as usize,
        Some(IntOrString::String(s)) => {
            let percent: usize = s.trim_end_matches('%').parse().unwrap_or(0);
            (total * percent).div_ceil(100)
        }
    }
}

impl DaemonSetController {
    /// The hash of the current template; its revision is made when there is none.
    async fn current_revision(&self, set: &DaemonSet, template: &PodTemplateSpec) -> Result<String, Status> {
        let data = json!({"spec": {"template": template_patch(template)?}});
        let known = self.revisions.list_by_index::<ControllerRevision>(runtime::BY_CONTROLLER, uid(set));
        let newest = known.iter().map(|r| r.revision).max().unwrap_or(0);
        if let Some(r) = known.iter().find(|r| r.data.as_ref().is_some_and(|d| d.0 == data)) {
            if r.revision < newest {
                let mut raised = (**r).clone();
                raised.revision = newest + 1;
                self.client.update(&raised).await?;
            }
            return Ok(pods::labels(&**r).get(HASH).cloned().unwrap_or_default());
        }
        let hash = pods::template_hash(template, set.status.as_ref().and_then(|s| s.collision_count));
        let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(HASH.into(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", name(set))),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: set.metadata.annotations.clone(),
                owner_references: Some(vec![pods::controller_ref(set)]),
                ..Default::default()
            },
            data: Some(RawExtension(data)),
            revision: newest + 1,
        };
        match self.client.create(&revision).await {
            Err(s) if !s.is_already_exists() => return Err(s),
            _ => {}
        }
        let keep = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10).max(0) as usize;
        let mut old: Vec<_> = known.iter().collect();
        old.sort_by_key(|r| r.revision);
        let in_use: Vec<String> = self
            .pods
            .by_index(runtime::BY_CONTROLLER, uid(set))
            .iter()
            .filter_map(|o| o.meta().labels.get(HASH).map(str::to_owned))
            .collect();
        old.retain(|r| !in_use.contains(pods::labels(&***r).get(HASH).unwrap_or(&String::new())));
        let surplus = old.len().saturating_sub(keep);
        for r in &old[..surplus] {
            pods::ignore_absent(self.client.delete::<ControllerRevision>(namespace(&***r), name(&***r)).await)?;
        }
        Ok(hash)
    }

    /// The nodes that have a pod of the set as the API has them now: the cache may not show yet
    /// what was made a moment ago, and a second pod on a node would have to go again.
    async fn live_targets(&self, set: &DaemonSet, selector: &str) -> Result<HashSet<String>, Status> {
        let params = client::ListParams {
            namespace: namespace(set).to_owned(),
            label_selector: selector.to_owned(),
            ..Default::default()
        };
        let pods = self.client.list::<Pod>(&params).await?;
        let own = pods.iter().filter(|p| p.metadata.owner_references.iter().flatten().any(|r| r.uid == uid(set)));
        Ok(own.filter(|p| is_active(p)).map(|p| target(p)).collect())
    }

    async fn create(
        &self,
        set: &DaemonSet,
        template: &PodTemplateSpec,
        hash: &str,
        nodes: &[String],
    ) -> Result<(), Status> {
        let make = |node: &String| {
            let mut pod = pods::pod_from_template(template, namespace(set), name(set), pods::controller_ref(set));
            let labels = pod.metadata.labels.get_or_insert_default();
            labels.insert(HASH.into(), hash.to_owned());
            if let Some(g) = set.metadata.generation {
                labels.insert("pod-template-generation".into(), g.to_string());
            }
            if let Some(spec) = pod.spec.as_mut() {
                pin(spec, node);
            }
            pod
        };
        let (made, error) = pods::create_all(&self.client, nodes.iter().map(make).collect()).await;
        for p in &made {
            self.recorder.normal(reference(set), "SuccessfulCreate", format!("Created pod: {}", name(&**p)));
        }
        match error {
            Some(s) => {
                self.recorder.warning(reference(set), "FailedCreate", format!("Error creating: {s}"));
                Err(s)
            }
            None => Ok(()),
        }
    }

    async fn delete(&self, set: &DaemonSet, pod: &Pod) -> Result<(), Status> {
        let options = json!({"preconditions": {"uid": uid(pod)}});
        if pods::ignore_absent(self.client.delete_with::<Pod>(namespace(pod), name(pod), &options).await)?.is_some() {
            self.recorder.normal(reference(set), "SuccessfulDelete", format!("Deleted pod: {}", name(pod)));
        }
        Ok(())
    }
}

/// A template as a ControllerRevision keeps it: `kubectl rollout undo` applies it as a patch.
fn template_patch(template: &PodTemplateSpec) -> Result<serde_json::Value, Status> {
    let mut v = serde_json::to_value(template).map_err(Status::internal)?;
    v["$patch"] = "replace".into();
    Ok(v)
}

#[async_trait]
impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "daemonset"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(set) = self.sets.get::<DaemonSet>(key) else { return Ok(Action::Done) };
        let spec = set.spec.clone().unwrap_or_default();
        let selector = pods::selector(&spec.selector)?;
        let claimed = pods::claim::<DaemonSet, Pod>(&self.client, &self.pods, &*set, &selector).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let hash = self.current_revision(&set, &spec.template).await?;
        let mut template = spec.template.clone();
        template.spec = template.spec.map(with_tolerations);
        let pod_spec = template.spec.clone().unwrap_or_default();

        let mut by_node: HashMap<String, Vec<Arc<Pod>>> = HashMap::new();
        for p in claimed {
            by_node.entry(target(&p)).or_default().push(p);
        }
        let now = Timestamp::now();
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let mut status = DaemonSetStatus {
            observed_generation: set.metadata.generation,
            collision_count: set.status.as_ref().and_then(|s| s.collision_count),
            conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
            ..Default::default()
        };
        let (mut missing, mut doomed) = (Vec::new(), Vec::new());
        let (mut outdated, mut updated, mut available_now, mut again) = (Vec::new(), 0, 0, None);
        for node in self.nodes.list::<Node>() {
            let (run, stay) = decide(&pod_spec, &node);
            let mut here = by_node.remove(name(&*node)).unwrap_or_default();
            // Finished pods make room for new ones.
            let (active, finished): (Vec<_>, Vec<_>) =
                here.drain(..).partition(|p| is_active(p) || p.metadata.deletion_timestamp.is_some());
            doomed.extend(finished.into_iter().filter(|_| run || !stay));
            let mut live: Vec<Arc<Pod>> = active.into_iter().filter(|p| is_active(p)).collect();
            live.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|Time(t)| t.as_nanosecond()));
            if !stay {
                status.number_misscheduled += live.len() as i32;
                doomed.extend(live);
                continue;
            }
            if !run {
                status.number_misscheduled += i32::from(!live.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = live.first().cloned() else {
                let leaving = self.pods.by_index(runtime::BY_CONTROLLER, uid(&*set)).iter().any(|o| {
                    o.meta().deletion_timestamp.is_some() && o.typed::<Pod>().is_ok_and(|p| target(&p) == name(&*node))
                });
                if !leaving {
                    missing.push(name(&*node).to_owned());
                }
                continue;
            };
            doomed.extend(live.drain(1..));
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(is_ready(&pod));
            let is_available = match available(&pod, min_ready, now) {
                Ok(()) => true,
                Err(left) => {
                    again = [again, left].into_iter().flatten().min();
                    false
                }
            };
            available_now += usize::from(is_available);
            if pods::labels(&*pod).get(HASH) == Some(&hash) {
                updated += 1;
            } else {
                outdated.push((is_available, pod));
            }
        }
        doomed.extend(by_node.into_values().flatten().filter(|p| p.metadata.deletion_timestamp.is_none()));
        let rolling = spec.update_strategy.as_ref().and_then(|u| u.type_.as_deref()) != Some("OnDelete");
        let total = status.desired_number_scheduled as usize;
        if rolling {
            let max = spec
                .update_strategy
                .as_ref()
                .and_then(|u| u.rolling_update.as_ref())
                .and_then(|r| r.max_unavailable.as_ref());
            let max = limit(max, total, 1).max(1);
            let mut room = max.saturating_sub(total - available_now);
            // Pods that are not available cost nothing to replace.
            for (is_available, pod) in outdated {
                if !is_available {
                    doomed.push(pod);
                } else if room > 0 {
                    room -= 1;
                    doomed.push(pod);
                }
            }
        }
        for pod in &doomed {
            self.delete(&set, pod).await?;
        }
        if !missing.is_empty() {
            let taken = self.live_targets(&set, &selector.to_string()).await?;
            missing.retain(|node| !taken.contains(node));
        }
        let created = self.create(&set, &template, &hash, &missing).await;
        status.updated_number_scheduled = Some(updated);
        status.number_available = Some(available_now as i32);
        status.number_unavailable = Some((total - available_now.min(total)) as i32);
        let mut before = set.status.clone().unwrap_or_default();
        // The API shows none of these counters when it is zero.
        for counter in
            [&mut before.updated_number_scheduled, &mut before.number_available, &mut before.number_unavailable]
        {
            counter.get_or_insert(0);
        }
        if status != before {
            let patch = json!({"status": status});
            pods::ignore_absent(
                self.client
                    .patch::<DaemonSet>(namespace(&*set), name(&*set), "status", client::PatchKind::Merge, &patch)
                    .await,
            )?;
        }
        created?;
        Ok(again.map_or(Action::Done, Action::After))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_pod_names_its_node_and_an_unready_node_keeps_its_daemon() {
        let mut spec = with_tolerations(PodSpec::default());
        pin(&mut spec, "n1");
        let pod = Pod { spec: Some(spec.clone()), ..Default::default() };
        assert_eq!(target(&pod), "n1");
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}}))
        .unwrap();
        assert_eq!(decide(&spec, &node), (true, true));
        let other: Node = serde_json::from_value(json!({"metadata": {"name": "n2"}})).unwrap();
        assert_eq!(decide(&spec, &other), (false, false));
    }
}
