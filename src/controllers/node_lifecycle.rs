//! Node lifecycle: a node whose kubelet is silent is not ready, and taints say what is wrong
//! (upstream: `pkg/controller/nodelifecycle`).
//!
//! A kubelet is heard when its Lease or its Ready condition changes. What counts is when *this*
//! process saw the change, so clocks of nodes do not matter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use api::k8s::coordination::v1::Lease;
use api::k8s::core::v1::{Node, NodeCondition, Pod, Taint};
use api::meta::apis::meta::v1::Time;
use async_trait::async_trait;
use client::api::PatchKind;
use client::events::reference;
use client::{Client, EventRecorder, Informer};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use crate::pod_control::{self as pods, name, namespace, node_of};
use crate::runtime::{self, Action, Config, Context, Controller, Queue};

const NAME: &str = "node-controller";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions of a node with the taint that says so.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// What a silent kubelet no longer vouches for.
const STALE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

struct NodeLifecycle {
    client: Client,
    recorder: EventRecorder,
    config: Arc<Config>,
    nodes: Informer,
    pods: Informer,
    heard: Arc<Mutex<HashMap<String, Instant>>>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::default();
    let heard: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let hear = {
        let heard = heard.clone();
        move |node: &str| {
            heard.lock().unwrap_or_else(|e| e.into_inner()).insert(node.to_owned(), Instant::now());
        }
    };
    {
        let (queue, hear) = (queue.clone(), hear.clone());
        nodes.on_change(move |c| {
            let heartbeat = |o: &Option<Arc<api::Object>>| {
                let node = o.as_ref().and_then(|o| o.typed::<Node>().ok())?;
                ready(&node).and_then(|c| c.last_heartbeat_time.clone())
            };
            if c.old.is_none() || heartbeat(&c.old) != heartbeat(&c.new) {
                hear(c.object().meta().name);
            }
            queue.add(c.object().meta().name.to_owned());
        });
    }
    {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        leases.on_change(move |c| {
            let m = c.object().meta();
            if m.namespace != "kube-node-lease" || c.new.is_none() {
                return;
            }
            hear(m.name);
            // Only a node that had been given up has something to do now.
            if nodes.get::<Node>(m.name).is_some_and(|n| ready(&n).is_none_or(|c| c.status == "Unknown")) {
                queue.add(m.name.to_owned());
            }
        });
    }
    let caches = vec![nodes.clone(), leases, pods.clone()];
    let controller = NodeLifecycle {
        recorder: context.recorder(&client, NAME),
        client,
        config: context.config.clone(),
        nodes,
        pods,
        heard,
    };
    runtime::run(context, Arc::new(controller), queue, caches, 2);
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

/// The taints that a node's state asks for, as (key, effect).
fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match ready(node).map(|c| c.status.as_str()) {
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => {}
    }
    for c in node.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter(|c| c.status == "True") {
        wanted.extend(PRESSURE.iter().filter(|(kind, _)| *kind == c.type_).map(|(_, taint)| (*taint, "NoSchedule")));
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn is_ours(t: &Taint) -> bool {
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&t.key.as_str()) || PRESSURE.iter().any(|(_, k)| *k == t.key)
}

impl NodeLifecycle {
    fn silence(&self, node: &str) -> Duration {
        let mut heard = self.heard.lock().unwrap_or_else(|e| e.into_inner());
        heard.entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    async fn give_up(&self, node: &Node) -> Result<(), Status> {
        let now = Timestamp::now();
        let old = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let conditions: Vec<NodeCondition> = STALE
            .iter()
            .map(|kind| {
                let before = old.iter().find(|c| c.type_ == *kind);
                let (reason, message) = match before {
                    Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                    None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
                };
                NodeCondition {
                    type_: (*kind).into(),
                    status: "Unknown".into(),
                    reason: Some(reason.into()),
                    message: Some(message.into()),
                    last_heartbeat_time: before.and_then(|c| c.last_heartbeat_time.clone()),
                    last_transition_time: match before {
                        Some(c) if c.status == "Unknown" => c.last_transition_time.clone(),
                        _ => Some(Time(now)),
                    },
                }
            })
            .collect();
        let patch = json!({"status": {"conditions": conditions}});
        self.client.patch::<Node>("", name(node), "status", PatchKind::Strategic, &patch).await?;
        let message = format!("Node {} status is now: NodeNotReady", name(node));
        self.recorder.normal(reference(node), "NodeNotReady", message);
        Ok(())
    }

    async fn taint(&self, node: &Node) -> Result<(), Status> {
        let wanted = wanted_taints(node);
        let have = api::affinity::taints(node);
        let is_wanted = |t: &Taint| wanted.iter().any(|(k, e)| *k == t.key && *e == t.effect);
        let mut new: Vec<Taint> = have.iter().filter(|t| !is_ours(t) || is_wanted(t)).cloned().collect();
        for (key, effect) in &wanted {
            if !new.iter().any(|t| t.key == *key && t.effect == *effect) {
                let time_added = Some(Time(Timestamp::now()));
                new.push(Taint { key: (*key).into(), effect: (*effect).into(), value: None, time_added });
            }
        }
        if new == have {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": new}});
        self.client.patch::<Node>("", name(node), "", PatchKind::Merge, &patch).await?;
        Ok(())
    }

    /// Pods of a node that is not ready are not ready either: services must stop using them.
    async fn unready_pods(&self, node: &str) -> Result<(), Status> {
        for o in self.pods.objects() {
            let pod = o.typed::<Pod>()?;
            if node_of(&pod) != node || !pods::is_ready(&pod) {
                continue;
            }
            let now = Time(Timestamp::now());
            let patch =
                json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]}});
            pods::ignore_absent(
                self.client.patch::<Pod>(namespace(&*pod), name(&*pod), "status", PatchKind::Strategic, &patch).await,
            )?;
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "node_lifecycle_controller"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(node) = self.nodes.get::<Node>(key) else {
            self.heard.lock().unwrap_or_else(|e| e.into_inner()).remove(key);
            return Ok(Action::Done);
        };
        self.taint(&node).await?;
        let known = ready(&node).map(|c| c.status.clone());
        if known.as_deref() != Some("True") {
            self.unready_pods(key).await?;
        }
        let silence = self.silence(key);
        let grace = self.config.node_monitor_grace;
        if silence < grace {
            return Ok(Action::After(grace - silence));
        }
        if known.as_deref() != Some("Unknown") {
            self.give_up(&node).await?;
        }
        // The next sign of life wakes this up.
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_unreachable_and_a_cordoned_one_unschedulable() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "DiskPressure", "status": "True"}]}}))
        .unwrap();
        assert_eq!(
            wanted_taints(&node),
            vec![
                (UNREACHABLE, "NoSchedule"),
                (UNREACHABLE, "NoExecute"),
                ("node.kubernetes.io/disk-pressure", "NoSchedule"),
                (UNSCHEDULABLE, "NoSchedule")
            ]
        );
    }
}
