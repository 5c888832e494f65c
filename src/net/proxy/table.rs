//! What the proxy should do, as data.

use crate::Config;
use api::k8s::core::v1::{Service, ServicePort};
use api::k8s::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Label of a slice that names its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a service that another proxy serves.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Kubernetes spells it; absent means TCP, anything unknown nothing.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As nft, conntrack and DNS spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Front {
    /// Virtual, node or external address.
    pub addr: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Where connections end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of the pod.
    pub addr: IpAddr,
    /// Port of the pod.
    pub port: u16,
}

/// How a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client is told: nobody serves this.
    Reject,
    /// Silence: somebody serves this, not on this node.
    Drop,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// It goes to one of these; never empty, sorted.
    Endpoints(Vec<Endpoint>),
    /// It is turned away.
    Refuse(Refusal),
}

impl Target {
    /// The endpoints, none when refused.
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Endpoints(endpoints) => endpoints,
            Self::Refuse(_) => &[],
        }
    }
}

/// One address, protocol and port that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// For everyone.
    pub target: Target,
    /// For clients inside the cluster, where they are served differently.
    pub inside: Option<Target>,
    /// Seconds a client stays with its endpoint.
    pub affinity: Option<u32>,
    /// The client's address is replaced by the node's.
    pub masquerade: bool,
    /// Who may connect; everyone when empty.
    pub allowed: Vec<IpNet>,
}

/// Tracked connections that lead nowhere any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Where the client sends to.
    pub front: Front,
    /// The endpoint that is gone; any when absent.
    pub endpoint: Option<Endpoint>,
}

/// Everything the proxy does on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What is served.
    pub frontends: BTreeMap<Front, Frontend>,
    /// Addresses of this node's endpoints: a pod that reaches itself through a
    /// service must not see its own address as the client's.
    pub hairpin: BTreeSet<IpAddr>,
}

impl Table {
    /// The table for these services and slices, seen from the configured node.
    pub fn desired<'a>(
        config: &Config,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            if let Some(key) = slice_owner(slice) {
                by_service.entry(key).or_default().push(slice);
            }
        }
        let mut table = Self::default();
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
            table.add_service(config, service, slices);
        }
        table
    }

    fn add_service(&mut self, config: &Config, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let labels = service.metadata.labels.as_ref();
        let labelled = |key: &str| labels.is_some_and(|l| l.contains_key(key));
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        if kind == "ExternalName" || labelled(OTHER_PROXY) || labelled(HEADLESS) {
            return;
        }
        let cluster_ips = cluster_ips(service);
        if cluster_ips.is_empty() {
            return;
        }
        let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
        let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let seconds = spec
                .session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref()?.timeout_seconds)
                .unwrap_or(10_800);
            u32::try_from(seconds).unwrap_or(10_800).max(1)
        });
        let ranges: Vec<IpNet> =
            spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.trim().parse().ok()).collect();

        for port in spec.ports.iter().flatten() {
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
                continue;
            };
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            for family in [false, true] {
                let Some(cluster_ip) = cluster_ips.iter().find(|ip| ip.is_ipv6() == family) else {
                    continue;
                };
                let all = Backends::of(config, slices, port, protocol, family);
                for endpoint in all.local.iter() {
                    self.hairpin.insert(endpoint.addr);
                }
                let front = |addr: IpAddr, port: u16| Front { addr, protocol, port };
                self.frontends.insert(
                    front(*cluster_ip, number),
                    Frontend {
                        target: all.target(internal_local),
                        inside: None,
                        affinity,
                        masquerade: false,
                        allowed: Vec::new(),
                    },
                );
                let outside = |allowed: Vec<IpNet>| Frontend {
                    target: all.target(external_local),
                    inside: external_local.then(|| all.target(false)),
                    affinity,
                    masquerade: !external_local,
                    allowed,
                };
                let external = spec.external_ips.iter().flatten();
                for addr in external.filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                    if addr.is_ipv6() == family {
                        self.frontends.entry(front(addr, number)).or_insert_with(|| outside(Vec::new()));
                    }
                }
                for addr in balancer_ips(service) {
                    if addr.is_ipv6() == family {
                        let allowed = ranges.iter().filter(|r| r.addr().is_ipv6() == family);
                        let allowed = allowed.copied().collect();
                        self.frontends.entry(front(addr, number)).or_insert_with(|| outside(allowed));
                    }
                }
                let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
                if let Some(node_port) = node_port
                    && kind != "ClusterIP"
                    && config.node_ip.is_ipv6() == family
                {
                    let served = outside(Vec::new());
                    self.frontends.entry(front(config.node_ip, node_port)).or_insert(served);
                }
            }
        }
    }

    /// Serves a front by endpoints of this node's own choice, such as cluster
    /// DNS by the server on the node; any service's at that front gives way.
    pub fn serve(&mut self, front: Front, endpoint: Endpoint) {
        let frontend = Frontend {
            target: Target::Endpoints(vec![endpoint]),
            inside: None,
            affinity: None,
            masquerade: false,
            allowed: Vec::new(),
        };
        self.frontends.insert(front, frontend);
    }

    /// Leads a port of this node to one of its pods.
    pub fn host_port(&mut self, front: Front, pod: Endpoint) {
        self.serve(front, pod);
        self.hairpin.insert(pod.addr);
    }

    /// The connections to forget when this table follows another: UDP has no
    /// end the kernel could see, so a client that keeps its port would keep
    /// its dead endpoint (or its lack of one) too.
    pub fn stale_after(&self, before: &Self) -> Vec<Stale> {
        let mut stale = Vec::new();
        for (front, frontend) in &self.frontends {
            if front.protocol == Protocol::Udp
                && !frontend.target.endpoints().is_empty()
                && before.frontends.get(front).is_none_or(|f| f.target.endpoints().is_empty())
            {
                stale.push(Stale { front: *front, endpoint: None });
            }
        }
        for (front, old) in before.frontends.iter().filter(|(f, _)| f.protocol == Protocol::Udp) {
            let now = self.frontends.get(front);
            let kept = now.map_or(&[][..], |f| f.target.endpoints());
            let inside = now.and_then(|f| f.inside.as_ref()).map_or(&[][..], Target::endpoints);
            let before = old.target.endpoints().iter();
            let before: BTreeSet<_> = before.chain(old.inside.as_ref().map_or(&[][..], Target::endpoints)).collect();
            for endpoint in before {
                if !kept.contains(endpoint) && !inside.contains(endpoint) {
                    stale.push(Stale { front: *front, endpoint: Some(*endpoint) });
                }
            }
        }
        stale
    }
}

/// Namespace and name of the service a slice belongs to.
pub(crate) fn slice_owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// The service's own addresses; none when it is headless.
pub(crate) fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let mut addrs: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if addrs.is_empty() {
        addrs.extend(spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    addrs
}

fn balancer_ips(service: &Service) -> Vec<IpAddr> {
    let kind = service.spec.as_ref().and_then(|s| s.type_.as_deref());
    let status = service.status.as_ref().filter(|_| kind == Some("LoadBalancer"));
    let status = status.and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

/// The endpoints of one service port in one family.
struct Backends {
    /// On any node.
    all: Vec<Endpoint>,
    /// On this node.
    local: Vec<Endpoint>,
}

impl Backends {
    fn of(config: &Config, slices: &[&EndpointSlice], port: &ServicePort, protocol: Protocol, v6: bool) -> Self {
        let wanted = port.name.as_deref().unwrap_or_default();
        // Ready ones; and those that still serve while they end, which are
        // better than none.
        let (mut ready, mut ending) = (Vec::new(), Vec::new());
        for slice in slices {
            if slice.address_type != if v6 { "IPv6" } else { "IPv4" } {
                continue;
            }
            for slice_port in slice.ports.iter().flatten() {
                if slice_port.name.as_deref().unwrap_or_default() != wanted
                    || Protocol::parse(slice_port.protocol.as_deref()) != Some(protocol)
                {
                    continue;
                }
                let Some(number) = slice_port.port.and_then(|p| u16::try_from(p).ok()) else {
                    continue;
                };
                for endpoint in &slice.endpoints {
                    let addr = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok());
                    let Some(addr) = addr.filter(|a| a.is_ipv6() == v6) else {
                        continue;
                    };
                    let local = endpoint.node_name.as_deref() == Some(config.node_name.as_str());
                    let endpoint_of = (Endpoint { addr, port: number }, local);
                    match state(endpoint) {
                        State::Ready => ready.push(endpoint_of),
                        State::Ending => ending.push(endpoint_of),
                        State::Out => {}
                    }
                }
            }
        }
        let choose = |only_local: bool| {
            let pick = |from: &[(Endpoint, bool)]| -> Vec<Endpoint> {
                let chosen = from.iter().filter(|(_, local)| *local || !only_local);
                chosen.map(|(e, _)| *e).collect::<BTreeSet<_>>().into_iter().collect()
            };
            let best = pick(&ready);
            if best.is_empty() { pick(&ending) } else { best }
        };
        Self { all: choose(false), local: choose(true) }
    }

    fn target(&self, only_local: bool) -> Target {
        match (only_local, self.all.is_empty(), self.local.is_empty()) {
            (_, true, _) => Target::Refuse(Refusal::Reject),
            (true, false, true) => Target::Refuse(Refusal::Drop),
            (true, false, false) => Target::Endpoints(self.local.clone()),
            (false, false, _) => Target::Endpoints(self.all.clone()),
        }
    }
}

enum State {
    Ready,
    Ending,
    Out,
}

fn state(endpoint: &SliceEndpoint) -> State {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => State::Ready,
        (false, true) => State::Ending,
        (false, false) => State::Out,
    }
}
