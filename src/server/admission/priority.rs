//! Priority: a pod's priority comes from its PriorityClass.

use std::sync::Weak;

use api::Status;
use api::k8s::scheduling::v1::PriorityClass;
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
            let all = page.items.iter().map(|o| o.typed::<PriorityClass>()).collect::<Result<Vec<_>, _>>()?;
            // More than one is a race of two creates: the lowest counts, as upstream.
            all.into_iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value)
        } else {
            let found = server.registry().get(&classes, "", &name).await.map_err(|_| {
                Status::forbidden("", "pods", a.name, &format!("no PriorityClass with name {name} was found"))
            })?;
            Some(found.typed::<PriorityClass>()?)
        };
        let value = class.as_ref().map_or(0, |c| i64::from(c.value));
        if let Some(given) = object["spec"]["priority"].as_i64()
            && given != value
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(Status::forbidden("", "pods", a.name, &why));
        }
        object["spec"]["priority"] = value.into();
        let policy = class.as_ref().and_then(|c| c.preemption_policy.as_deref()).unwrap_or("PreemptLowerPriority");
        object["spec"]["preemptionPolicy"] = policy.into();
        if let Some(n) = class.as_ref().and_then(|c| c.metadata.name.as_deref()).filter(|_| name.is_empty()) {
            object["spec"]["priorityClassName"] = n.into();
        }
        Ok(())
    }
}
