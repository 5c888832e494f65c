//! Subresources with a behaviour of their own, one file each, and the virtual resources.

mod binding;
mod eviction;
mod finalize;
mod node_proxy;
mod reviews;
mod scale;
mod token;

use std::sync::Arc;

use api::{Resource, Status, Subresource};
use bytes::Bytes;

use crate::Server;
use crate::admission::{Attributes, Operation};
use crate::http::respond::Reply;
use crate::http::{Call, RequestBody, decode_tree};

/// Whether a subresource takes over the connection or streams from a node.
pub fn is_connect(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Serves what [`is_connect`] names.
///
/// # Errors
/// 404, 405, and what the node says.
pub async fn connect(
    server: &Arc<Server>,
    call: Call,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Result<Reply, Status> {
    if resource.subresource(&call.info.subresource).is_none() {
        return Err(Status::no_such_resource());
    }
    node_proxy::serve(server, call, resource, body).await
}

/// Serves the subresources that read and write objects.
///
/// # Errors
/// What each says; 404 for one that nobody serves.
pub async fn serve(
    server: &Arc<Server>,
    call: &Call,
    resource: &Arc<Resource>,
    subresource: &Subresource,
    body: &Bytes,
) -> Result<Reply, Status> {
    admit(server, call, resource, body).await?;
    match subresource {
        Subresource::Scale { spec_path, status_path, selector_path } => {
            scale::serve(server, call, resource, [spec_path, status_path, selector_path], body).await
        }
        Subresource::Other { name: "binding", .. } => {
            binding::serve(server, call, resource, &call.info.name, body).await
        }
        Subresource::Other { name: "eviction", .. } => eviction::serve(server, call, resource, body).await,
        Subresource::Other { name: "finalize", .. } => finalize::serve(server, call, resource, body).await,
        Subresource::Other { name: "token", .. } => token::serve(server, call, resource, body).await,
        other => Err(Status::not_implemented(format!(
            "{}/{} is not served by this version of sampan",
            resource.plural,
            other.name()
        ))),
    }
}

/// Admission of what is posted to a subresource: a Binding, an Eviction, a TokenRequest.
async fn admit(server: &Arc<Server>, call: &Call, resource: &Resource, body: &Bytes) -> Result<(), Status> {
    let i = &call.info;
    if i.verb != "create" {
        return Ok(());
    }
    let attributes = Attributes {
        operation: Operation::Create,
        resource,
        subresource: &i.subresource,
        namespace: &i.namespace,
        name: &i.name,
        user: &call.user,
        dry_run: server.write_context(call)?.dry_run,
    };
    server.registry().admit_validate(&attributes, Some(&decode_tree(call, body)?), None).await
}

/// Answers a create of a resource that is not stored: reviews, and bindings by the old path.
///
/// # Errors
/// What each says; 405 for any other verb.
pub async fn virtual_create(
    server: &Arc<Server>,
    call: &Call,
    resource: &Arc<Resource>,
    body: &Bytes,
) -> Result<Reply, Status> {
    if call.info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    if resource.plural == "bindings" {
        let pods = server.resource("", "v1", "pods")?;
        return binding::serve(server, call, &pods, "", body).await;
    }
    reviews::serve(server, call, resource, body).await
}
