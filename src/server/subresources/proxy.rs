//! `proxy` of pods, services and nodes: any request, passed on to a port of theirs.
//!
//! The server dials the address itself: it must have a way to it, as a server has whose own agent
//! runs. The name may carry a scheme and a port: `https:name:port`.

use std::net::IpAddr;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{Endpoints, Pod, Service};
use http::header::{HOST, HeaderValue, LOCATION};
use http::{Method, StatusCode};

use crate::Server;
use crate::forward::{self, Tls, rewrite};
use crate::http::respond::{self, Reply};
use crate::http::{Call, RequestBody};
use crate::subresources::node_proxy::{kubelet_address, pod_of};

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

/// `[scheme:]name[:port]`
#[derive(Debug, PartialEq)]
struct Named<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(id: &'a str, kind: &str) -> Result<Named<'a>, Status> {
        let invalid = || Status::bad_request(format!("invalid {kind} request {id:?}"));
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
            _ => return Err(invalid()),
        };
        if name.is_empty() { Err(invalid()) } else { Ok(Named { scheme, name, port }) }
    }

    /// TLS towards a target that nobody vouches for, as upstream.
    fn tls(&self, server: &Server, host: &str) -> Option<Tls> {
        (self.scheme == "https").then(|| Tls { config: server.insecure_tls(), name: host.to_owned() })
    }

    fn port(&self) -> u16 {
        self.port.parse().unwrap_or(if self.scheme == "https" { 443 } else { 80 })
    }
}

/// The name of the object alone: what admission and authorization are about.
pub(super) fn bare_name(id: &str) -> &str {
    Named::parse(id, "").map_or(id, |n| n.name)
}

/// What is on this host, or on its links only, is nobody's to reach through the server.
fn proxyable(address: &str) -> Result<(), Status> {
    let refused = || Status::bad_request("address not allowed");
    let ip: IpAddr = address.parse().map_err(|_| refused())?;
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || local { Err(refused()) } else { Ok(()) }
}

async fn pod(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let named = Named::parse(&call.info.name, "pod")?;
    let pod = pod_of(server, call, named.name).await?;
    let host = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    let mut ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
    let port = match named.port {
        "" => ports.next().map_or(named.port(), |p| p.container_port as u16),
        p if p.parse::<u16>().is_ok() => named.port(),
        p => ports
            .find(|c| c.name.as_deref() == Some(p))
            .map(|c| c.container_port as u16)
            .ok_or_else(|| Status::bad_request(format!("pod {:?} has no port {p:?}", named.name)))?,
    };
    proxyable(&host)?;
    Ok(Target { tls: named.tls(server, &host), host, port })
}

/// Whether an address of a service is that of the pod that it names: what else a service is said
/// to be at is not reached through the server.
fn is_of_pod(server: &Server, namespace: &str, address: &api::k8s::core::v1::EndpointAddress) -> bool {
    let Some(target) = &address.target_ref else { return false };
    if target.namespace.as_deref() != Some(namespace) {
        return false;
    }
    let pods = server.resource("", "v1", "pods");
    let pod = pods.and_then(|r| server.registry().get_cached(&r, namespace, target.name.as_deref().unwrap_or("")));
    let Ok(pod) = pod.and_then(|o| o.typed::<Pod>()) else { return false };
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    ips.iter().any(|ip| ip.ip == address.ip)
}

async fn service(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let (id, namespace) = (&call.info.name, call.info.namespace.as_str());
    let named = Named::parse(id, "service")?;
    let mut port = named.port.to_owned();
    if let Ok(number) = named.port.parse::<i32>() {
        let services = server.resource("", "v1", "services")?;
        let service = server.registry().get(&services, namespace, named.name).await?.typed::<Service>()?;
        let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
        let found = ports.iter().find(|p| p.port == number).ok_or_else(|| {
            Status::unavailable(format!("no service port {number} found for service {:?}", named.name))
        })?;
        port = found.name.clone().unwrap_or_default();
    }
    let endpoints = server.resource("", "v1", "endpoints")?;
    let endpoints = server.registry().get(&endpoints, namespace, named.name).await?.typed::<Endpoints>()?;
    let none = |shown: &str| Status::unavailable(format!("no endpoints available for service {shown:?}"));
    if endpoints.subsets.as_ref().is_none_or(Vec::is_empty) {
        return Err(none(named.name));
    }
    let mut candidates = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for p in subset.ports.iter().flatten().filter(|p| p.name.as_deref().unwrap_or("") == port) {
            let own = subset.addresses.iter().flatten().filter(|a| is_of_pod(server, namespace, a));
            candidates.extend(own.map(|a| (a.ip.clone(), p.port as u16)));
        }
    }
    if candidates.is_empty() {
        return Err(none(id));
    }
    let (host, port) = candidates.swap_remove(rand::random_range(0..candidates.len()));
    proxyable(&host)?;
    Ok(Target { tls: named.tls(server, &host), host, port })
}

async fn node(server: &Arc<Server>, call: &Call) -> Result<Target, Status> {
    let named = Named::parse(&call.info.name, "node")?;
    let (host, kubelet) = kubelet_address(server, named.name).await?;
    if named.port.is_empty() || named.port == kubelet.to_string() {
        let tls = Some(Tls { config: server.kubelet_tls(), name: host.clone() });
        return Ok(Target { host, port: kubelet, tls });
    }
    proxyable(&host)?;
    Ok(Target { port: named.port(), tls: named.tls(server, &host), host })
}

/// Passes a request on.
///
/// # Errors
/// 400, 404, and 503 when nobody answers there.
pub(super) async fn serve(server: &Arc<Server>, mut call: Call, body: RequestBody) -> Result<Reply, Status> {
    let target = match call.info.resource.as_str() {
        "pods" => pod(server, &call).await?,
        "services" => service(server, &call).await?,
        _ => node(server, &call).await?,
    };
    let (path, query) = (call.parts.uri.path().to_owned(), call.parts.uri.query());
    // The target's path as it was sent: nothing is decoded on the way.
    let own = format!("/{}", call.info.rest);
    let upgrade = forward::is_upgrade(&call.parts.headers);
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    if call.info.rest.is_empty() && !path.ends_with('/') && !upgrade {
        // Relative links of a page at the root need the slash.
        if matches!(call.parts.method, Method::GET | Method::HEAD) {
            let location = HeaderValue::from_str(&format!("{path}/{query}")).map_err(Status::internal)?;
            let mut reply = respond::bytes(StatusCode::MOVED_PERMANENTLY.as_u16(), "text/html; charset=utf-8", "");
            reply.headers_mut().insert(LOCATION, location);
            return Ok(reply);
        }
    }
    let prefix = path.strip_suffix(&own).unwrap_or(&path).to_owned();
    let client = call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut request = forward::request(&call.parts, &format!("{own}{query}"), body).map_err(Status::bad_request)?;
    let asked = request.headers().get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if let Ok(uri) = HeaderValue::from_str(&path) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    let told = |e: String| match upgrade {
        true => Status::new(500, "", format!("error dialing backend: {e}")),
        false => Status::unavailable(format!("error trying to reach service: {e}")),
    };
    let stream = forward::connect(&target.host, target.port, target.tls.as_ref()).await.map_err(told)?;
    let reply = forward::exchange(stream, request, client).await.map_err(told)?;
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(reply);
    }
    let target = format!("{}:{}", target.host, target.port);
    Ok(rewrite::answer(reply, &rewrite::Place { prefix: &prefix, target: &target, asked: &asked }).await)
}

#[cfg(test)]
mod tests;
