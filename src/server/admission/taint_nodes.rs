//! TaintNodesByCondition: a node begins with the taint of one that is not ready; the controller
//! takes it away when the node is.

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, a: &Attributes<'_>, node: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let is_node = a.resource.group.is_empty() && a.resource.plural == "nodes";
        if a.operation != Operation::Create || !is_node || !a.subresource.is_empty() {
            return Ok(());
        }
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        match node["spec"]["taints"].as_array_mut() {
            Some(all) if all.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") => {}
            Some(all) => all.push(taint),
            None => node["spec"]["taints"] = json!([taint]),
        }
        Ok(())
    }
}
