//! Host ports: which ports of this node lead to which pod. Like node ports they are entries of the
//! service proxy's table, so that nothing has to be undone when a pod goes.
//!
//! Differs from upstream's `portmap` plugin: served on the node's own address (or the port's
//! `hostIP`), not on 127.0.0.1 and further addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::k8s::core::v1::Pod;
use net::proxy::{Endpoint, Front, Protocol};

/// From where to where.
pub type HostPorts = BTreeMap<Front, Endpoint>;

/// The host ports of the node's pods that have an address and have not ended. Where two pods claim
/// one, which admission prevents, the first in the order of the list has it.
pub fn of<'a>(pods: impl IntoIterator<Item = &'a Pod>, node_ip: IpAddr) -> HostPorts {
    let mut found = HostPorts::new();
    for pod in pods {
        for (front, endpoint) in of_pod(pod, node_ip) {
            found.entry(front).or_insert(endpoint);
        }
    }
    found
}

fn of_pod(pod: &Pod, node_ip: IpAddr) -> Vec<(Front, Endpoint)> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return Vec::new() };
    if spec.host_network == Some(true) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let addresses: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|i| i.ip.parse().ok()).collect();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let mapped = ports.filter_map(|p| {
        let on = match p.host_ip.as_deref() {
            None | Some("" | "0.0.0.0" | "::") => node_ip,
            Some(ip) => ip.parse().ok()?,
        };
        let to = addresses.iter().find(|a| a.is_ipv4() == on.is_ipv4())?;
        let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
        let front = Front { addr: on, protocol: Protocol::parse(p.protocol.as_deref())?, port: number(p.host_port?)? };
        Some((front, Endpoint { addr: *to, port: number(p.container_port)? }))
    });
    mapped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ports(pod: Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let found = of([&pod], [10, 0, 0, 1].into());
        let text = |(f, e): (&Front, &Endpoint)| {
            format!("{}/{}:{} {}:{}", f.protocol.as_str(), f.addr, f.port, e.addr, e.port)
        };
        found.iter().map(text).collect()
    }

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 53, "hostPort": 53, "hostIP": "10.0.0.9", "protocol": "UDP"},
                {"containerPort": 81}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.42.0.2"}]}})
    }

    #[test]
    fn ports_lead_from_the_node_to_the_pod() {
        assert_eq!(ports(pod()), ["tcp/10.0.0.1:8080 10.42.0.2:80", "udp/10.0.0.9:53 10.42.0.2:53"]);
    }

    #[test]
    fn pods_without_address_of_the_host_or_ended_have_none() {
        for (path, value) in [
            ("/spec/hostNetwork", json!(true)),
            ("/status/phase", json!("Succeeded")),
            ("/status/podIPs", json!([])),
            ("/status/podIPs", json!([{"ip": "fd00::2"}])),
        ] {
            let mut p = pod();
            p["spec"]["hostNetwork"] = json!(false);
            *p.pointer_mut(path).unwrap() = value;
            assert!(ports(p).is_empty(), "{path}");
        }
    }
}
