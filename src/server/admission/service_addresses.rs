//! ServiceAddresses: gives services their cluster addresses and node ports (upstream:
//! `pkg/registry/core/service/storage/alloc.go`; there it is part of the registry).
//!
//! What is taken is read off the services themselves; what was handed out a moment ago and is not
//! stored yet is remembered, so that two creates at once never get the same.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, Weak};
use std::time::{Duration, Instant};

use api::Status;
use api::field::FieldError;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

/// How long something handed out counts as taken although no service shows it.
const HELD: Duration = Duration::from_secs(30);
/// Tries to draw a free one by chance before all are searched in order.
const DRAWS: usize = 64;

pub(super) struct ServiceAddresses {
    pub(super) server: Weak<Server>,
    held: Mutex<HashMap<String, Instant>>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<String>,
    ports: HashSet<u16>,
}

fn ports_of(v: &Value) -> impl Iterator<Item = u16> {
    let list = v["spec"]["ports"].as_array().into_iter().flatten();
    let own = list.filter_map(|p| p["nodePort"].as_u64()).chain(v["spec"]["healthCheckNodePort"].as_u64());
    own.filter_map(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

fn invalid(name: &str, e: FieldError) -> Status {
    Status::invalid("", "Service", name, &vec![e])
}

impl ServiceAddresses {
    pub(super) fn new(server: Weak<Server>) -> ServiceAddresses {
        ServiceAddresses { server, held: Mutex::default() }
    }

    fn taken(&self, server: &Server, own_uid: &str) -> Result<Taken, Status> {
        let services = server.resource("", "v1", "services")?;
        let mut taken = Taken::default();
        for o in server.registry().cache(&services)?.objects().values() {
            if o.meta().uid == own_uid {
                continue;
            }
            let v = o.to_value();
            let ips = v["spec"]["clusterIPs"].as_array().into_iter().flatten();
            taken.addresses.extend(ips.filter_map(Value::as_str).map(str::to_owned));
            taken.ports.extend(ports_of(&v));
        }
        Ok(taken)
    }

    /// Takes something for a while, unless somebody has it.
    fn hold(&self, what: String) -> bool {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        held.retain(|_, since| since.elapsed() < HELD);
        held.insert(what, Instant::now()).is_none()
    }

    fn draw_address(&self, server: &Server, taken: &Taken) -> Result<String, Status> {
        let net = server.config().service_cidr;
        let bits = net.max_prefix_len() - net.prefix_len();
        let last: u128 = if bits >= 32 { u128::from(u32::MAX) } else { (1u128 << bits) - 1 };
        // The first addresses are for those who ask for them by name: the API, DNS.
        let reserved = (last / 16).clamp(16, 256).min(last / 2);
        let at = |n: u128| match net.network() {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) + n as u32).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) + n).into()),
        };
        let random = (0..DRAWS).map(|_| rand::random_range(reserved + 1..last));
        let all = random.chain(reserved + 1..last).chain(1..=reserved).map(|n| at(n).to_string());
        let mut free = all.filter(|ip| !taken.addresses.contains(ip));
        free.find(|ip| self.hold(ip.clone()))
            .ok_or_else(|| Status::internal(format!("failed to allocate a serviceIP: range {net} is full")))
    }

    fn draw_port(&self, server: &Server, taken: &Taken) -> Result<u16, Status> {
        let (first, last) = server.config().node_ports;
        let random = (0..DRAWS).map(|_| rand::random_range(first..=last));
        let mut free = random.chain(first..=last).filter(|p| !taken.ports.contains(p));
        free.find(|p| self.hold(format!("port {p}")))
            .ok_or_else(|| Status::internal(format!("failed to allocate a nodePort: range {first}-{last} is full")))
    }

    fn addresses(
        &self,
        server: &Server,
        name: &str,
        service: &mut Value,
        old: Option<&Value>,
        taken: &Taken,
    ) -> Result<(), Status> {
        let given = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        let family = |ip: &str| if ip.contains(':') { "IPv6" } else { "IPv4" };
        let own = server.config().service_cidr;
        let ip = match given.as_str() {
            "None" => {
                service["spec"]["clusterIPs"] = json!(["None"]);
                if service["spec"].get("ipFamilies").is_none() {
                    service["spec"]["ipFamilies"] = json!([family(&own.network().to_string())]);
                }
                return Ok(());
            }
            "" => self.draw_address(server, taken)?,
            ip if old.is_some_and(|o| o["spec"]["clusterIP"] == ip) => ip.to_owned(),
            ip => {
                let parsed: IpAddr = ip.parse().map_err(|_| {
                    invalid(
                        name,
                        FieldError::invalid("spec.clusterIPs[0]", ip, "must be empty, 'None', or a valid IP address"),
                    )
                })?;
                if !own.contains(&parsed) {
                    let detail = format!(
                        "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {own}"
                    );
                    return Err(invalid(name, FieldError::invalid("spec.clusterIPs", json!([ip]), detail)));
                }
                if taken.addresses.contains(ip) {
                    let detail = format!("failed to allocate IP {ip}: provided IP is already allocated");
                    return Err(invalid(name, FieldError::invalid("spec.clusterIPs", json!([ip]), detail)));
                }
                ip.to_owned()
            }
        };
        service["spec"]["ipFamilies"] = json!([family(&ip)]);
        service["spec"]["clusterIPs"] = json!([ip]);
        service["spec"]["clusterIP"] = ip.into();
        Ok(())
    }

    fn node_ports(
        &self,
        server: &Server,
        name: &str,
        service: &mut Value,
        old: Option<&Value>,
        taken: &Taken,
    ) -> Result<(), Status> {
        let kind = service["spec"]["type"].as_str().unwrap_or_default();
        let allocate =
            kind == "NodePort" || (kind == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"] != false);
        if !allocate {
            return Ok(());
        }
        let before: HashSet<u16> = old.map(|o| ports_of(o).collect()).unwrap_or_default();
        let (first, last) = server.config().node_ports;
        // TCP and UDP of one port share a node port, as upstream.
        let mut by_port: HashMap<u64, u16> = HashMap::new();
        let list = service["spec"].get_mut("ports").and_then(Value::as_array_mut);
        for (i, p) in list.into_iter().flatten().enumerate() {
            let path = format!("spec.ports[{i}].nodePort");
            let port = p["port"].as_u64().unwrap_or(0);
            match p["nodePort"].as_u64().unwrap_or(0) {
                0 => {
                    let n = match by_port.get(&port) {
                        Some(n) => *n,
                        None => self.draw_port(server, taken)?,
                    };
                    by_port.insert(port, n);
                    p["nodePort"] = n.into();
                }
                n => {
                    let known = u16::try_from(n).ok().filter(|n| (first..=last).contains(n) || before.contains(n));
                    let Some(n) = known else {
                        let detail = format!(
                            "provided port is not in the valid range. The range of valid ports is {first}-{last}"
                        );
                        return Err(invalid(name, FieldError::invalid(path, n, detail)));
                    };
                    if taken.ports.contains(&n) && !before.contains(&n) {
                        return Err(invalid(name, FieldError::invalid(path, n, "provided port is already allocated")));
                    }
                    by_port.insert(port, n);
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    async fn mutate(&self, a: &Attributes<'_>, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let is_service = a.resource.group.is_empty() && a.resource.plural == "services" && a.subresource.is_empty();
        if !is_service || !matches!(a.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let server = alive(&self.server)?;
        server.registry().caches().fresh().await?;
        let uid = service["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let taken = self.taken(&server, &uid)?;
        if service["spec"]["type"] == "ExternalName" {
            if let Some(s) = service["spec"].as_object_mut() {
                for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    s.remove(f);
                }
            }
            return Ok(());
        }
        self.addresses(&server, a.name, service, old, &taken)?;
        self.node_ports(&server, a.name, service, old, &taken)
    }
}
