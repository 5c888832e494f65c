//! NodePorts: two pods cannot have the same host port on one node.

use api::k8s::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::Plugin;

pub(super) struct NodePorts;

fn host_ports(pod: &Pod) -> Vec<(i32, &str, &str)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.as_deref().filter(|i| !i.is_empty()).unwrap_or("0.0.0.0");
            Some((port, p.protocol.as_deref().unwrap_or("TCP"), ip))
        })
        .collect()
}

fn clash(a: (i32, &str, &str), b: (i32, &str, &str)) -> bool {
    let any = |ip: &str| matches!(ip, "0.0.0.0" | "::");
    a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || any(a.2) || any(b.2))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Vec<String> {
        let wanted = host_ports(pod);
        if wanted.is_empty() {
            return Vec::new();
        }
        let taken = node.pods.values().flat_map(|p| host_ports(p));
        if taken.into_iter().any(|t| wanted.iter().any(|w| clash(*w, t))) {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        Vec::new()
    }
}
