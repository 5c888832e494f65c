//! Node IPAM: gives every node its range of pod addresses (upstream: `pkg/controller/nodeipam`).
//!
//! Invariant: no two nodes have overlapping ranges. What is taken is read off the nodes each
//! time, and one worker hands out.

use std::collections::HashSet;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::Node;
use async_trait::async_trait;
use client::api::PatchKind;
use client::events::reference;
use client::{Client, EventRecorder, Informer};
use ipnet::IpNet;
use serde_json::json;

use crate::runtime::{self, Action, Config, Context, Controller, Queue};

const NAME: &str = "node-ipam-controller";

struct NodeIpam {
    client: Client,
    recorder: EventRecorder,
    config: Arc<Config>,
    nodes: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let nodes = context.informers.of::<Node>();
    let queue = Queue::default();
    runtime::enqueue_own(&nodes, &queue);
    let controller = NodeIpam {
        recorder: context.recorder(&client, NAME),
        client,
        config: context.config.clone(),
        nodes: nodes.clone(),
    };
    // One worker: ranges are handed out one after the other.
    runtime::run(context, Arc::new(controller), queue, vec![nodes], 1);
}

/// The first subnet of `cluster` with `mask` bits that overlaps none of `taken`.
fn free_range(cluster: IpNet, mask: u8, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let overlaps = |a: &IpNet| taken.iter().any(|t| t.contains(a) || a.contains(t));
    match cluster {
        IpNet::V4(n) => n.subnets(mask).ok()?.map(IpNet::V4).find(|s| !overlaps(s)),
        IpNet::V6(n) => n.subnets(mask).ok()?.map(IpNet::V6).find(|s| !overlaps(s)),
    }
}

#[async_trait]
impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "cidrallocator_node"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let has_range = |n: &Node| n.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some());
        let Some(cached) = self.nodes.get::<Node>(key) else { return Ok(Action::Done) };
        if has_range(&cached) {
            return Ok(Action::Done);
        }
        // The cache may not show yet what this controller wrote a moment ago.
        let all = self.client.list::<Node>(&client::ListParams::all()).await?;
        if all.iter().any(|n| n.metadata.name.as_deref() == Some(key) && has_range(n)) {
            return Ok(Action::Done);
        }
        let ranges = all.iter().filter_map(|n| n.spec.as_ref());
        let taken: HashSet<IpNet> = ranges
            .flat_map(|s| s.pod_cidr.iter().chain(s.pod_cidrs.iter().flatten()))
            .filter_map(|c| c.parse().ok())
            .collect();
        let Some(range) = free_range(self.config.cluster_cidr, self.config.node_cidr_mask, &taken) else {
            let message = format!("Node {key} status is now: CIDRNotAvailable");
            self.recorder.warning(reference(&*cached), "CIDRNotAvailable", message);
            return Err(Status::unavailable(format!(
                "no range of pod addresses is left in {} for node {key}; use a larger --cluster-cidr",
                self.config.cluster_cidr
            )));
        };
        let patch = json!({"spec": {"podCIDR": range.to_string(), "podCIDRs": [range.to_string()]}});
        self.client.patch::<Node>("", key, "", PatchKind::Strategic, &patch).await?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_handed_out_in_order_and_never_twice() {
        let cluster: IpNet = "10.42.0.0/22".parse().unwrap();
        let mut taken = HashSet::new();
        for expected in ["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24", "10.42.3.0/24"] {
            let r = free_range(cluster, 24, &taken).unwrap();
            assert_eq!(r.to_string(), expected);
            taken.insert(r);
        }
        assert_eq!(free_range(cluster, 24, &taken), None);
        taken.remove(&"10.42.1.0/24".parse().unwrap());
        assert_eq!(free_range(cluster, 24, &taken).unwrap().to_string(), "10.42.1.0/24");
    }
}
