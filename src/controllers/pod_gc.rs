//! Pod garbage collection: pods whose node is gone, and terminating pods that no node knows of
//! (upstream: `pkg/controller/podgc`).

use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{Node, Pod};
use async_trait::async_trait;
use client::{Client, Informer};
use serde_json::json;

use crate::pod_control::{self as pods, name, namespace, node_of, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "pod-garbage-collector";
/// A node may be on its way: upstream's quarantine.
const QUARANTINE: std::time::Duration = std::time::Duration::from_secs(40);

struct PodGc {
    client: Client,
    nodes: Informer,
    pods: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::default();
    runtime::enqueue_own(&pods, &queue);
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.on_change(move |c| {
            if c.new.is_none() {
                let gone = c.object().meta().name;
                for o in pods.objects() {
                    if o.typed::<Pod>().is_ok_and(|p| node_of(&p) == gone) {
                        queue.add_after(o.key().to_owned(), QUARANTINE);
                    }
                }
            }
        });
    }
    let caches = vec![nodes.clone(), pods.clone()];
    runtime::run(context, Arc::new(PodGc { client, nodes, pods }), queue, caches, 1);
}

#[async_trait]
impl Controller for PodGc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "orphaned_pods_nodes"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(pod) = self.pods.get::<Pod>(key) else { return Ok(Action::Done) };
        let node = node_of(&pod);
        let unscheduled_terminating = node.is_empty() && pod.metadata.deletion_timestamp.is_some();
        let orphaned = !node.is_empty() && self.nodes.object(node).is_none();
        if orphaned && self.client.get_opt::<Node>("", node).await?.is_some() {
            return Ok(Action::After(QUARANTINE));
        }
        if !unscheduled_terminating && !orphaned {
            return Ok(Action::Done);
        }
        if orphaned && !matches!(pods::phase(&pod), "Succeeded" | "Failed") {
            let patch = json!({"status": {"phase": "Failed"}});
            pods::ignore_absent(
                self.client
                    .patch::<Pod>(namespace(&*pod), name(&*pod), "status", client::PatchKind::Strategic, &patch)
                    .await,
            )?;
        }
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid(&*pod)}});
        pods::ignore_absent(self.client.delete_with::<Pod>(namespace(&*pod), name(&*pod), &options).await)?;
        Ok(Action::Done)
    }
}
