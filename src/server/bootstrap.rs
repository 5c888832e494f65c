//! The objects every cluster starts with: namespaces, RBAC, priority classes, the `kubernetes`
//! service with its endpoints. Applied at every start, before anybody is let in.

use std::net::IpAddr;
use std::sync::Arc;

use api::codec::Decoded;
use api::{Object, Resource, Status};
use serde_json::{Value, json};

use crate::Server;
use crate::registry::WriteContext;
use crate::request::User;

const MANIFESTS: [&str; 5] = [
    include_str!("../../manifests/namespaces.yaml"),
    include_str!("../../manifests/rbac.yaml"),
    include_str!("../../manifests/authentication.yaml"),
    include_str!("../../manifests/certificates.yaml"),
    include_str!("../../manifests/priority-classes.yaml"),
];

/// The identity of the server itself.
pub fn system() -> User {
    User::authenticated("system:apiserver", &["system:masters"])
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n---\n")
        .map(|d| d.trim_start_matches("---\n"))
        .filter(|d| d.lines().any(|l| !l.starts_with('#') && !l.trim().is_empty()))
}

/// Makes sure that everything a cluster starts with is there.
///
/// # Errors
/// What the pipeline says; the message names the object.
pub async fn run(server: &Arc<Server>) -> Result<(), Status> {
    for text in MANIFESTS {
        // Together, so that they share the syncs of the disk.
        futures::future::try_join_all(documents(text).map(|document| async {
            let wanted = api::codec::parse_tree(document.as_bytes(), true)?;
            ensure(server, &wanted).await
        }))
        .await?;
    }
    crate::api_services::register_builtin(server).await?;
    crate::aggregation::trust::publish(server).await?;
    ensure_service(server).await
}

fn named(s: Status, wanted: &Value) -> Status {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    Status {
        message: format!(
            "the bootstrap object {} {name:?}: {}",
            wanted["kind"].as_str().unwrap_or_default(),
            s.message
        ),
        ..s
    }
}

pub(crate) async fn ensure(server: &Arc<Server>, wanted: &Value) -> Result<(), Status> {
    let resource = resource_of(server, wanted)?;
    let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match server.registry().get(&resource, &namespace, &name).await {
        Err(s) if s.is_not_found() => create(server, &resource, &namespace, wanted).await,
        Err(s) => Err(named(s, wanted)),
        Ok(current) if wanted.get("rules").is_some() => add_rules(server, &resource, &current, wanted).await,
        Ok(_) => Ok(()),
    }
}

async fn create(server: &Arc<Server>, resource: &Resource, namespace: &str, wanted: &Value) -> Result<(), Status> {
    let ctx = WriteContext::new(system());
    let decoded = api::codec::check(wanted.clone(), &resource.schema).map_err(|s| named(s, wanted))?;
    if let Some(f) = decoded.unknown.first() {
        return Err(named(Status::internal(format!("unknown field {f}")), wanted));
    }
    match server.registry().create(&ctx, resource, namespace, "", decoded).await {
        Ok(_) => Ok(()),
        Err(s) if s.is_already_exists() => Ok(()),
        Err(s) => Err(named(s, wanted)),
    }
}

/// Adds the rules that a newer version brings, unless the object opts out of updates.
async fn add_rules(server: &Arc<Server>, resource: &Resource, current: &Object, wanted: &Value) -> Result<(), Status> {
    let updates = current.annotation("rbac.authorization.kubernetes.io/autoupdate");
    if updates.is_none_or(|v| v != "true") || wanted.get("aggregationRule").is_some() {
        return Ok(());
    }
    let have = current.to_value();
    let missing: Vec<Value> = wanted["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|r| !have["rules"].as_array().is_some_and(|l| l.contains(r)))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let ctx = WriteContext::new(system());
    let change = |old: &Value| {
        let mut new = old.clone();
        let mut rules = new["rules"].as_array().cloned().unwrap_or_default();
        rules.extend(missing.iter().cloned());
        new["rules"] = Value::Array(rules);
        Ok(Decoded { value: new, unknown: Vec::new(), duplicate: Vec::new() })
    };
    server
        .registry()
        .update(&ctx, resource, "", current.meta().name, "", false, &change)
        .await
        .map_err(|s| named(s, wanted))?;
    Ok(())
}

fn resource_of(server: &Arc<Server>, v: &Value) -> Result<Arc<Resource>, Status> {
    let (api_version, kind) = (v["apiVersion"].as_str().unwrap_or_default(), v["kind"].as_str().unwrap_or_default());
    let found =
        server.resources().iter().find(|r| r.api_version() == api_version && r.kind == kind && r.stored).cloned();
    found.ok_or_else(|| Status::internal(format!("no resource for {api_version} {kind}")))
}

/// The first address of the service range: the `kubernetes` service.
pub fn kubernetes_service_ip(server: &Server) -> IpAddr {
    match server.config().service_cidr.network() {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + 1).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + 1).into()),
    }
}

async fn ensure_service(server: &Arc<Server>) -> Result<(), Status> {
    let config = server.config();
    let address = config.advertise_address;
    let ip = kubernetes_service_ip(server).to_string();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.port}]}});
    ensure(server, &service).await?;
    if address.is_loopback() || address.is_unspecified() {
        tracing::warn!(%address, "the advertised address cannot be reached by pods; the service default/kubernetes gets no endpoints. Set --advertise-address");
        return Ok(());
    }
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}]}]});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}]});
    for wanted in [endpoints, slice] {
        replace(server, &wanted).await?;
    }
    Ok(())
}

/// Creates an object, or gives it the wanted contents.
async fn replace(server: &Arc<Server>, wanted: &Value) -> Result<(), Status> {
    let resource = resource_of(server, wanted)?;
    let ctx = WriteContext::new(system());
    let change = |old: &Value| {
        let mut new = wanted.clone();
        if let Some(rv) = old["metadata"].get("resourceVersion") {
            new["metadata"]["resourceVersion"] = rv.clone();
        }
        api::codec::check(new, &resource.schema)
    };
    server
        .registry()
        .update(&ctx, &resource, "default", "kubernetes", "", true, &change)
        .await
        .map_err(|s| named(s, wanted))?;
    Ok(())
}
