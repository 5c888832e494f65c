//! Taint eviction: pods leave nodes whose NoExecute taints they do not tolerate, at once or after
//! their toleration's time (upstream: `pkg/controller/tainteviction`).

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::affinity::{taints, tolerates, tolerations};
use api::k8s::core::v1::{Node, Pod, Taint};
use api::meta::apis::meta::v1::Time;
use async_trait::async_trait;
use client::events::reference;
use client::{Client, EventRecorder, Informer};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::pod_control::{self as pods, name, namespace, node_of, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "node-controller";
/// Index of pods by node.
pub(crate) const BY_NODE: &str = "node";

struct TaintEviction {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer,
    pods: Informer,
}

/// Adds the index of pods by the node they are bound to.
pub(crate) fn index_by_node(informer: &Informer) {
    informer.add_index(BY_NODE, |o| bound_to(o).into_iter().collect());
}

/// The node of a pod, read off its JSON: to decode the whole of every pod for it would be most of
/// what this process does when many are written. Empty for none yet, nothing for what is no pod.
fn bound_to(pod: &api::Object) -> Option<String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Placed {
        spec: Place,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Place {
        node_name: String,
    }
    pod.part().ok().map(|p: Placed| p.spec.node_name)
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    index_by_node(&pods);
    let queue = Queue::default();
    {
        let queue = queue.clone();
        pods.on_change(move |c| {
            // What is on no node has no taints to bear.
            if c.new.as_deref().and_then(bound_to).is_some_and(|node| !node.is_empty()) {
                queue.add(c.object().key().to_owned());
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.on_change(move |c| {
            let of = |o: &Option<Arc<api::Object>>| {
                o.as_ref().and_then(|o| o.typed::<Node>().ok()).map(|n| taints(&n).to_vec())
            };
            if of(&c.old) != of(&c.new) {
                for o in pods.by_index(BY_NODE, c.object().meta().name) {
                    queue.add(o.key().to_owned());
                }
            }
        });
    }
    let caches = vec![nodes.clone(), pods.clone()];
    let controller =
        TaintEviction { recorder: context.recorder(&client, "taint-eviction-controller"), client, nodes, pods };
    runtime::run(context, Arc::new(controller), queue, caches, 4);
}

/// When a pod has to go: `None` never, else seconds since the epoch.
fn due(pod: &Pod, node_taints: &[Taint], now: i64) -> Option<i64> {
    let mut earliest: Option<i64> = None;
    for taint in node_taints.iter().filter(|t| t.effect == "NoExecute") {
        let fitting: Vec<_> = tolerations(pod).iter().filter(|t| tolerates(t, taint)).collect();
        if fitting.is_empty() {
            return Some(now);
        }
        // The shortest of the tolerations that fit counts; one without a time is for ever.
        let shortest = fitting.iter().filter_map(|t| t.toleration_seconds).min();
        if let Some(seconds) = shortest {
            let since = taint.time_added.as_ref().map_or(now, |Time(t)| t.as_second());
            let at = since + seconds.max(0);
            earliest = Some(earliest.map_or(at, |e| e.min(at)));
        }
    }
    earliest
}

#[async_trait]
impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn queue(&self) -> &'static str {
        "noexec_taint_pod"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(pod) = self.pods.get::<Pod>(key) else { return Ok(Action::Done) };
        let Some(node) = self.nodes.get::<Node>(node_of(&pod)) else { return Ok(Action::Done) };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let now = Timestamp::now();
        let Some(at) = due(&pod, taints(&node), now.as_second()) else { return Ok(Action::Done) };
        if at > now.as_second() {
            return Ok(Action::After(Duration::from_secs((at - now.as_second()) as u64)));
        }
        self.recorder.normal(reference(&*pod), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)});
        let patch = json!({"status": {"conditions": [condition]}});
        let (ns, n) = (namespace(&*pod), name(&*pod));
        pods::ignore_absent(self.client.patch::<Pod>(ns, n, "status", client::PatchKind::Strategic, &patch).await)?;
        let options = json!({"preconditions": {"uid": uid(&*pod)}});
        pods::ignore_absent(self.client.delete_with::<Pod>(ns, n, &options).await)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(seconds: Option<i64>) -> Pod {
        let tolerations = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": seconds}]);
        serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}})).unwrap()
    }

    #[test]
    fn a_pod_goes_at_once_later_or_never() {
        let at = Time(Timestamp::from_second(100).unwrap());
        let taint = |key: &str| {
            vec![Taint { key: key.into(), effect: "NoExecute".into(), time_added: Some(at.clone()), value: None }]
        };
        assert_eq!(due(&pod(Some(30)), &taint("k"), 105), Some(130));
        assert_eq!(due(&pod(None), &taint("k"), 105), None);
        assert_eq!(due(&pod(None), &taint("other"), 105), Some(105));
        assert_eq!(due(&pod(None), &[], 105), None);
    }
}
