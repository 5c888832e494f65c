//! Subresources with a behaviour of their own, one file each, and the virtual resources.

mod binding;
mod component_status;
mod eviction;
mod finalize;
mod node_proxy;
mod proxy;
mod reviews;
mod scale;
mod selectors;
mod token;

use std::sync::Arc;

use api::{Resource, Status, Subresource};
use bytes::Bytes;
use serde_json::Value;

use crate::Server;
use crate::admission::Operation;
use crate::http::negotiate::{self, Accepted, Form};
use crate::http::respond::{IncludeObject, Reply};
use crate::http::{Call, RequestBody, decode_tree};
use crate::registry::Registry;

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
    if let Subresource::Other { name, .. } = subresource
        && call.info.verb == "create"
    {
        let body = admitted(server, call, resource, body).await?;
        return match *name {
            "binding" => binding::serve(server, call, resource, &call.info.name, &body).await,
            "eviction" => eviction::serve(server, call, resource, &body).await,
            "token" => token::serve(server, call, resource, &body).await,
            other => Err(not_served(resource, other)),
        };
    }
    match subresource {
        Subresource::Scale { spec_path, status_path, selector_path } => {
            scale::serve(server, call, resource, [spec_path, status_path, selector_path], body).await
        }
        Subresource::Other { name: "finalize", .. } => finalize::serve(server, call, resource, body).await,
        Subresource::Other { name: "binding" | "eviction" | "token", .. } => Err(Status::method_not_allowed()),
        other => Err(not_served(resource, other.name())),
    }
}

fn not_served(resource: &Resource, name: &str) -> Status {
    Status::not_implemented(format!("{}/{name} is not served by this version of sampan", resource.plural))
}

/// What is posted to a subresource (a Binding, an Eviction, a TokenRequest), as admission leaves it.
async fn admitted(server: &Arc<Server>, call: &Call, resource: &Resource, body: &Bytes) -> Result<Value, Status> {
    let i = &call.info;
    let ctx = server.write_context(call)?;
    let attributes = Registry::attributes(&ctx, resource, Operation::Create, &i.namespace, &i.name, &i.subresource);
    let mut object = decode_tree(call, body)?;
    server.registry().admit_mutate(&attributes, &mut object, None).await?;
    server.registry().admit_validate(&attributes, Some(&object), None).await?;
    Ok(object)
}

/// Answers for a resource that is not stored: reviews, bindings by the old path, and what is made
/// up when it is read.
///
/// # Errors
/// What each says; 405 for a verb that it does not have.
pub async fn serve_virtual(
    server: &Arc<Server>,
    call: &Call,
    resource: &Arc<Resource>,
    body: &Bytes,
    accepted: Accepted,
    include: IncludeObject,
) -> Result<Reply, Status> {
    let creates = resource.verbs.contains(&"create");
    if creates && accepted.form != Form::Object {
        return Err(negotiate::not_acceptable());
    }
    match call.info.verb.as_str() {
        verb if resource.verbs.contains(&verb) => {}
        verb @ "watch" if !creates => {
            return Err(Status::method_not_supported(&resource.group, &resource.plural, verb));
        }
        _ => return Err(Status::method_not_allowed()),
    }
    if !creates {
        return component_status::serve(server, call, resource, accepted, include).await;
    }
    if resource.plural == "bindings" {
        let pods = server.resource("", "v1", "pods")?;
        return binding::serve(server, call, &pods, "", &decode_tree(call, body)?).await;
    }
    reviews::serve(server, call, resource, body).await
}
