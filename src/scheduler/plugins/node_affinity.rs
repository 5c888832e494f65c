//! NodeAffinity: node selector, required and preferred node affinity.

use std::collections::BTreeMap;

use api::affinity::{node_fits, term_matches};
use api::k8s::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{Plugin, normalize_by_max};

pub(super) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Vec<String> {
        match &pod.spec {
            Some(spec) if !node_fits(spec, &node.node) => {
                vec!["node(s) didn't match Pod's node affinity/selector".into()]
            }
            _ => Vec::new(),
        }
    }

    fn score(&self, pod: &Pod, node: &NodeInfo) -> Option<i64> {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref()?;
        let empty = BTreeMap::new();
        let labels = node.node.metadata.labels.as_ref().unwrap_or(&empty);
        Some(
            preferred
                .iter()
                .filter(|p| term_matches(&p.preference, node.name(), labels))
                .map(|p| i64::from(p.weight))
                .sum(),
        )
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_max(scores, false);
    }
}
