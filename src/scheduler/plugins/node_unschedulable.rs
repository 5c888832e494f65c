//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use api::affinity::{tolerates, tolerations};
use api::k8s::core::v1::{Pod, Taint};

use crate::cache::NodeInfo;
use crate::framework::Plugin;

pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Vec<String> {
        if node.node.spec.as_ref().and_then(|s| s.unschedulable) != Some(true) {
            return Vec::new();
        }
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Default::default() };
        if tolerations(pod).iter().any(|t| tolerates(t, &taint)) {
            return Vec::new();
        }
        vec!["node(s) were unschedulable".into()]
    }
}
