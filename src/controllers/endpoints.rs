//! Endpoints: the older form of what EndpointSlices say (upstream: `pkg/controller/endpoint`).
//! Those made by hand for services without a selector are not touched, nor mirrored.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service};
use api::meta::apis::meta::v1::ObjectMeta;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::endpointslice::{address, enqueue_services_of_pods, index_by_namespace, selected, selector_of, target_port};
use crate::pod_control::{self as pods, is_ready, name, namespace, node_of};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Upstream's limit; what is beyond it is in the EndpointSlices.
const MAX_ADDRESSES: usize = 1000;

struct EndpointsController {
    client: Client,
    services: Informer,
    pods: Informer,
    endpoints: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let endpoints = context.informers.of::<Endpoints>();
    index_by_namespace(&pods);
    let queue = Queue::default();
    runtime::enqueue_own(&services, &queue);
    runtime::enqueue_own(&endpoints, &queue);
    enqueue_services_of_pods(&pods, &services, &queue);
    let caches = vec![services.clone(), pods.clone(), endpoints.clone()];
    runtime::run(context, Arc::new(EndpointsController { client, services, pods, endpoints }), queue, caches, 2);
}

fn subsets(service: &Service, members: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let v6 = spec.ip_families.as_ref().and_then(|f| f.first()).is_some_and(|f| f == "IPv6");
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    type Addresses = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut by_ports: BTreeMap<Vec<(i32, String, String)>, Addresses> = BTreeMap::new();
    for pod in members.iter().take(MAX_ADDRESSES) {
        let gone = matches!(pods::phase(pod), "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some();
        let Some(ip) = address(pod, v6) else { continue };
        if gone {
            continue;
        }
        let in_subdomain = pod.spec.as_ref().and_then(|s| s.subdomain.as_deref()) == Some(name(service));
        let a = EndpointAddress {
            ip,
            hostname: pod.spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty() && in_subdomain),
            node_name: Some(node_of(pod).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            }),
        };
        let ports: Vec<(i32, String, String)> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((target_port(p, pod)?, p.name.clone().unwrap_or_default(), protocol))
            })
            .collect();
        let entry = by_ports.entry(ports).or_default();
        if publish || is_ready(pod) { entry.0.push(a) } else { entry.1.push(a) }
    }
    let some = |mut v: Vec<EndpointAddress>| {
        v.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!v.is_empty()).then_some(v)
    };
    by_ports
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(
                ports
                    .into_iter()
                    .map(|(port, name, protocol)| EndpointPort {
                        port,
                        name: (!name.is_empty()).then_some(name),
                        protocol: Some(protocol),
                        app_protocol: None,
                    })
                    .collect(),
            ),
        })
        .collect()
}

#[async_trait]
impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "endpoint"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let existing = self.endpoints.get::<Endpoints>(key);
        let Some(service) = self.services.get::<Service>(key) else {
            // Only what this controller made goes with its service.
            if let Some(e) = existing.filter(|e| pods::labels(&**e).contains_key(MANAGED_BY)) {
                pods::ignore_absent(self.client.delete::<Endpoints>(namespace(&*e), name(&*e)).await)?;
            }
            return Ok(Action::Done);
        };
        let Some(selector) = selector_of(&service) else { return Ok(Action::Done) };
        let wanted = subsets(&service, &selected(&self.pods, namespace(&*service), &selector));
        let mut labels = pods::labels(&*service);
        labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
        labels.remove(HEADLESS);
        if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
            labels.insert(HEADLESS.into(), String::new());
        }
        match existing {
            None => {
                let e = Endpoints {
                    metadata: ObjectMeta {
                        name: service.metadata.name.clone(),
                        namespace: service.metadata.namespace.clone(),
                        labels: Some(labels),
                        ..Default::default()
                    },
                    subsets: Some(wanted),
                };
                self.client.create(&e).await?;
            }
            Some(e) if e.subsets.clone().unwrap_or_default() != wanted || pods::labels(&*e) != labels => {
                let mut e = (*e).clone();
                e.subsets = Some(wanted);
                e.metadata.labels = Some(labels);
                self.client.update(&e).await?;
            }
            Some(_) => {}
        }
        Ok(Action::Done)
    }
}
