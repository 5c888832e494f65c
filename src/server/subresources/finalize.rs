//! `namespaces/<name>/finalize`: changes `spec.finalizers`, which an update of the namespace may not.

use std::sync::Arc;

use api::{Resource, Status};
use bytes::Bytes;
use serde_json::Value;

use crate::Server;
use crate::http::respond::{self, IncludeObject, Reply};
use crate::http::{Call, decode_body};
use api::codec::Decoded;

/// Replaces `spec.finalizers` with those of the body.
pub async fn serve(server: &Arc<Server>, call: &Call, resource: &Arc<Resource>, body: &Bytes) -> Result<Reply, Status> {
    if call.info.verb != "update" {
        return Err(Status::method_not_allowed());
    }
    let wanted = decode_body(call, resource, body)?.value;
    let ctx = server.write_context(call)?;
    let object = server
        .registry()
        .modify(&ctx, resource, "", &call.info.name, &|current: &Value| {
            let given = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            if !given.is_empty() && current["metadata"]["resourceVersion"] != given {
                return Err(Status::stale(&resource.group, &resource.plural, &call.info.name));
            }
            let mut new = current.clone();
            match wanted["spec"].get("finalizers") {
                Some(f) => new["spec"]["finalizers"] = f.clone(),
                None => {
                    if let Some(spec) = new["spec"].as_object_mut() {
                        spec.remove("finalizers");
                    }
                }
            }
            Ok(Decoded { value: new, unknown: Vec::new(), duplicate: Vec::new() })
        })
        .await?;
    Ok(respond::object(200, call.accepted(resource)?, resource, &object, IncludeObject::Metadata))
}
