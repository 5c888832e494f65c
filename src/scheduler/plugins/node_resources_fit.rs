//! NodeResourcesFit: what a pod requests must be free.

use api::k8s::core::v1::Pod;

use crate::cache::{NodeInfo, pod_requests};
use crate::framework::Plugin;

pub(super) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(max) = node.allocatable.get("pods")
            && node.pods.len() as i64 + 1 > *max
        {
            reasons.push("Too many pods".to_owned());
        }
        for (resource, wanted) in pod_requests(pod, false) {
            let offered = node.allocatable.get(&resource).copied().unwrap_or(0);
            let used = node.requested.get(&resource).copied().unwrap_or(0);
            if wanted > 0 && wanted > offered - used {
                reasons.push(format!("Insufficient {resource}"));
            }
        }
        reasons
    }
}
