//! NodeName: a pod that names a node goes there or nowhere.

use api::k8s::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::Plugin;

pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Vec<String> {
        match pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) {
            Some(n) if !n.is_empty() && n != node.name() => vec!["node(s) didn't match the requested node name".into()],
            _ => Vec::new(),
        }
    }
}
