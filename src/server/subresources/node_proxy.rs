//! Requests that end at a node or a pod: `log`, `exec`, `attach`, `portforward`, `proxy`.
//!
//! The server authenticates to the kubelet with its own client certificate and passes the
//! stream through byte for byte, also after an upgrade.

use std::sync::Arc;

use api::k8s::core::v1::{Node, Pod, ServicePort};
use api::{Resource, Status, Subresource};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::Server;
use crate::admission::Operation;
use crate::http::respond::{Body, Reply};
use crate::http::{Call, RequestBody};
use crate::registry::Registry;
use crate::service_endpoints;

/// How long a connection to a node may take.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// How much of a refusal is read.
const MAX_ERROR: usize = 50_000;

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    tls: bool,
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
    let (name, _) = split_port(&i.name);
    if i.subresource != "log" {
        let ctx = server.write_context(&call)?;
        let (ns, sub) = (&i.namespace, &i.subresource);
        let attributes = Registry::attributes(&ctx, resource, Operation::Connect, ns, name, sub);
        let mut options = connect_options(resource, &call);
        server.registry().admit_mutate(&attributes, &mut options, None).await?;
        server.registry().admit_validate(&attributes, Some(&options), None).await?;
    }
    let target = match (resource.plural.as_str(), i.subresource.as_str()) {
        ("pods", "proxy") => pod_target(server, &call).await?,
        ("services", "proxy") => service_target(server, &call).await?,
        ("nodes", "proxy") => {
            let (host, port) = kubelet_address(server, &i.name).await?;
            Target { host, port, tls: true, path: with_query(&format!("/{}", i.rest), &call) }
        }
        ("pods", _) => container_target(server, &call).await?,
        _ => return Err(Status::no_such_resource()),
    };
    forward(server, call, target, body).await
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

fn with_query(path: &str, call: &Call) -> String {
    match call.parts.uri.query() {
        Some(q) => format!("{path}?{q}"),
        None => path.to_owned(),
    }
}

/// `[scheme:]name[:port]` → name and the rest.
fn split_port(name: &str) -> (&str, Option<&str>) {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name, port] => (name, Some(port)),
        [_, name, port] => (name, Some(port)),
        _ => (name, None),
    }
}

/// The address of a node's kubelet.
async fn kubelet_address(server: &Arc<Server>, node: &str) -> Result<(String, u16), Status> {
    let nodes = server.resource("", "v1", "nodes")?;
    let (name, port) = split_port(node);
    let node = server.registry().get(&nodes, "", name).await?.typed::<Node>()?;
    let status = node.status.as_ref();
    let endpoint = status.and_then(|s| s.daemon_endpoints.as_ref()).and_then(|d| d.kubelet_endpoint.as_ref());
    let addresses = status.and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let order = ["InternalIP", "ExternalIP", "Hostname"];
    let address = order.iter().find_map(|t| addresses.iter().find(|a| a.type_ == *t));
    let address = address.ok_or_else(|| Status::unavailable(format!("node {name:?} has no address yet")))?;
    let port = port.and_then(|p| p.parse().ok()).or(endpoint.map(|e| e.port as u16)).unwrap_or(10250);
    Ok((address.address.clone(), port))
}

async fn pod_of(server: &Arc<Server>, call: &Call, name: &str) -> Result<Arc<Pod>, Status> {
    let pods = server.resource("", "v1", "pods")?;
    server.registry().get(&pods, &call.info.namespace, name).await?.typed::<Pod>()
}

async fn pod_target(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let (name, port) = split_port(&call.info.name);
    let pod = pod_of(server, call, name).await?;
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty());
    let host =
        ip.ok_or_else(|| Status::bad_request(format!("address not allowed: pod {name:?} has no IP address yet")))?;
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    let ports = || containers.iter().flat_map(|c| c.ports.iter().flatten());
    let port = match port {
        None => ports().next().map_or(80, |p| p.container_port as u16),
        Some(p) => match p.parse() {
            Ok(n) => n,
            Err(_) => ports()
                .find(|c| c.name.as_deref() == Some(p))
                .map(|c| c.container_port as u16)
                .ok_or_else(|| Status::bad_request(format!("pod {name:?} has no port {p:?}")))?,
        },
    };
    let tls = call.info.name.starts_with("https:");
    Ok(Target { host, port, tls, path: with_query(&format!("/{}", call.info.rest), call) })
}

async fn service_target(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let i = &call.info;
    let (name, port) = split_port(&i.name);
    let wanted = |s: &ServicePort| match port {
        None | Some("") => true,
        Some(p) => s.name.as_deref() == Some(p) || p.parse() == Ok(s.port),
    };
    let (host, port) = service_endpoints::one(server, &i.namespace, name, &i.name, wanted).await?;
    let tls = i.name.starts_with("https:");
    Ok(Target { host, port, tls, path: with_query(&format!("/{}", i.rest), call) })
}

async fn container_target(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let i = &call.info;
    let pod = pod_of(server, call, &i.name).await?;
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
    let node = node.ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", i.name)))?;
    let (host, port) = kubelet_address(server, &node).await?;
    if i.subresource == "portforward" {
        let path = with_query(&format!("/portForward/{}/{}", i.namespace, i.name), call);
        return Ok(Target { host, port, tls: true, path });
    }
    let container = container_of(call, &pod)?;
    let root = match i.subresource.as_str() {
        "log" => "containerLogs",
        "exec" => "exec",
        _ => "attach",
    };
    let mut path = format!("/{root}/{}/{}/{container}", i.namespace, i.name);
    for (n, (name, value)) in kubelet_query(call).into_iter().enumerate() {
        path.push(if n == 0 { '?' } else { '&' });
        path += &format!("{name}={}", client::api::percent_encode(&value));
    }
    Ok(Target { host, port, tls: true, path })
}

/// The parameters in the kubelet's words: its streams are `input`, `output` and `error`.
fn kubelet_query(call: &Call) -> Vec<(&str, String)> {
    let renamed = |name| match name {
        "stdin" => "input",
        "stdout" => "output",
        "stderr" => "error",
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

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn dial(server: &Arc<Server>, target: &Target, kubelet: bool) -> Result<Box<dyn Stream>, Status> {
    let failed = |e: &dyn std::fmt::Display| {
        Status::unavailable(format!("error trying to reach {}:{}: {e}", target.host, target.port))
    };
    let connect = TcpStream::connect((target.host.trim_matches(['[', ']']), target.port));
    let tcp = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(s)) => s,
        Ok(Err(e)) => return Err(failed(&e)),
        Err(e) => return Err(failed(&e)),
    };
    // Interactive streams: small writes must not wait.
    tcp.set_nodelay(true).map_err(|e| failed(&e))?;
    if !target.tls {
        return Ok(Box::new(tcp));
    }
    let config = if kubelet { server.kubelet_tls() } else { server.insecure_tls() };
    let name = ServerName::try_from(target.host.clone()).map_err(|e| failed(&e))?;
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(|e| failed(&e))?;
    Ok(Box::new(tls))
}

async fn forward(server: &Arc<Server>, mut call: Call, target: Target, body: RequestBody) -> Result<Reply, Status> {
    let kubelet = call.info.subresource != "proxy" || call.info.resource == "nodes";
    let stream = dial(server, &target, kubelet).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Status::internal)?;
    // Ends with the exchange, or with the upgraded stream that is taken out of it.
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "a proxied connection ended");
        }
    });
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() =
        target.path.parse::<Uri>().map_err(|e| Status::bad_request(format!("the path cannot be passed on: {e}")))?;
    *request.headers_mut() = call.parts.headers.clone();
    let host = HeaderValue::from_str(&format!("{}:{}", target.host, target.port)).map_err(Status::internal)?;
    request.headers_mut().insert(HOST, host);
    // The caller's credentials are for this server only.
    request.headers_mut().remove(AUTHORIZATION);
    let upgrade = call.parts.headers.contains_key(UPGRADE);
    if !upgrade {
        request.headers_mut().remove(CONNECTION);
    }
    let client_side = call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|e| Status::unavailable(format!("error trying to reach {}:{}: {e}", target.host, target.port)))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client_side) = client_side
    {
        let node_side = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(a), Ok(b)) = tokio::join!(client_side, node_side) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(a), &mut TokioIo::new(b)).await;
            }
        });
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::default()));
    }
    let (mut parts, incoming) = response.into_parts();
    if call.info.subresource == "log" && !parts.status.is_success() {
        return Err(kubelet_said(parts.status, incoming).await);
    }
    for hop in ["connection", "transfer-encoding", "keep-alive"] {
        parts.headers.remove(hop);
    }
    // A node that breaks off in the middle ends the body early; the client sees a short stream.
    let body = incoming.map_frame(|f| f);
    let stream = futures::StreamExt::filter_map(http_body_util::BodyStream::new(body), |f| async { f.ok().map(Ok) });
    Ok(Response::from_parts(parts, http_body_util::StreamBody::new(stream).boxed_unsync()))
}

/// A kubelet's refusal, which is plain text, as the Status that clients know how to show.
async fn kubelet_said(code: StatusCode, body: hyper::body::Incoming) -> Status {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_a_scheme_and_a_port() {
        assert_eq!(split_port("a"), ("a", None));
        assert_eq!(split_port("a:80"), ("a", Some("80")));
        assert_eq!(split_port("https:a:web"), ("a", Some("web")));
    }
}
