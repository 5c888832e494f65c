//! `pods/<name>/eviction`: a deletion that respects disruption budgets
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).

use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Object, Resource, Status};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::Server;
use crate::http::respond::{self, Reply};
use crate::http::{Call, decode_tree};
use crate::registry::{At, DeleteOptions, Selection};

/// Seconds after which a refused eviction may be tried again.
const RETRY_SECONDS: u32 = 10;

fn is_finished_or_unscheduled(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || pod["metadata"].get("deletionTimestamp").is_some()
}

/// Deletes the pod when its budget, if it has one, allows a disruption, which it takes.
pub async fn serve(server: &Arc<Server>, call: &Call, pods: &Arc<Resource>, body: &Bytes) -> Result<Reply, Status> {
    if call.info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let eviction = decode_tree(call, body)?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let given = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let ctx = server.write_context(call)?;
    let mut options = DeleteOptions::from_value(eviction.get("deleteOptions").unwrap_or(&json!({})))?;
    let pod = server.registry().get(pods, namespace, name).await?;
    if !is_finished_or_unscheduled(&pod.to_value()) {
        // The pod that the budget was asked about is the one that goes.
        options.uid.get_or_insert(pod.meta().uid.clone());
        take_disruption(server, call, &pod).await?;
    }
    server.registry().delete(&ctx, pods, namespace, name, &options).await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

async fn take_disruption(server: &Arc<Server>, call: &Call, pod: &Object) -> Result<(), Status> {
    let budgets = server.resource("policy", "v1", "poddisruptionbudgets")?;
    let all = Selection::new(&budgets, &call.info.namespace, "", "")?;
    let page = server.registry().list(&budgets, &all, At::Consistent, 0, None).await?;
    let mut matching = Vec::new();
    for b in &page.items {
        if LabelSelector::from_value(&b.to_value()["spec"]["selector"])?.matches(&pod.meta().labels) {
            matching.push(b);
        }
    }
    let budget = match matching.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::internal_plain(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let ctx = server.write_context(call)?;
    let name = budget.meta().name.clone();
    let pod_name = pod.meta().name.clone();
    let now = api::time::rfc3339(ctx.now);
    let change = |current: &Value| {
        let status = &current["status"];
        let refused = |cause: String| {
            let mut s = Status::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                RETRY_SECONDS,
            );
            if let Some(d) = &mut s.details {
                d.causes.push(api::status::Cause {
                    reason: "DisruptionBudget".into(),
                    message: cause,
                    field: String::new(),
                });
            }
            s
        };
        if status["observedGeneration"].as_i64().unwrap_or(0) < current["metadata"]["generation"].as_i64().unwrap_or(0)
        {
            return Err(refused(format!("The disruption budget {name} is still being processed by the server.")));
        }
        let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            return Err(refused(format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status["desiredHealthy"], status["currentHealthy"]
            )));
        }
        let mut new = current.clone();
        new["status"]["disruptionsAllowed"] = (allowed - 1).into();
        new["status"]["disruptedPods"][&pod_name] = now.clone().into();
        Ok(api::codec::Decoded { value: new, unknown: Vec::new(), duplicate: Vec::new() })
    };
    server.registry().modify(&ctx, &budgets, &call.info.namespace, &name, &change).await?;
    Ok(())
}
