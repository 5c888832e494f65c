//! The cluster's names.

use crate::proxy::Protocol;
use crate::proxy::table::{cluster_ips, slice_owner};
use api::k8s::core::v1::Service;
use api::k8s::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a name stands for. Names are lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address, of either family.
    Addr(IpAddr),
    /// A port of a service, at a name.
    Srv {
        /// Port.
        port: u16,
        /// Name the port is at.
        target: String,
    },
    /// Another name for it.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// A text.
    Txt(String),
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It exists and stands for these (of whatever type).
    Found(Vec<Data>),
    /// It is the cluster's to have and does not exist.
    Missing,
    /// It is somebody else's.
    Foreign,
}

/// The cluster's names and what they stand for.
#[derive(Clone, Debug, Default)]
pub struct Records {
    domain: String,
    names: HashMap<String, BTreeSet<Data>>,
    namespaces: BTreeSet<String>,
}

impl Records {
    /// The records of these services and slices under a domain.
    pub fn build<'a>(
        domain: &str,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            if let Some(owner) = slice_owner(slice) {
                by_service.entry(owner).or_default().push(slice);
            }
        }
        let mut records = Self { domain, ..Self::default() };
        let version = format!("dns-version.{}", records.domain);
        records.add(&version, Data::Txt("1.1.0".into()));
        for service in services {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
                continue;
            };
            records.namespaces.insert(namespace.clone());
            let slices = by_service.get(&(namespace.as_str(), name.as_str()));
            records.add_service(service, namespace, name, slices.map_or(&[][..], Vec::as_slice));
        }
        records
    }

    fn add_service(&mut self, service: &Service, namespace: &str, name: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let own = format!("{name}.{namespace}.svc.{}", self.domain);
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(to) = &spec.external_name {
                self.add(&own, Data::Cname(to.trim_end_matches('.').to_ascii_lowercase()));
            }
            return;
        }
        let addrs = cluster_ips(service);
        for addr in &addrs {
            self.add(&own, Data::Addr(*addr));
            self.add(&reverse(*addr), Data::Ptr(own.clone()));
        }
        if !addrs.is_empty() {
            for port in spec.ports.iter().flatten() {
                if let Ok(number) = u16::try_from(port.port) {
                    self.add_port(port.name.as_deref(), port.protocol.as_deref(), number, &own, &own);
                }
            }
            return;
        }
        // Headless: the name stands for the endpoints, each of which has a
        // name of its own.
        self.names.entry(own.clone()).or_default();
        let unready = spec.publish_not_ready_addresses == Some(true);
        for slice in slices {
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions.as_ref();
                if !unready && conditions.and_then(|c| c.ready) == Some(false) {
                    continue;
                }
                for addr in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                    let host = match endpoint.hostname.as_deref() {
                        Some(hostname) if !hostname.is_empty() => hostname.to_owned(),
                        _ => dashed(addr),
                    };
                    let target = format!("{host}.{own}");
                    self.add(&own, Data::Addr(addr));
                    self.add(&target, Data::Addr(addr));
                    self.add(&reverse(addr), Data::Ptr(target.clone()));
                    for port in slice.ports.iter().flatten() {
                        let number = port.port.and_then(|p| u16::try_from(p).ok());
                        if let Some(number) = number {
                            let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
                            self.add_port(name, protocol, number, &own, &target);
                        }
                    }
                }
            }
        }
    }

    fn add_port(&mut self, name: Option<&str>, protocol: Option<&str>, port: u16, own: &str, target: &str) {
        let name = name.filter(|n| !n.is_empty());
        if let (Some(name), Some(protocol)) = (name, Protocol::parse(protocol)) {
            let at = format!("_{name}._{}.{own}", protocol.as_str());
            self.add(&at, Data::Srv { port, target: target.to_owned() });
        }
    }

    fn add(&mut self, name: &str, data: Data) {
        self.names.entry(name.to_ascii_lowercase()).or_default().insert(data);
        // The names above it exist too, if only as branches.
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if parent.len() <= self.domain.len() || !parent.ends_with(&self.domain) {
                break;
            }
            self.names.entry(parent.to_ascii_lowercase()).or_default();
            rest = parent;
        }
    }

    /// The domain the cluster's names end in.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What a name stands for.
    pub fn answer(&self, name: &str) -> Answer {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(data) = self.names.get(&name) {
            return Answer::Found(data.iter().cloned().collect());
        }
        let Some(below) = name.strip_suffix(&self.domain) else {
            return Answer::Foreign;
        };
        match below.strip_suffix('.') {
            None if below.is_empty() => Answer::Found(Vec::new()),
            None => Answer::Foreign,
            Some(below) => self.pod(below),
        }
    }

    /// The name of a pod, which is its address spelt with dashes.
    fn pod(&self, below: &str) -> Answer {
        let labels: Vec<&str> = below.split('.').collect();
        match labels[..] {
            ["svc" | "pod"] => Answer::Found(Vec::new()),
            [namespace, "pod"] if self.namespaces.contains(namespace) => Answer::Found(Vec::new()),
            [addr, namespace, "pod"] if self.namespaces.contains(namespace) => match undashed(addr) {
                Some(addr) => Answer::Found(vec![Data::Addr(addr)]),
                None => Answer::Missing,
            },
            _ => Answer::Missing,
        }
    }
}

fn dashed(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => addr.to_string().replace('.', "-"),
        // Not shortened: a label neither starts nor ends with a dash.
        IpAddr::V6(addr) => addr.segments().map(|s| format!("{s:x}")).join("-"),
    }
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.ok().or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6).ok())
}

/// The name that stands for an address in reverse look-ups.
fn reverse(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => {
            let [a, b, c, d] = addr.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(addr) => {
            let nibbles = addr.octets().into_iter().rev().flat_map(|o| [o & 15, o >> 4]);
            nibbles.map(|n| format!("{n:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}
