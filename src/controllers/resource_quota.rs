//! ResourceQuota: counts what a namespace holds (upstream: `pkg/controller/resourcequota`).
//!
//! Admission charges what is added; this controller counts anew when something is deleted or
//! needs less, when a quota asks for other things, and some time after a charge, in case that
//! what was charged for was never stored.

mod custom;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::core::v1::ResourceQuota;
use api::pod_resources::{self as resources, Amounts};
use api::quantity::{Format, Quantity};
use api::quota::Counted;
use api::{Object, Status};
use async_trait::async_trait;
use client::informer::Change;
use client::{Client, Gvr, Informer, ListParams};
use jiff::Timestamp;
use serde_json::Value;

use crate::endpointslice::{BY_NAMESPACE, index_by_namespace};
use crate::pod_control as pods;
use crate::runtime::{self, Action, Context, Controller, Queue};
use custom::Custom;

const NAME: &str = "resourcequota-controller";
/// When a charge is checked against what is really there: what was charged for may never have
/// been stored, or have come and gone while nobody could see it (the informer of a definition that
/// was just made again is still listing).
const RECOUNT: Duration = Duration::from_secs(10);

struct QuotaController {
    client: Client,
    quotas: Informer,
    /// By group and plural.
    counted: HashMap<(String, String), Informer>,
    custom: Custom,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let quotas = context.informers.of::<ResourceQuota>();
    index_by_namespace(&quotas);
    let queue = Queue::default();
    {
        let queue = queue.clone();
        quotas.on_change(move |c| {
            let Some(new) = &c.new else { return };
            if is_counted(&new.to_value()) {
                queue.add_after(new.key().to_owned(), RECOUNT)
            } else {
                queue.add(new.key().to_owned())
            }
        });
    }
    let mut counted = HashMap::new();
    for r in api::registry::builtin() {
        // Events come and go by themselves; nobody counts them.
        if !r.namespaced || !r.stored || !r.is_storage() || r.plural == "events" {
            continue;
        }
        let gvr = Gvr::dynamic(&r.group, &r.version, &r.plural);
        let informer = context.informers.select(gvr, ListParams::all());
        index_by_namespace(&informer);
        enqueue_quotas(&informer, &r.group, &r.plural, &quotas, &queue);
        counted.insert((r.group.clone(), r.plural.clone()), informer);
    }
    let mut caches: Vec<Informer> = counted.values().cloned().collect();
    let custom = Custom::new(context, &quotas, &queue);
    caches.extend([quotas.clone(), custom.definitions().clone()]);
    runtime::run(context, Arc::new(QuotaController { client, quotas, counted, custom }), queue, caches, 1);
}

/// What a quota allows.
fn hard(quota: &Value) -> Amounts {
    resources::amounts(&quota["spec"]["hard"])
}

/// Whether the status is about what the spec asks for.
fn is_counted(quota: &Value) -> bool {
    let hard = hard(quota);
    let used = resources::amounts(&quota["status"]["used"]);
    hard == resources::amounts(&quota["status"]["hard"]) && hard.keys().all(|n| used.contains_key(n))
}

/// Queues the quotas of a namespace when something in it is gone or counts for less.
fn enqueue_quotas(informer: &Informer, group: &str, plural: &str, quotas: &Informer, queue: &Queue) {
    let (queue, quotas, group, plural) = (queue.clone(), quotas.clone(), group.to_owned(), plural.to_owned());
    informer.on_change(move |c| {
        let found = quotas.by_index(BY_NAMESPACE, c.object().meta().namespace);
        if found.is_empty() || !counts_for_less(Counted { group: &group, plural: &plural }, c) {
            return;
        }
        found.iter().for_each(|q| queue.add(q.key().to_owned()));
    });
}

fn counts_for_less(counted: Counted<'_>, change: &Change) -> bool {
    let (Some(old), new) = (&change.old, &change.new) else { return false };
    let Some(new) = new else { return true };
    let now = Timestamp::now();
    let (old, new) = (counted.usage(&old.to_value(), now), counted.usage(&new.to_value(), now));
    old.iter().any(|(name, had)| new.get(name).is_none_or(|has| has < had))
}

impl QuotaController {
    /// What counts for the names of a quota.
    async fn used(&self, quota: &Object, spec: &Value, now: Timestamp) -> Result<Amounts, Status> {
        let hard = resources::amounts(&spec["hard"]);
        let zero = Quantity::from_int(0, Format::DecimalSI);
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), zero)).collect();
        for ((group, plural), informer) in &self.counted {
            let counted = Counted { group, plural };
            if !hard.keys().any(|n| counted.counts_for(n)) {
                continue;
            }
            add_usage(&mut used, counted, informer, quota, spec, now);
        }
        for name in hard.keys() {
            if let Some((gvr, informer)) = self.custom.counted(name).await? {
                let counted = Counted { group: &gvr.group, plural: &gvr.plural };
                add_usage(&mut used, counted, &informer, quota, spec, now);
            }
        }
        Ok(used)
    }
}

/// Adds what the objects of a resource use of what a quota counts.
fn add_usage(
    used: &mut Amounts,
    counted: Counted<'_>,
    informer: &Informer,
    quota: &Object,
    spec: &Value,
    now: Timestamp,
) {
    for o in informer.by_index(BY_NAMESPACE, quota.meta().namespace) {
        let value = o.to_value();
        if counted.in_scope(spec, &value) {
            let mut usage = counted.usage(&value, now);
            usage.retain(|n, _| used.contains_key(n));
            resources::add(used, &usage);
        }
    }
}

#[async_trait]
impl Controller for QuotaController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "resourcequota_primary"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(quota) = self.quotas.object(key) else { return Ok(Action::Done) };
        let value = quota.to_value();
        let used = self.used(&quota, &value["spec"], Timestamp::now()).await?;
        if is_counted(&value) && used == resources::amounts(&value["status"]["used"]) {
            return Ok(Action::Done);
        }
        let mut new = (*quota.typed::<ResourceQuota>()?).clone();
        let typed = |list: &Amounts| list.iter().map(|(n, q)| (n.clone(), (*q).into())).collect();
        let status = new.status.get_or_insert_default();
        status.hard = Some(typed(&resources::amounts(&value["spec"]["hard"])));
        status.used = Some(typed(&used));
        // The version that was read: a charge since then is counted when its turn comes.
        match self.client.update_status(&new).await {
            Err(s) if s.is_conflict() => Err(s),
            r => pods::ignore_absent(r).map(|_| Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_less_asks_for_a_new_count() {
        let pod = |phase: &str| {
            let v = json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"phase": phase}});
            Some(Arc::new(Object::from_value(&v).unwrap()))
        };
        let pods = Counted { group: "", plural: "pods" };
        assert!(!counts_for_less(pods, &Change { old: None, new: pod("Running") }));
        assert!(!counts_for_less(pods, &Change { old: pod("Pending"), new: pod("Running") }));
        assert!(counts_for_less(pods, &Change { old: pod("Running"), new: pod("Succeeded") }));
        assert!(counts_for_less(pods, &Change { old: pod("Running"), new: None }));
    }

    #[test]
    fn a_quota_is_counted_when_every_name_has_a_number() {
        let quota =
            |used: Value| json!({"spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "1"}, "used": used}});
        assert!(is_counted(&quota(json!({"pods": "0"}))));
        assert!(!is_counted(&quota(json!({}))));
    }
}
