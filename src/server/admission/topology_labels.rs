//! PodTopologyLabels: a pod gets the topology labels of the node that it is bound to.

use std::sync::Weak;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

pub(super) struct PodTopologyLabels(pub(super) Weak<Server>);

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn mutate(&self, a: &Attributes<'_>, binding: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let binds = a.resource.group.is_empty() && a.resource.plural == "pods" && a.subresource == "binding";
        if !binds || a.operation != Operation::Create {
            return Ok(());
        }
        let server = alive(&self.0)?;
        let nodes = server.resource("", "v1", "nodes")?;
        let name = binding["target"]["name"].as_str().unwrap_or_default();
        // A binding to a node that is not there is no matter of labels.
        let Ok(node) = server.registry().get_cached(&nodes, "", name) else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node.meta().labels.get(label) {
                binding["metadata"]["labels"][label] = value.into();
            }
        }
        Ok(())
    }
}
