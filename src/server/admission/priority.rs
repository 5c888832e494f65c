//! Priority: a pod's priority comes from its PriorityClass.

use std::sync::Weak;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::registry::{At, Selection};

pub(super) struct Priority(pub(super) Weak<Server>);

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods";
        if !is_pod || a.operation != Operation::Create || !a.subresource.is_empty() {
            return Ok(());
        }
        let server = alive(&self.0)?;
        let classes = server.resource("scheduling.k8s.io", "v1", "priorityclasses")?;
        let name = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            let all = Selection::new(&classes, "", "", "")?;
            let page = server.registry().list(&classes, &all, At::Any, 0, None).await?;
            let mut defaults: Vec<Value> =
                page.items.iter().map(|o| o.to_value()).filter(|v| v["globalDefault"] == true).collect();
            // More than one is a race of two creates: the lowest counts, as upstream.
            defaults.sort_by_key(|v| v["value"].as_i64());
            defaults.into_iter().next()
        } else {
            let found = server.registry().get(&classes, "", &name).await.map_err(|_| {
                Status::forbidden("", "pods", a.name, &format!("no PriorityClass with name {name} was found"))
            })?;
            Some(found.to_value())
        };
        let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
        if let Some(given) = object["spec"]["priority"].as_i64()
            && given != value
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(Status::forbidden("", "pods", a.name, &why));
        }
        object["spec"]["priority"] = value.into();
        let policy = class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
        object["spec"]["preemptionPolicy"] = policy.into();
        if let Some(n) = class.as_ref().and_then(|c| c["metadata"]["name"].as_str()).filter(|_| name.is_empty()) {
            object["spec"]["priorityClassName"] = n.into();
        }
        Ok(())
    }
}
