//! Requests that end at the kubelet of a pod's node: `log`, `exec`, `attach`, `portforward`.
//!
//! The server authenticates to the kubelet with its own client certificate and passes the
//! stream through byte for byte, also after an upgrade.

use std::sync::Arc;

use api::k8s::core::v1::{Node, Pod};
use api::{Resource, Status, Subresource};
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::proxy;
use crate::Server;
use crate::admission::Operation;
use crate::forward::{self, Tls};
use crate::http::respond::{self, Body, Reply};
use crate::http::{Call, RequestBody};
use crate::registry::Registry;

/// How much of a refusal is read.
const MAX_ERROR: usize = 50_000;

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

/// Serves a connect subresource of a pod, node or service.
pub async fn serve(
    server: &Arc<Server>,
    call: Call,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Result<Reply, Status> {
    let i = &call.info;
    // A name of the proxy carries a scheme and a port.
    let name = if i.subresource == "proxy" { proxy::bare_name(&i.name) } else { &i.name };
    if i.subresource != "log" {
        let ctx = server.write_context(&call)?;
        let (ns, sub) = (&i.namespace, &i.subresource);
        let attributes = Registry::attributes(&ctx, resource, Operation::Connect, ns, name, sub);
        let mut options = connect_options(resource, &call);
        server.registry().admit_mutate(&attributes, &mut options, None).await?;
        server.registry().admit_validate(&attributes, Some(&options), None).await?;
    }
    if i.subresource == "proxy" {
        return proxy::serve(server, call, body).await;
    }
    if i.subresource != "log" && !forward::is_upgrade(&call.parts.headers) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    if i.subresource == "log" && !has_node(server, &call).await? {
        return Ok(respond::bytes(200, "text/plain", ""));
    }
    let target = target_of(server, &call).await?;
    pass_on(server, call, target, body).await
}

/// The query of a connection as the options object that admission sees. What admission changes of
/// it has no effect: the connection is made as it was asked for.
fn connect_options(resource: &Resource, call: &Call) -> Value {
    let kind = match resource.subresource(&call.info.subresource) {
        Some(Subresource::Other { kind, .. }) => *kind,
        _ => "",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(name) {
            options[name] = true.into();
        }
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let ports: Vec<i64> = call.query.all("ports").filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    if call.info.subresource == "proxy" {
        options["path"] = format!("/{}", call.info.rest).into();
    }
    options
}

/// The address of a node's kubelet.
pub(super) async fn kubelet_address(server: &Arc<Server>, name: &str) -> Result<(String, u16), Status> {
    let nodes = server.resource("", "v1", "nodes")?;
    let node = server.registry().get(&nodes, "", name).await?.typed::<Node>()?;
    let status = node.status.as_ref();
    let endpoint = status.and_then(|s| s.daemon_endpoints.as_ref()).and_then(|d| d.kubelet_endpoint.as_ref());
    let addresses = status.and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let order = ["InternalIP", "ExternalIP", "Hostname"];
    let address = order.iter().find_map(|t| addresses.iter().find(|a| a.type_ == *t));
    let address = address.ok_or_else(|| Status::unavailable(format!("node {name:?} has no address yet")))?;
    let port = endpoint.map_or(10250, |e| e.port as u16);
    Ok((address.address.clone(), port))
}

pub(super) async fn pod_of(server: &Arc<Server>, call: &Call, name: &str) -> Result<Arc<Pod>, Status> {
    let pods = server.resource("", "v1", "pods")?;
    server.registry().get(&pods, &call.info.namespace, name).await?.typed::<Pod>()
}

/// Whether the pod is on a node; one that is not has written nothing yet.
async fn has_node(server: &Arc<Server>, call: &Call) -> Result<bool, Status> {
    let pod = pod_of(server, call, &call.info.name).await?;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    if node.is_empty() {
        container_of(call, &pod)?;
    }
    Ok(!node.is_empty())
}

async fn target_of(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let i = &call.info;
    let pod = pod_of(server, call, &i.name).await?;
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
    let node = node.ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", i.name)))?;
    let (host, port) = kubelet_address(server, &node).await?;
    let mut path = match i.subresource.as_str() {
        "portforward" => format!("/portForward/{}/{}", i.namespace, i.name),
        "log" => format!("/containerLogs/{}/{}/{}", i.namespace, i.name, container_of(call, &pod)?),
        sub => format!("/{sub}/{}/{}/{}", i.namespace, i.name, container_of(call, &pod)?),
    };
    for (n, (name, value)) in kubelet_query(call).into_iter().enumerate() {
        path.push(if n == 0 { '?' } else { '&' });
        path += &format!("{name}={}", client::api::percent_encode(&value));
    }
    Ok(Target { host, port, path })
}

/// The parameters in the kubelet's words: its streams are `input`, `output` and `error`.
fn kubelet_query(call: &Call) -> Vec<(&str, String)> {
    let renamed = |name| match name {
        "stdin" => "input",
        "stdout" => "output",
        "stderr" => "error",
        "ports" => "port",
        other => other,
    };
    let pairs = call.query.pairs().filter(|(name, _)| *name != "container");
    if call.info.subresource == "log" {
        return pairs.map(|(name, value)| (name, value.to_owned())).collect();
    }
    let switch = |name: &str| matches!(name, "stdin" | "stdout" | "stderr" | "tty");
    pairs
        .filter(|(name, _)| !switch(name) || call.query.flag(name))
        .map(|(name, value)| (renamed(name), if switch(name) { "1".to_owned() } else { value.to_owned() }))
        .collect()
}

/// The container that a request is about, by upstream's rules and in its words.
fn container_of(call: &Call, pod: &Pod) -> Result<String, Status> {
    let spec = pod.spec.as_ref();
    let names = |c: &[api::k8s::core::v1::Container]| c.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let containers = spec.map(|s| names(&s.containers)).unwrap_or_default();
    let init = spec.and_then(|s| s.init_containers.as_deref()).map(names).unwrap_or_default();
    let ephemeral: Vec<String> = spec
        .and_then(|s| s.ephemeral_containers.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|c| c.name.clone())
        .collect();
    match call.query.get("container") {
        Some(name) => {
            if containers.iter().chain(&init).chain(&ephemeral).any(|c| c == name) {
                return Ok(name.to_owned());
            }
            Err(Status::bad_request(format!("container {name} is not valid for pod {}", call.info.name)))
        }
        None => match containers.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {}", call.info.name))),
            many => {
                let mut text = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    call.info.name,
                    many.join(" ")
                );
                if !init.is_empty() {
                    text += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                Err(Status::bad_request(text))
            }
        },
    }
}

async fn pass_on(server: &Arc<Server>, mut call: Call, target: Target, body: RequestBody) -> Result<Reply, Status> {
    let log = call.info.subresource == "log";
    let url = format!("https://{}:{}{}", target.host, target.port, target.path);
    let told = |e: String| {
        let why = if log { format!("Get {url:?}: {e}") } else { format!("error dialing backend: {e}") };
        Status::new(500, "", why)
    };
    let client = call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let request = forward::request(&call.parts, &target.path, body).map_err(Status::bad_request)?;
    let tls = Tls { config: server.kubelet_tls(), name: target.host.clone() };
    let stream = forward::connect(&target.host, target.port, Some(&tls)).await.map_err(told)?;
    let reply = forward::exchange(stream, request, client).await.map_err(told)?;
    if log && !reply.status().is_success() {
        let (parts, body) = reply.into_parts();
        return Err(kubelet_said(parts.status, body).await);
    }
    Ok(reply)
}

/// A kubelet's refusal, which is plain text, as the Status that clients know how to show.
async fn kubelet_said(code: StatusCode, body: Body) -> Status {
    let text = match http_body_util::Limited::new(body, MAX_ERROR).collect().await {
        Ok(b) => String::from_utf8_lossy(&b.to_bytes()).trim().to_owned(),
        Err(e) => format!("the kubelet's answer cannot be read: {e}"),
    };
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", text),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        other => Status::new(other.as_u16(), other.canonical_reason().unwrap_or_default(), text),
    }
}
