//! `pods/<name>/binding`: the scheduler's word (upstream: `pkg/registry/core/pod/storage`).

use std::sync::Arc;

use api::codec::Decoded;
use api::{Resource, Status};
use serde_json::{Value, json};

use crate::Server;
use crate::http::Call;
use crate::http::respond::{self, Reply};
use api::time::rfc3339;

/// Sets `spec.nodeName` of a pod that has none, and its PodScheduled condition.
pub async fn serve(
    server: &Arc<Server>,
    call: &Call,
    pods: &Arc<Resource>,
    name: &str,
    binding: &Value,
) -> Result<Reply, Status> {
    let given = binding["metadata"]["name"].as_str().unwrap_or_default();
    let name = if name.is_empty() { given } else { name };
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        let e = api::field::FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]);
        return Err(Status::invalid("", "Binding", name, &vec![e]));
    }
    if node.is_empty() {
        return Err(Status::invalid("", "Binding", name, &vec![api::field::FieldError::required("target.name", "")]));
    }
    let ctx = server.write_context(call)?;
    let now = rfc3339(ctx.now);
    let conflict = |why: String| Status::conflict("", "pods/binding", name, &why);
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    let change = |current: &Value| {
        if !uid.is_empty() && current["metadata"]["uid"] != uid {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current["metadata"]["uid"].as_str().unwrap_or_default()
            )));
        }
        if current["metadata"].get("deletionTimestamp").is_some() {
            return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        match current["spec"]["nodeName"].as_str() {
            None | Some("") => {}
            Some(n) => return Err(conflict(format!("pod {name} is already assigned to node {n:?}"))),
        }
        if current["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut pod = current.clone();
        pod["spec"]["nodeName"] = node.clone().into();
        if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
            for (k, v) in annotations {
                pod["metadata"]["annotations"][k] = v.clone();
            }
        }
        // What the pod says of itself stays.
        for (k, v) in binding["metadata"]["labels"].as_object().into_iter().flatten() {
            if pod["metadata"]["labels"].get(k).is_none() {
                pod["metadata"]["labels"][k] = v.clone();
            }
        }
        Ok(pod)
    };
    server
        .registry()
        .modify(&ctx, pods, &call.info.namespace, name, &|current| {
            let mut pod = change(current)?;
            let condition =
                json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
            let mut conditions: Vec<Value> = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
            pod["status"]["conditions"] = Value::Array(conditions);
            Ok(Decoded { value: pod, unknown: Vec::new(), duplicate: Vec::new() })
        })
        .await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}
