//! NodeResourcesBalancedAllocation: cpu and memory should be used to the same degree.

use api::k8s::core::v1::Pod;

use crate::cache::{NodeInfo, pod_requests};
use crate::framework::{MAX_SCORE, Plugin};

pub(super) struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score(&self, pod: &Pod, node: &NodeInfo) -> Option<i64> {
        let wanted = pod_requests(pod, false);
        // A pod without requests unbalances nothing.
        if !["cpu", "memory"].iter().any(|r| wanted.get(*r).is_some_and(|n| *n > 0)) {
            return None;
        }
        let fraction = |resource: &str| {
            let offered = node.allocatable.get(resource).copied().unwrap_or(0).max(1) as f64;
            let used = node.requested.get(resource).copied().unwrap_or(0) + wanted.get(resource).copied().unwrap_or(0);
            (used as f64 / offered).min(1.0)
        };
        // For two resources the standard deviation is half their distance.
        let deviation = (fraction("cpu") - fraction("memory")).abs() / 2.0;
        Some(((1.0 - deviation) * MAX_SCORE as f64) as i64)
    }
}
