//! The table of plugins, with upstream's names and default weights.

mod balanced_allocation;
mod image_locality;
mod least_allocated;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;
mod unsupported;

use crate::framework::Plugin;

/// All plugins in the order in which upstream filters.
pub fn all() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(unsupported::Unsupported),
        Box::new(node_unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taint_toleration::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_ports::NodePorts),
        Box::new(node_resources_fit::NodeResourcesFit),
        Box::new(least_allocated::LeastAllocated),
        Box::new(balanced_allocation::BalancedAllocation),
        Box::new(image_locality::ImageLocality),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::k8s::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use crate::cache::Cache;
    use crate::framework::{Decision, Framework};

    fn node(name: &str, cpu: &str, extra: Value) -> Arc<Node> {
        let mut v = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}});
        if let Some(spec) = extra.as_object() {
            spec.iter().for_each(|(k, x)| v["spec"][k] = x.clone());
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn pod(spec: Value) -> Arc<Pod> {
        let mut v = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "c"}]}});
        spec.as_object().unwrap().iter().for_each(|(k, x)| v["spec"][k] = x.clone());
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn cpu(n: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": n}}}]})
    }

    fn decide(cache: &Cache, p: &Pod) -> Decision {
        Framework::new(super::all()).decide(p, cache)
    }

    #[test]
    fn a_pod_goes_where_it_fits_and_assumed_pods_count() {
        let mut c = Cache::default();
        c.set_node("a", Some(node("a", "1", json!({}))));
        c.set_node("b", Some(node("b", "2", json!({}))));
        assert_eq!(decide(&c, &pod(cpu("1500m"))), Decision::Node("b".into()));
        c.assume("d/x", "b", pod(cpu("1500m")));
        let Decision::None(m) = decide(&c, &pod(cpu("1500m"))) else { panic!("there is no room") };
        assert!(m.starts_with("0/2 nodes are available: 2 Insufficient cpu."), "{m}");
        c.forget("d/x");
        assert_eq!(decide(&c, &pod(cpu("1500m"))), Decision::Node("b".into()));
    }

    #[test]
    fn the_emptier_node_is_better() {
        let mut c = Cache::default();
        c.set_node("a", Some(node("a", "4", json!({}))));
        c.set_node("b", Some(node("b", "4", json!({}))));
        c.assume("d/x", "a", pod(cpu("3")));
        assert_eq!(decide(&c, &pod(cpu("100m"))), Decision::Node("b".into()));
    }

    #[test]
    fn taints_selectors_cordons_and_host_ports_keep_pods_away() {
        let mut c = Cache::default();
        c.set_node("a", Some(node("a", "4", json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}))));
        c.set_node("b", Some(node("b", "4", json!({"unschedulable": true}))));
        c.set_node("c", Some(node("c", "4", json!({}))));
        let p = pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}));
        assert_eq!(decide(&c, &p), Decision::Node("c".into()));
        c.assume("d/x", "c", p.clone());
        let Decision::None(m) = decide(&c, &p) else { panic!("the port is taken") };
        assert!(m.contains("1 node(s) didn't have free ports for the requested pod ports"), "{m}");
        assert!(m.contains("1 node(s) had untolerated taint {k: v}"), "{m}");
        assert!(m.contains("1 node(s) were unschedulable"), "{m}");
        let selects = pod(json!({"nodeSelector": {"kubernetes.io/hostname": "z"}}));
        let Decision::None(m) = decide(&c, &selects) else { panic!("nothing matches") };
        assert!(m.contains("node(s) didn't match Pod's node affinity/selector"), "{m}");
    }
}
