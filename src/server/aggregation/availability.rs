//! Whether the servers behind APIServices answer, told in the condition `Available`
//! (upstream: `kube-aggregator/pkg/controllers/status`).

use std::sync::Arc;
use std::time::Duration;

use api::codec::Decoded;
use api::k8s::core::v1::{Endpoints, Service};
use api::time::rfc3339;
use api::{Object, Resource, Status};
use client::{Gvr, Informers, ListParams, WorkQueue};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Backend, documents};
use crate::Server;
use crate::bootstrap::system;
use crate::registry::WriteContext;

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
/// How often a server is asked again: its end is no event of this cluster.
const AGAIN: Duration = Duration::from_secs(30);
/// How long one check may take.
const CHECK: Duration = Duration::from_secs(5);
/// How often a check is tried before it has failed.
const ATTEMPTS: usize = 5;

/// Status, reason and message of the condition.
type Condition = (&'static str, &'static str, String);

/// Takes in the APIServices from before a restart.
///
/// # Errors
/// When stored objects cannot be read.
pub fn restore(server: &Arc<Server>) -> Result<(), Status> {
    let resource = server.resource(GROUP, "v1", PLURAL)?;
    let objects = server.registry().cache(&resource)?.objects();
    objects.values().try_for_each(|o| server.aggregation().set(server, o))
}

/// Starts following APIServices, and the services behind them.
pub fn start(server: &Arc<Server>, tasks: &TaskTracker, cancel: &CancellationToken) {
    let queue: Arc<WorkQueue<String>> = Arc::default();
    let informers = Informers::new(server.client(system()), tasks.clone(), cancel.clone());
    {
        let queue = queue.clone();
        let all = informers.select(Gvr::new(GROUP, "v1", PLURAL), ListParams::all());
        all.on_change(move |c| queue.add(c.object().key().to_owned()));
    }
    for plural in ["services", "endpoints"] {
        let (queue, server) = (queue.clone(), server.clone());
        let behind = informers.select(Gvr::new("", "v1", plural), ListParams::all());
        behind.on_change(move |c| {
            let m = c.object().meta();
            server.aggregation().names_of_service(m.namespace, m.name).into_iter().for_each(|n| queue.add(n));
        });
    }
    {
        let (queue, server, cancel) = (queue.clone(), server.clone(), cancel.clone());
        tasks.spawn(async move {
            let again = async {
                loop {
                    tokio::time::sleep(AGAIN).await;
                    server.aggregation().names_with_service().into_iter().for_each(|n| queue.add(n));
                }
            };
            let _: Option<()> = cancel.run_until_cancelled(again).await;
        });
    }
    let (server, cancel) = (server.clone(), cancel.clone());
    tasks.spawn(async move {
        let work = async {
            while let Some(name) = queue.get().await {
                // One that hangs must not keep the others waiting.
                let (queue, server) = (queue.clone(), server.clone());
                tokio::spawn(async move {
                    match reconcile(&server, &name).await {
                        Ok(true) => queue.forget(&name),
                        Ok(false) => queue.add_rate_limited(name.clone()),
                        Err(s) => {
                            if !s.is_conflict() {
                                tracing::warn!(name, error = %s, "the state of an APIService cannot be told; trying again");
                            }
                            queue.add_rate_limited(name.clone());
                        }
                    }
                    queue.done(&name);
                });
            }
        };
        let _ = cancel.run_until_cancelled(work).await;
    });
}

/// Checks one APIService; whether it is well.
async fn reconcile(server: &Arc<Server>, name: &str) -> Result<bool, Status> {
    let resource = server.resource(GROUP, "v1", PLURAL)?;
    let object = match server.registry().get(&resource, "", name).await {
        Ok(o) => o,
        Err(s) if s.is_not_found() => {
            server.aggregation().remove(name);
            return Ok(true);
        }
        Err(s) => return Err(s),
    };
    server.aggregation().set(server, &object)?;
    let spec = &object.to_value()["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let Some(backend) = server.aggregation().backend(text("group"), text("version")) else {
        let local = ("True", "Local", "Local APIServices are always available".to_owned());
        tell(server, &resource, &object, local).await?;
        return Ok(true);
    };
    let condition = match check_service(server, &backend).await {
        Err(bad) => bad,
        Ok(shown) => match ask(server, &backend, &shown).await {
            Ok(()) => ("True", "Passed", "all checks passed".to_owned()),
            Err(why) => ("False", "FailedDiscoveryCheck", why),
        },
    };
    let well = condition.1 != "FailedDiscoveryCheck";
    server.aggregation().set_available(&backend, condition.0 == "True");
    tell(server, &resource, &object, condition).await?;
    Ok(well)
}

/// Whether the service and its endpoints are there; the address that messages show.
async fn check_service(server: &Arc<Server>, backend: &Backend) -> Result<String, Condition> {
    let (s, port) = (&backend.service, backend.service.port());
    let who = format!("service/{} in {:?}", s.name, s.namespace);
    let read = async |plural: &str| {
        let resource = server.resource("", "v1", plural)?;
        server.registry().get(&resource, &s.namespace, &s.name).await
    };
    let unknown = |reason, e: Status| ("Unknown", reason, format!("{who} cannot be checked due to: {e}"));
    let service = match read("services").await.and_then(|o| o.typed::<Service>()) {
        Ok(service) => service,
        Err(e) if e.is_not_found() => return Err(("False", "ServiceNotFound", format!("{who} is not present"))),
        Err(e) => return Err(unknown("ServiceAccessError", e)),
    };
    let spec = service.spec.as_ref();
    let shown = spec.and_then(|s| s.cluster_ip.clone()).filter(|ip| ip != "None" && !ip.is_empty());
    let shown = format!("{}:{port}", shown.unwrap_or_else(|| s.host()));
    if spec.and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP") != "ClusterIP" {
        return Ok(shown);
    }
    let mut ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default().iter();
    let Some(found) = ports.find(|p| p.port == i32::from(port)) else {
        return Err(("False", "ServicePortError", format!("{who} is not listening on port {port}")));
    };
    let port_name = found.name.as_deref().unwrap_or("");
    let endpoints = match read("endpoints").await.and_then(|o| o.typed::<Endpoints>()) {
        Ok(endpoints) => endpoints,
        Err(e) if e.is_not_found() => {
            return Err(("False", "EndpointsNotFound", format!("cannot find endpoints for {who}")));
        }
        Err(e) => return Err(unknown("EndpointsAccessError", e)),
    };
    let mut subsets =
        endpoints.subsets.iter().flatten().filter(|s| s.addresses.as_ref().is_some_and(|a| !a.is_empty()));
    let alive = subsets.any(|s| s.ports.iter().flatten().any(|p| p.name.as_deref().unwrap_or("") == port_name));
    if alive {
        return Ok(shown);
    }
    let why = format!("endpoints for {who} have no addresses with port name {port_name:?}");
    Err(("False", "MissingEndpoints", why))
}

/// Asks the server what it serves.
async fn ask(server: &Arc<Server>, backend: &Backend, shown: &str) -> Result<(), String> {
    let path = format!("/apis/{}/{}", backend.spec.group, backend.spec.version);
    let url = format!("https://{shown}{path}");
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(CHECK, documents::get(server, backend, &path)).await {
            Ok(Ok((status, body))) if status.is_success() || status.is_redirection() => {
                documents::refresh(server, backend, &body).await;
                return Ok(());
            }
            Ok(Ok((status, _))) => {
                failure = format!("failing or missing response from {url}: bad status from {url}: {}", status.as_u16());
            }
            Ok(Err(e)) => failure = format!("failing or missing response from {url}: Get {url:?}: {e}"),
            Err(_) => {
                failure = format!("failing or missing response from {url}: Get {url:?}: context deadline exceeded");
                // To wait as often as others may be tried is too long.
                break;
            }
        }
    }
    Err(failure)
}

/// Tells the condition, where it is not told yet.
async fn tell(
    server: &Arc<Server>,
    resource: &Resource,
    object: &Object,
    (status, reason, message): Condition,
) -> Result<(), Status> {
    let available = |o: &Value| {
        let mut all = o["status"]["conditions"].as_array().into_iter().flatten();
        all.find(|c| c["type"] == "Available").cloned().unwrap_or_default()
    };
    let same = |c: &Value| c["status"] == status && c["reason"] == reason && c["message"] == message.as_str();
    if same(&available(&object.to_value())) {
        return Ok(());
    }
    let change = |old: &Value| {
        let mut new = old.clone();
        let before = available(old);
        let since = match before["status"] == status {
            true => before["lastTransitionTime"].clone(),
            false => rfc3339(Timestamp::now()).into(),
        };
        let condition = json!({"type": "Available", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since});
        let others = old["status"]["conditions"].as_array().into_iter().flatten();
        let others = others.filter(|c| c["type"] != "Available").cloned();
        new["status"]["conditions"] = others.chain([condition]).collect();
        Ok(Decoded { value: new, ..Default::default() })
    };
    let told = server.registry().modify(&WriteContext::new(system()), resource, "", object.meta().name, &change).await;
    match told {
        Err(s) if !s.is_not_found() => Err(s),
        _ => Ok(()),
    }
}
