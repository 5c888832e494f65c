//! The addresses behind a service, for connections that the server itself makes: its host may
//! have no rules for cluster addresses.

use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{Endpoints, Service, ServicePort};

use crate::Server;

/// One endpoint of a service's port, any of those that are ready; the name as which messages
/// show the service is `shown`.
///
/// # Errors
/// 404 when there is no such service, 503 when it has no such port or nobody answers there.
pub async fn one(
    server: &Arc<Server>,
    namespace: &str,
    name: &str,
    shown: &str,
    wanted: impl Fn(&ServicePort) -> bool,
) -> Result<(String, u16), Status> {
    let services = server.resource("", "v1", "services")?;
    let endpoints = server.resource("", "v1", "endpoints")?;
    let service = server.registry().get(&services, namespace, name).await?.typed::<Service>()?;
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let none = || Status::unavailable(format!("no endpoints available for service {shown:?}"));
    let wanted = ports.iter().find(|p| wanted(p)).ok_or_else(none)?;
    if let Some(external) = spec.filter(|s| s.type_.as_deref() == Some("ExternalName")) {
        return Ok((external.external_name.clone().ok_or_else(none)?, wanted.port as u16));
    }
    let subsets = server.registry().get(&endpoints, namespace, name).await.map_err(|_| none())?;
    let subsets = subsets.typed::<Endpoints>()?;
    let mut candidates = Vec::new();
    for subset in subsets.subsets.iter().flatten() {
        let same = |name: &Option<String>| name.as_deref().unwrap_or("") == wanted.name.as_deref().unwrap_or("");
        for p in subset.ports.iter().flatten().filter(|p| same(&p.name)) {
            candidates.extend(subset.addresses.iter().flatten().map(|a| (a.ip.clone(), p.port as u16)));
        }
    }
    if candidates.is_empty() {
        return Err(none());
    }
    Ok(candidates.swap_remove(rand::random_range(0..candidates.len())))
}

/// As [`one`], of the port of this number.
///
/// # Errors
/// As [`one`], in the words of those who dial a service by its number.
pub async fn one_of_port(
    server: &Arc<Server>,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), Status> {
    match one(server, namespace, name, name, |p| p.port == i32::from(port)).await {
        Err(s) if s.is_not_found() => Err(Status { message: format!("service {name:?} not found"), ..s }),
        found => found,
    }
}
