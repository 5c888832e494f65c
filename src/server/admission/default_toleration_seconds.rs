//! DefaultTolerationSeconds: a pod stays 300 seconds on a node that is not ready or not reachable.

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};

const SECONDS: i64 = 300;
const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods";
        // Of updates too: who applies a pod again names only tolerations of its own.
        if !is_pod || !matches!(a.operation, Operation::Create | Operation::Update) || !a.subresource.is_empty() {
            return Ok(());
        }
        let mut list = object["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        for key in KEYS {
            let tolerated = list.iter().any(|t| {
                let k = t["key"].as_str().unwrap_or_default();
                let effect = t["effect"].as_str().unwrap_or_default();
                (k == key || k.is_empty()) && matches!(effect, "NoExecute" | "")
            });
            if !tolerated {
                list.push(
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}),
                );
            }
        }
        object["spec"]["tolerations"] = Value::Array(list);
        Ok(())
    }
}
