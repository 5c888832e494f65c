//! Whether a pod that was assigned here may run: the scheduler may have decided by an older view.
//! Pure. Upstream: `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::{BTreeMap, HashSet};

use api::k8s::core::v1::Pod;

use super::resources::{self, Amounts};
use super::status::{Verdict, is_terminal};

/// The node as admission sees it.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What pods may ask for.
    pub allocatable: Amounts,
    /// Most pods.
    pub pods: i64,
}

/// Whether the node has what `nodeSelector` and the required node affinity ask for.
pub fn matches_node(pod: &Pod, node: &NodeView) -> bool {
    let Some(spec) = &pod.spec else { return true };
    if !spec.node_selector.iter().flatten().all(|(k, v)| node.labels.get(k) == Some(v)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    api::affinity::selector_matches(required, &node.name, &node.labels)
}

fn host_ports(pod: &Pod) -> HashSet<(String, String, i32)> {
    let on_host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    pod.spec
        .iter()
        .flat_map(|s| {
            s.containers.iter().chain(s.init_containers.iter().flatten().filter(|c| resources::is_sidecar(c)))
        })
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|h| *h > 0).or(on_host.then_some(p.container_port))?;
            let ip = p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".into()), port))
        })
        .collect()
}

fn ports_collide(a: &HashSet<(String, String, i32)>, b: &HashSet<(String, String, i32)>) -> bool {
    a.iter().any(|(ip, protocol, port)| {
        b.iter().any(|(ip2, protocol2, port2)| {
            port == port2 && protocol == protocol2 && (ip == ip2 || ip == "0.0.0.0" || ip2 == "0.0.0.0")
        })
    })
}

/// Decides about a pod beside the others that run here already.
///
/// # Errors
/// The verdict with which it is rejected.
pub fn admit(pod: &Pod, others: &[&Pod], node: &NodeView) -> Result<(), Verdict> {
    let no = |reason: &str, message: String| Err(Verdict { reason: reason.to_owned(), message });
    if let Some(os) = pod.spec.as_ref().and_then(|s| s.os.as_ref()).filter(|o| o.name != "linux") {
        let message = format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name);
        return no("PodOSNotSupported", message);
    }
    let others: Vec<&&Pod> = others.iter().filter(|p| !is_terminal(p.status.as_ref())).collect();
    let out_of = |what: &str, requested: i64, used: i64, capacity: i64| {
        no(
            &format!("OutOf{what}"),
            format!(
                "Node didn't have enough resource: {what}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        )
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > node.pods {
        return out_of("pods", 1, count, node.pods);
    }
    let mut used = Amounts::default();
    for p in &others {
        used.add(&resources::pod_totals(p).requests);
    }
    let own = resources::pod_totals(pod).requests;
    if own.cpu_millis > 0 && used.cpu_millis + own.cpu_millis > node.allocatable.cpu_millis {
        return out_of("cpu", own.cpu_millis, used.cpu_millis, node.allocatable.cpu_millis);
    }
    if own.memory_bytes > 0 && used.memory_bytes + own.memory_bytes > node.allocatable.memory_bytes {
        return out_of("memory", own.memory_bytes, used.memory_bytes, node.allocatable.memory_bytes);
    }
    for (name, requested) in own.others.iter().filter(|(_, v)| **v > 0) {
        let capacity = node.allocatable.others.get(name).copied().unwrap_or(0);
        let in_use = used.others.get(name).copied().unwrap_or(0);
        if in_use + requested > capacity {
            return out_of(name, *requested, in_use, capacity);
        }
    }
    if !matches_node(pod, node) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into();
        return no("NodeAffinity", message);
    }
    let ports = host_ports(pod);
    if others.iter().any(|p| ports_collide(&ports, &host_ports(p))) {
        return no(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn node() -> NodeView {
        NodeView {
            name: "n".into(),
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            allocatable: Amounts { cpu_millis: 1000, memory_bytes: 1 << 30, ..Default::default() },
            pods: 2,
        }
    }

    #[test]
    fn what_does_not_fit_is_rejected_with_upstreams_reasons() {
        let small = pod(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "600m"}}}]}));
        assert_eq!(admit(&small, &[], &node()), Ok(()));
        let cpu = admit(&small, &[&small], &node()).unwrap_err();
        assert_eq!(cpu.reason, "OutOfcpu");
        assert_eq!(cpu.message, "Node didn't have enough resource: cpu, requested: 600, used: 600, capacity: 1000");
        let none = pod(serde_json::json!({"containers": []}));
        assert_eq!(admit(&none, &[&none, &none], &node()).unwrap_err().reason, "OutOfpods");
        let elsewhere = pod(serde_json::json!({"containers": [], "nodeSelector": {"disk": "hdd"}}));
        assert_eq!(admit(&elsewhere, &[], &node()).unwrap_err().reason, "NodeAffinity");
        let port =
            pod(serde_json::json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}]}));
        assert_eq!(admit(&port, &[&port], &node()).unwrap_err().reason, "NodePorts");
    }
}
