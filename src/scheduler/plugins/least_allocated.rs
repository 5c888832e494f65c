//! LeastAllocated, the default scoring of NodeResourcesFit: the emptier, the better.

use api::k8s::core::v1::Pod;

use crate::cache::{NodeInfo, pod_requests};
use crate::framework::{MAX_SCORE, Plugin};

pub(super) struct LeastAllocated;

impl Plugin for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn score(&self, pod: &Pod, node: &NodeInfo) -> Option<i64> {
        let wanted = pod_requests(pod, true);
        let mut sum = 0;
        for resource in ["cpu", "memory"] {
            let offered = node.allocatable.get(resource).copied().unwrap_or(0);
            let used = node.nonzero.get(resource).copied().unwrap_or(0) + wanted.get(resource).copied().unwrap_or(0);
            if offered > 0 && used <= offered {
                sum += (offered - used) * MAX_SCORE / offered;
            }
        }
        Some(sum / 2)
    }
}
