//! PodDisruptionBudget: how many of the pods that a budget selects may be disrupted now
//! (upstream: `pkg/controller/disruption`). The eviction subresource takes from that number.
//!
//! Invariants: while the number cannot be told, it is 0; a pod whose eviction was granted counts
//! as gone until it is, or for [`DELETION_TIMEOUT`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use api::k8s::core::v1::{Pod, ReplicationController};
use api::k8s::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use api::meta::apis::meta::v1::{Condition, OwnerReference, Time};
use api::meta::util::intstr::IntOrString;
use api::selector::LabelSelector;
use async_trait::async_trait;
use client::events::reference;
use client::{Client, EventRecorder, Informer, Kind};
use jiff::Timestamp;

use crate::endpointslice::{index_by_namespace, selected};
use crate::pod_control::{self as pods, is_ready, name, namespace, scaled, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

/// Also the name of the account.
pub(crate) const NAME: &str = "disruption-controller";
/// How long a granted eviction may take to show.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

struct Disruption {
    client: Client,
    recorder: EventRecorder,
    budgets: Informer,
    pods: Informer,
    owners: Owners,
}

/// The workloads that pods are counted by.
struct Owners {
    deployments: Informer,
    replica_sets: Informer,
    replication_controllers: Informer,
    stateful_sets: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let budgets = context.informers.of::<PodDisruptionBudget>();
    let pods = context.informers.of::<Pod>();
    let owners = Owners {
        deployments: context.informers.of::<Deployment>(),
        replica_sets: context.informers.of::<ReplicaSet>(),
        replication_controllers: context.informers.of::<ReplicationController>(),
        stateful_sets: context.informers.of::<StatefulSet>(),
    };
    index_by_namespace(&pods);
    let queue = Queue::default();
    runtime::enqueue_own(&budgets, &queue);
    enqueue_budgets_of_pods(&pods, &budgets, &queue);
    let caches = vec![
        budgets.clone(),
        pods.clone(),
        owners.deployments.clone(),
        owners.replica_sets.clone(),
        owners.replication_controllers.clone(),
        owners.stateful_sets.clone(),
    ];
    let recorder = context.recorder(&client, "controllermanager");
    runtime::run(context, Arc::new(Disruption { client, recorder, budgets, pods, owners }), queue, caches, 1);
}

fn enqueue_budgets_of_pods(pods: &Informer, budgets: &Informer, queue: &Queue) {
    let (queue, budgets) = (queue.clone(), budgets.clone());
    pods.on_change(move |c| {
        for o in [&c.old, &c.new].into_iter().flatten() {
            let m = o.meta();
            for b in budgets.objects().iter().filter(|b| b.meta().namespace == m.namespace) {
                let Ok(budget) = b.typed::<PodDisruptionBudget>() else { continue };
                if selector_of(&budget).is_ok_and(|s| s.matches(m.labels)) {
                    queue.add(b.key().to_owned());
                }
            }
        }
    });
}

fn selector_of(budget: &PodDisruptionBudget) -> Result<LabelSelector, Status> {
    match budget.spec.as_ref().and_then(|s| s.selector.as_ref()) {
        Some(s) => pods::selector(s),
        None => Ok(LabelSelector::nothing()),
    }
}

fn controller_of<K: Kind>(object: &K) -> Option<&OwnerReference> {
    object.metadata().owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

impl Owners {
    /// The object of a reference, if it is the very one.
    fn find<K: Kind>(informer: &Informer, namespace: &str, r: &OwnerReference) -> Option<Arc<K>> {
        informer.get::<K>(&api::key_of(namespace, &r.name)).filter(|k| uid(&**k) == r.uid)
    }

    /// The workload behind a pod's controller and the replicas that it wants.
    fn scale(&self, namespace: &str, r: &OwnerReference) -> Option<(String, i32)> {
        let group = r.api_version.split_once('/').map_or("", |(g, _)| g);
        match (group, r.kind.as_str()) {
            ("", "ReplicationController") => {
                let c = Self::find::<ReplicationController>(&self.replication_controllers, namespace, r)?;
                Some((r.uid.clone(), c.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            ("apps", "ReplicaSet") => {
                let set = Self::find::<ReplicaSet>(&self.replica_sets, namespace, r)?;
                match controller_of(&*set).filter(|d| d.kind == "Deployment") {
                    Some(d) => {
                        let owner = Self::find::<Deployment>(&self.deployments, namespace, d)?;
                        Some((d.uid.clone(), owner.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
                    }
                    None => Some((r.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))),
                }
            }
            ("apps", "StatefulSet") => {
                let set = Self::find::<StatefulSet>(&self.stateful_sets, namespace, r)?;
                Some((r.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// The replicas that the controllers of the pods want in all, and the pods without one.
    fn expected(&self, pods: &[Arc<Pod>]) -> Result<(i32, usize), String> {
        let (mut scales, mut unmanaged) = (HashMap::new(), 0);
        for pod in pods {
            let Some(r) = controller_of(&**pod) else {
                unmanaged += 1;
                continue;
            };
            let found = self.scale(namespace(&**pod), r);
            let (uid, replicas) = found.ok_or_else(|| format!("found no controllers for pod {:?}", name(&**pod)))?;
            scales.insert(uid, replicas);
        }
        Ok((scales.values().sum(), unmanaged))
    }
}

/// What a budget wants: pods that count, and how many of them must be healthy.
struct Wanted {
    expected: i32,
    healthy: i32,
    unmanaged: usize,
}

impl Disruption {
    fn wanted(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Wanted, String> {
        let Some(spec) = &budget.spec else { return Ok(Wanted { expected: 0, healthy: 0, unmanaged: 0 }) };
        Ok(match (&spec.max_unavailable, &spec.min_available) {
            (Some(most), _) => {
                let (expected, unmanaged) = self.owners.expected(pods)?;
                Wanted { expected, healthy: (expected - scaled(most, expected, true)).max(0), unmanaged }
            }
            (None, Some(IntOrString::Int(n))) => Wanted { expected: pods.len() as i32, healthy: *n, unmanaged: 0 },
            (None, Some(least)) => {
                let (expected, unmanaged) = self.owners.expected(pods)?;
                Wanted { expected, healthy: scaled(least, expected, true), unmanaged }
            }
            (None, None) => Wanted { expected: 0, healthy: 0, unmanaged: 0 },
        })
    }

    async fn write(&self, budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Result<(), Status> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut new = budget.clone();
        new.status = Some(status);
        match self.client.update_status(&new).await {
            Err(s) if s.is_not_found() => Ok(()),
            r => r.map(drop),
        }
    }
}

#[async_trait]
impl Controller for Disruption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "disruption"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(budget) = self.budgets.get::<PodDisruptionBudget>(key) else { return Ok(Action::Done) };
        let now = Timestamp::now();
        let selector = selector_of(&budget)?;
        let pods = selected(&self.pods, namespace(&*budget), &selector);
        if pods.is_empty() {
            self.recorder.normal(reference(&*budget), "NoPods", "No matching pods found");
        }
        let wanted = match self.wanted(&budget, &pods) {
            Ok(w) => w,
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.warning(reference(&*budget), "CalculateExpectedPodCountFailed", message);
                self.write(&budget, unknown(&budget, why, now)).await?;
                return Ok(Action::Done);
            }
        };
        if wanted.unmanaged > 0 {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.recorder.warning(reference(&*budget), "UnmanagedPods", message);
        }
        let (status, look_again) = decide(&budget, &pods, &wanted, now);
        self.write(&budget, status).await?;
        Ok(look_again.map_or(Action::Done, Action::After))
    }
}

/// The status of a budget, and when granted evictions are to be looked at again.
fn decide(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    wanted: &Wanted,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let old = budget.status.clone().unwrap_or_default();
    let granted = old.disrupted_pods.clone().unwrap_or_default();
    let (mut disrupted, mut look_again, mut healthy) = (BTreeMap::new(), None, 0);
    for pod in pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let since = granted.get(name(&**pod));
        let left = since.map(|Time(t)| t.as_second() + DELETION_TIMEOUT.as_secs() as i64 - now.as_second());
        match (since, left.filter(|l| *l > 0)) {
            (Some(since), Some(left)) => {
                disrupted.insert(name(&**pod).to_owned(), since.clone());
                let left = Duration::from_secs(left as u64);
                look_again = [look_again, Some(left)].into_iter().flatten().min();
            }
            _ => healthy += i32::from(is_ready(pod)),
        }
    }
    // A budget that no pod counts for yet allows nothing: its first pods may be on their way.
    let allowed = if wanted.expected > 0 { (healthy - wanted.healthy).max(0) } else { 0 };
    let generation = budget.metadata.generation;
    let (is, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(with_condition(&old, is, reason, String::new(), generation, now)),
        current_healthy: healthy,
        desired_healthy: wanted.healthy,
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: allowed,
        expected_pods: wanted.expected,
        observed_generation: generation,
    };
    (status, look_again)
}

/// The status while the number of pods cannot be told: nothing may be disrupted.
fn unknown(budget: &PodDisruptionBudget, why: String, now: Timestamp) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let conditions = with_condition(&old, "False", "SyncFailed", why, old.observed_generation, now);
    PodDisruptionBudgetStatus { conditions: Some(conditions), disruptions_allowed: 0, ..old }
}

fn with_condition(
    old: &PodDisruptionBudgetStatus,
    is: &str,
    reason: &str,
    message: String,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all = old.conditions.clone().unwrap_or_default();
    let at = all.iter().position(|c| c.type_ == ALLOWED);
    let since = at.map(|i| all.remove(i)).filter(|c| c.status == is).map(|c| c.last_transition_time);
    let condition = Condition {
        type_: ALLOWED.into(),
        status: is.into(),
        reason: reason.into(),
        message,
        observed_generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    all.insert(at.unwrap_or(all.len()), condition);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let v = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn budget(status: serde_json::Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 2}, "status": status})).unwrap()
    }

    fn none() -> serde_json::Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    }

    #[test]
    fn what_is_healthy_beyond_what_must_be_may_be_disrupted() {
        let wanted = Wanted { expected: 3, healthy: 1, unmanaged: 0 };
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let (s, again) = decide(&budget(none()), &pods, &wanted, Timestamp::now());
        assert_eq!((s.current_healthy, s.disruptions_allowed, s.observed_generation), (2, 1, Some(2)));
        assert_eq!(again, None);
        let nobody = Wanted { expected: 0, healthy: 0, unmanaged: 0 };
        assert_eq!(decide(&budget(none()), &pods, &nobody, Timestamp::now()).0.disruptions_allowed, 0);
    }

    #[test]
    fn a_granted_eviction_counts_until_it_is_overdue() {
        let now: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
        let mut status = none();
        status["disruptedPods"] = json!({"a": "2026-01-01T00:01:00Z", "b": "2025-12-31T00:00:00Z"});
        let wanted = Wanted { expected: 2, healthy: 1, unmanaged: 0 };
        let (s, again) = decide(&budget(status), &[pod("a", true), pod("b", true)], &wanted, now);
        assert_eq!((s.current_healthy, s.disruptions_allowed), (1, 0));
        assert_eq!(s.disrupted_pods.map(|d| d.into_keys().collect::<Vec<_>>()), Some(vec!["a".to_owned()]));
        assert_eq!(again, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let wanted = Wanted { expected: 1, healthy: 1, unmanaged: 0 };
        let first = decide(&budget(none()), &[], &wanted, "2026-01-01T00:00:00Z".parse().unwrap()).0;
        let mut b = budget(none());
        b.status = Some(first.clone());
        assert_eq!(decide(&b, &[], &wanted, Timestamp::now()).0, first);
    }
}
