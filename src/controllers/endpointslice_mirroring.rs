//! Mirrors Endpoints that somebody made by hand into EndpointSlices, for a service without a
//! selector (upstream: `pkg/controller/endpointslicemirroring`).
//!
//! Invariants: a slice of ours carries this controller's label and belongs to its Endpoints; there
//! is one for each set of ports and address family, with at most [`MAX_ENDPOINTS`] addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{EndpointAddress, Endpoints, Service};
use api::k8s::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use api::meta::apis::meta::v1::ObjectMeta;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::endpointslice::{BY_SERVICE, MANAGED_BY, SERVICE_NAME, index_by_service};
use crate::pod_control::{self as pods, name, namespace};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "endpointslicemirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something about the Endpoints alone.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
const MAX_ENDPOINTS: usize = 1000;

struct Mirroring {
    client: Client,
    endpoints: Informer,
    services: Informer,
    slices: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let endpoints = context.informers.of::<Endpoints>();
    let services = context.informers.of::<Service>();
    let slices = context.informers.of::<EndpointSlice>();
    index_by_service(&slices);
    let queue = Queue::default();
    runtime::enqueue_own(&endpoints, &queue);
    runtime::enqueue_own(&services, &queue);
    {
        let queue = queue.clone();
        slices.on_change(move |c| {
            for m in [&c.old, &c.new].into_iter().flatten().map(|o| o.meta()) {
                if let (Some(s), Some(MANAGER)) = (m.labels.get(SERVICE_NAME), m.labels.get(MANAGED_BY)) {
                    queue.add(api::key_of(m.namespace, s));
                }
            }
        });
    }
    let caches = vec![endpoints.clone(), services.clone(), slices.clone()];
    runtime::run(context, Arc::new(Mirroring { client, endpoints, services, slices }), queue, caches, 1);
}

fn is_ours(slice: &EndpointSlice) -> bool {
    pods::labels(slice).get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
}

/// Whether Endpoints are anybody's to mirror.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let annotations = endpoints.metadata.annotations.as_ref();
    pods::labels(endpoints).get(SKIP).map(String::as_str) != Some("true")
        && !annotations.is_some_and(|a| a.contains_key(LEADER))
        && endpoints.metadata.deletion_timestamp.is_none()
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

type Ports = Vec<(Option<String>, i32, Option<String>, Option<String>)>;

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

/// The endpoints by address family and ports; addresses that are none are left out.
fn groups(endpoints: &Endpoints) -> BTreeMap<(bool, Ports), Vec<Endpoint>> {
    let mut groups: BTreeMap<(bool, Ports), Vec<Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten();
        let mut ports: Ports =
            ports.map(|p| (p.name.clone(), p.port, p.protocol.clone(), p.app_protocol.clone())).collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                tracing::warn!(endpoints = name(endpoints), ip = address.ip, "not an address; it is not mirrored");
                continue;
            };
            let group = groups.entry((ip.is_ipv6(), ports.clone())).or_default();
            let new = endpoint(address, ready);
            if group.len() < MAX_ENDPOINTS && !group.iter().any(|e| e.addresses == new.addresses) {
                group.push(new);
            }
        }
    }
    groups
}

fn slice(endpoints: &Endpoints, v6: bool, ports: Ports, mirrored: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = pods::labels(endpoints);
    labels.insert(SERVICE_NAME.into(), name(endpoints).to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|k, _| !OWN_ANNOTATIONS.contains(&k.as_str()));
    let port = |(name, port, protocol, app_protocol): (Option<String>, i32, Option<String>, Option<String>)| {
        EndpointPort { name: Some(name.unwrap_or_default()), port: Some(port), protocol, app_protocol }
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(endpoints))),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![pods::controller_ref(endpoints)]),
            ..Default::default()
        },
        address_type: if v6 { "IPv6" } else { "IPv4" }.into(),
        endpoints: mirrored,
        ports: Some(ports.into_iter().map(port).collect()),
    }
}

#[async_trait]
impl Controller for Mirroring {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "endpoint_slice_mirroring"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let endpoints = self.endpoints.get::<Endpoints>(key).filter(|e| is_mirrored(e));
        let service = self.services.get::<Service>(key).filter(|s| !has_selector(s));
        let mut existing = self.slices.list_by_index::<EndpointSlice>(BY_SERVICE, key);
        existing.retain(|s| is_ours(s));
        if let (Some(endpoints), Some(_)) = (endpoints, service) {
            for ((v6, ports), mirrored) in groups(&endpoints) {
                let wanted = slice(&endpoints, v6, ports, mirrored);
                let fits = |e: &Arc<EndpointSlice>| e.address_type == wanted.address_type && e.ports == wanted.ports;
                match existing.iter().position(fits) {
                    None => drop(self.client.create(&wanted).await?),
                    Some(i) => self.update(&existing.swap_remove(i), wanted).await?,
                }
            }
        }
        for e in existing {
            pods::ignore_absent(self.client.delete::<EndpointSlice>(namespace(&*e), name(&*e)).await)?;
        }
        Ok(Action::Done)
    }
}

impl Mirroring {
    async fn update(&self, existing: &EndpointSlice, wanted: EndpointSlice) -> Result<(), Status> {
        let mut new = existing.clone();
        new.endpoints = wanted.endpoints;
        new.metadata.labels = wanted.metadata.labels;
        new.metadata.annotations = wanted.metadata.annotations;
        if new != *existing {
            self.client.update(&new).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_grouped_by_family_and_ports() {
        let e: Endpoints = serde_json::from_value(json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
             "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "nonsense"}], "ports": [{"port": 81}]},
        ]}))
        .unwrap();
        let sizes: Vec<(bool, i32, usize)> = groups(&e).iter().map(|((v6, p), g)| (*v6, p[0].1, g.len())).collect();
        assert_eq!(sizes, [(false, 80, 2), (false, 81, 1), (true, 80, 1)]);
    }

    #[test]
    fn endpoints_that_ask_for_it_are_left_alone() {
        let e = |metadata| -> Endpoints { serde_json::from_value(json!({"metadata": metadata})).unwrap() };
        assert!(is_mirrored(&e(json!({}))));
        assert!(!is_mirrored(&e(json!({"labels": {SKIP: "true"}}))));
        assert!(!is_mirrored(&e(json!({"annotations": {LEADER: ""}}))));
    }
}
