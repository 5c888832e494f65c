//! EndpointSlice: which pods stand behind a service (upstream: `pkg/controller/endpointslice`).
//!
//! Invariants: every slice of ours carries the service's name and this controller's label; a slice
//! has at most [`MAX_ENDPOINTS`] endpoints of one address family and one set of ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{Node, ObjectReference, Pod, Service};
use api::k8s::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use api::meta::apis::meta::v1::ObjectMeta;
use api::meta::util::intstr::IntOrString;
use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::pod_control::{self as pods, is_ready, name, namespace, node_of};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "endpointslice-controller";
/// The label that says whose a slice is.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label that ties a slice to its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MAX_ENDPOINTS: usize = 100;
/// Index of slices by the service they belong to.
pub(crate) const BY_SERVICE: &str = "service";
pub(crate) const BY_NAMESPACE: &str = "namespace";

struct EndpointSliceController {
    client: Client,
    services: Informer,
    pods: Informer,
    nodes: Informer,
    slices: Informer,
}

/// Queues every service whose selector matches a pod, before or after its change.
pub(crate) fn enqueue_services_of_pods(pods: &Informer, services: &Informer, queue: &Queue) {
    let (queue, services) = (queue.clone(), services.clone());
    pods.on_change(move |c| {
        for o in [&c.old, &c.new].into_iter().flatten() {
            let m = o.meta();
            for s in services.objects().iter().filter(|s| s.meta().namespace == m.namespace) {
                let Ok(service) = s.typed::<Service>() else { continue };
                if selector_of(&service).is_some_and(|sel| sel.matches(m.labels)) {
                    queue.add(s.key().to_owned());
                }
            }
        }
    });
}

/// The selector of a service; `None` for one without, whose endpoints are somebody else's.
pub(crate) fn selector_of(service: &Service) -> Option<LabelSelector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let selector = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    Some(LabelSelector::from_map(selector))
}

/// Index of pods by namespace.
pub(crate) fn index_by_namespace(informer: &Informer) {
    informer.add_index(BY_NAMESPACE, |o| vec![o.meta().namespace.to_owned()]);
}

/// Index of slices by the service they belong to.
pub(crate) fn index_by_service(slices: &Informer) {
    slices.add_index(BY_SERVICE, |o| match o.meta().labels.get(SERVICE_NAME) {
        Some(s) => vec![api::key_of(o.meta().namespace, s)],
        None => Vec::new(),
    });
}

/// The pods that a selector selects in a namespace.
pub(crate) fn selected(informer: &Informer, namespace: &str, selector: &LabelSelector) -> Vec<Arc<Pod>> {
    informer
        .by_index(BY_NAMESPACE, namespace)
        .into_iter()
        .filter(|o| selector.matches(o.meta().labels))
        .filter_map(|o| o.typed::<Pod>().ok())
        .collect()
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let slices = context.informers.of::<EndpointSlice>();
    index_by_namespace(&pods);
    index_by_service(&slices);
    let queue = Queue::default();
    runtime::enqueue_own(&services, &queue);
    enqueue_services_of_pods(&pods, &services, &queue);
    {
        let queue = queue.clone();
        slices.on_change(move |c| {
            let m = c.object().meta();
            if let (Some(s), Some(MANAGER)) = (m.labels.get(SERVICE_NAME), m.labels.get(MANAGED_BY)) {
                queue.add(api::key_of(m.namespace, s));
            }
        });
    }
    let caches = vec![services.clone(), pods.clone(), nodes.clone(), slices.clone()];
    let controller = EndpointSliceController { client, services, pods, nodes, slices };
    runtime::run(context, Arc::new(controller), queue, caches, 2);
}

/// The port number that a service port means in a pod; `None` when the pod has no such port.
pub(crate) fn target_port(port: &api::k8s::core::v1::ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let mut fits = ports
                .filter(|p| p.name.as_deref() == Some(wanted) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            fits.next().map(|p| p.container_port)
        }
    }
}

/// The addresses of a pod of one family.
pub(crate) fn address(pod: &Pod, v6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|i| i.ip.clone()).chain(status.pod_ip.clone());
    all.filter(|ip| !ip.is_empty()).find(|ip| ip.contains(':') == v6)
}

type Ports = Vec<(Option<String>, Option<i32>, Option<String>, Option<String>)>;

fn ports_for(service: &Service, pod: &Pod) -> Ports {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let of = |p: &api::k8s::core::v1::ServicePort| {
        let number = target_port(p, pod)?;
        let name = Some(p.name.clone().unwrap_or_default());
        Some((name, Some(number), Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())), p.app_protocol.clone()))
    };
    ports.iter().filter_map(of).collect()
}

impl EndpointSliceController {
    fn endpoint(&self, service: &Service, pod: &Pod, ip: String) -> Endpoint {
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
        let serving = is_ready(pod);
        let node = node_of(pod);
        let zone =
            self.nodes.object(node).and_then(|n| n.meta().labels.get("topology.kubernetes.io/zone").map(str::to_owned));
        let spec = pod.spec.as_ref();
        let in_subdomain = spec.and_then(|s| s.subdomain.as_deref()) == Some(name(service));
        Endpoint {
            addresses: vec![ip],
            conditions: Some(EndpointConditions {
                ready: Some(publish || (serving && !terminating)),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty() && in_subdomain),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            zone,
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The endpoints that should be, by address family and ports.
    fn wanted(&self, service: &Service, selector: &LabelSelector) -> BTreeMap<(bool, Ports), Vec<Endpoint>> {
        let spec = service.spec.clone().unwrap_or_default();
        let families = spec.ip_families.clone().filter(|f| !f.is_empty()).unwrap_or_else(|| vec!["IPv4".into()]);
        let mut groups: BTreeMap<(bool, Ports), Vec<Endpoint>> = BTreeMap::new();
        for pod in selected(&self.pods, namespace(service), selector) {
            let finished = matches!(pods::phase(&pod), "Succeeded" | "Failed");
            if finished || node_of(&pod).is_empty() {
                continue;
            }
            for family in &families {
                let v6 = family == "IPv6";
                if let Some(ip) = address(&pod, v6) {
                    groups.entry((v6, ports_for(service, &pod))).or_default().push(self.endpoint(service, &pod, ip));
                }
            }
        }
        for endpoints in groups.values_mut() {
            endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        }
        if groups.is_empty() {
            // One empty slice says that there is nobody, instead of leaving it open.
            groups.insert((families[0] == "IPv6", Vec::new()), Vec::new());
        }
        groups
    }

    fn slice(&self, service: &Service, v6: bool, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let mut labels = pods::labels(service);
        labels.insert(SERVICE_NAME.into(), name(service).to_owned());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        labels.remove(HEADLESS);
        let cluster_ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        if cluster_ip == "None" {
            labels.insert(HEADLESS.into(), String::new());
        }
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", name(service))),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![pods::controller_ref(service)]),
                ..Default::default()
            },
            address_type: if v6 { "IPv6" } else { "IPv4" }.into(),
            endpoints,
            ports: Some(
                ports
                    .iter()
                    .map(|(name, port, protocol, app)| EndpointPort {
                        name: name.clone(),
                        port: *port,
                        protocol: protocol.clone(),
                        app_protocol: app.clone(),
                    })
                    .collect(),
            ),
        }
    }
}

#[async_trait]
impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "endpoint_slice"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let service = self.services.get::<Service>(key);
        let ours = |s: &Arc<EndpointSlice>| pods::labels(&**s).get(MANAGED_BY).map(String::as_str) == Some(MANAGER);
        let mut existing: Vec<Arc<EndpointSlice>> =
            self.slices.list_by_index::<EndpointSlice>(BY_SERVICE, key).into_iter().filter(ours).collect();
        let selector = service.as_ref().and_then(|s| selector_of(s));
        let mut wanted = Vec::new();
        if let (Some(service), Some(selector)) = (&service, selector) {
            if service.metadata.deletion_timestamp.is_some() {
                return Ok(Action::Done);
            }
            for ((v6, ports), endpoints) in self.wanted(service, &selector) {
                if endpoints.is_empty() {
                    wanted.push(self.slice(service, v6, &ports, Vec::new()));
                }
                for chunk in endpoints.chunks(MAX_ENDPOINTS) {
                    wanted.push(self.slice(service, v6, &ports, chunk.to_vec()));
                }
            }
        }
        // Slices that are right already stay; the others are turned into what is missing.
        wanted.retain(|w| {
            let same = |e: &Arc<EndpointSlice>| {
                e.address_type == w.address_type
                    && e.endpoints == w.endpoints
                    && e.ports.clone().unwrap_or_default() == w.ports.clone().unwrap_or_default()
                    && e.metadata.labels == w.metadata.labels
            };
            match existing.iter().position(same) {
                Some(i) => {
                    existing.swap_remove(i);
                    false
                }
                None => true,
            }
        });
        for w in wanted {
            match existing.iter().position(|e| e.address_type == w.address_type) {
                Some(i) => {
                    let mut e = (*existing.swap_remove(i)).clone();
                    e.endpoints = w.endpoints;
                    e.ports = w.ports;
                    e.metadata.labels = w.metadata.labels;
                    self.client.update(&e).await?;
                }
                None => {
                    self.client.create(&w).await?;
                }
            }
        }
        // Without its service, a slice is the garbage collector's; without a selector it is stale.
        if service.is_some() {
            for e in existing {
                pods::ignore_absent(self.client.delete::<EndpointSlice>(namespace(&*e), name(&*e)).await)?;
            }
        }
        Ok(Action::Done)
    }
}
