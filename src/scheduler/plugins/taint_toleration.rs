//! TaintToleration: nodes keep away pods that do not tolerate their taints; PreferNoSchedule counts
//! against a node.

use api::affinity::{taints, tolerates, tolerations, untolerated};
use api::k8s::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{Plugin, normalize_by_max};

pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Vec<String> {
        match untolerated(tolerations(pod), taints(&node.node), &["NoSchedule", "NoExecute"]) {
            Some(t) => {
                vec![format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value.as_deref().unwrap_or_default())]
            }
            None => Vec::new(),
        }
    }

    fn score(&self, pod: &Pod, node: &NodeInfo) -> Option<i64> {
        let disliked = taints(&node.node).iter().filter(|t| t.effect == "PreferNoSchedule");
        Some(disliked.filter(|taint| !tolerations(pod).iter().any(|t| tolerates(t, taint))).count() as i64)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_max(scores, true);
    }
}
