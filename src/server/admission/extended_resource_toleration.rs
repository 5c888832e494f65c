//! ExtendedResourceToleration: a pod that asks for a device tolerates the taint of the nodes that
//! are kept for its users.

use std::collections::BTreeSet;

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};

pub(super) struct ExtendedResourceToleration;

/// Whether a resource is one that nodes announce beyond those of Kubernetes.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

#[async_trait]
impl Admission for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods" && a.subresource.is_empty();
        if !is_pod || !matches!(a.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let containers = ["containers", "initContainers"].into_iter();
        let wanted: BTreeSet<String> = containers
            .flat_map(|l| pod["spec"][l].as_array().into_iter().flatten())
            .flat_map(|c| c["resources"]["requests"].as_object().into_iter().flatten())
            .map(|(name, _)| name.clone())
            .filter(|name| is_extended(name))
            .collect();
        let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let before = all.len();
        for name in wanted {
            let toleration = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
            if !all.contains(&toleration) {
                all.push(toleration);
            }
        }
        if all.len() > before {
            pod["spec"]["tolerations"] = all.into();
        }
        Ok(())
    }
}
