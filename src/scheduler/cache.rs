//! Nodes with what their pods use, kept up to date from watch events and assumed pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::k8s::core::v1::{Container, Node, Pod};
use api::meta::api::resource::Quantity;

use crate::queue::Key;

/// Amounts by resource name: cpu in milli-cores, everything else in whole units.
pub type Amounts = BTreeMap<String, i64>;

/// Requests that a container without any still counts as when nodes are compared (upstream).
pub const DEFAULT_CPU: i64 = 100;
/// See [`DEFAULT_CPU`]; bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// A node as plugins see it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// What it offers.
    pub allocatable: Amounts,
    /// What its pods request.
    pub requested: Amounts,
    /// The same for comparison: with defaults for containers without requests.
    pub nonzero: Amounts,
    /// Its pods.
    pub pods: HashMap<Key, Arc<Pod>>,
}

/// One amount of a resource.
pub fn amount(resource: &str, q: &Quantity) -> i64 {
    let Ok(parsed) = api::quantity::Quantity::parse(&q.0) else { return 0 };
    if resource == "cpu" { parsed.milli_value() } else { parsed.value() }
}

fn amounts(map: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    map.into_iter().flatten().map(|(k, q)| (k.clone(), amount(k, q))).collect()
}

fn add(to: &mut Amounts, more: &Amounts, sign: i64) {
    for (k, v) in more {
        *to.entry(k.clone()).or_default() += sign * v;
    }
}

fn requests(c: &Container, defaults: bool) -> Amounts {
    let mut a = amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if defaults {
        a.entry("cpu".into()).or_insert(DEFAULT_CPU);
        a.entry("memory".into()).or_insert(DEFAULT_MEMORY);
    }
    a
}

/// What a pod requests: the sum of its containers and sidecars, or its largest init container
/// together with the sidecars before it, plus overhead.
pub fn pod_requests(pod: &Pod, defaults: bool) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for c in &spec.containers {
        add(&mut total, &requests(c, defaults), 1);
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in spec.init_containers.iter().flatten() {
        let mut now = requests(c, defaults);
        if c.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &now, 1);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars, 1);
        }
        for (k, v) in now {
            let p = peak.entry(k).or_default();
            *p = v.max(*p);
        }
    }
    add(&mut total, &sidecars, 1);
    for (k, v) in peak {
        let t = total.entry(k).or_default();
        *t = v.max(*t);
    }
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        total.extend(amounts(Some(pod_level)));
    }
    add(&mut total, &amounts(spec.overhead.as_ref()), 1);
    total
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> NodeInfo {
        let allocatable = amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
        NodeInfo { node, allocatable, requested: Amounts::new(), nonzero: Amounts::new(), pods: HashMap::new() }
    }

    fn put(&mut self, key: &str, pod: Arc<Pod>) {
        self.take(key);
        add(&mut self.requested, &pod_requests(&pod, false), 1);
        add(&mut self.nonzero, &pod_requests(&pod, true), 1);
        self.pods.insert(key.to_owned(), pod);
    }

    fn take(&mut self, key: &str) -> bool {
        let Some(pod) = self.pods.remove(key) else { return false };
        add(&mut self.requested, &pod_requests(&pod, false), -1);
        add(&mut self.nonzero, &pod_requests(&pod, true), -1);
        true
    }

    /// The name of the node.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, NodeInfo>,
    /// The node that each known pod counts on.
    placed: HashMap<Key, String>,
    /// Pods on nodes that are not known (yet).
    homeless: HashMap<String, HashMap<Key, Arc<Pod>>>,
}

impl Cache {
    /// The nodes in name order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Sets or removes a node. Returns whether that may help a pod that found no node.
    pub fn set_node(&mut self, name: &str, node: Option<Arc<Node>>) -> bool {
        let Some(node) = node else {
            if let Some(info) = self.nodes.remove(name) {
                self.homeless.insert(name.to_owned(), info.pods);
            }
            return false;
        };
        let Some(old) = self.nodes.get_mut(name) else {
            let mut info = NodeInfo::new(node);
            for (key, pod) in self.homeless.remove(name).unwrap_or_default() {
                info.put(&key, pod);
            }
            self.nodes.insert(name.to_owned(), info);
            return true;
        };
        let fresh = NodeInfo::new(node);
        let helps = fresh.allocatable != old.allocatable
            || fresh.node.metadata.labels != old.node.metadata.labels
            || fresh.node.spec != old.node.spec;
        old.allocatable = fresh.allocatable;
        old.node = fresh.node;
        helps
    }

    /// Sets the pod of a key where it runs, or removes it. Returns whether room was freed.
    pub fn set_pod(&mut self, key: &str, pod: Option<Arc<Pod>>) -> bool {
        match pod {
            Some(pod) => {
                let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
                self.place(key, &node, pod);
                false
            }
            // An assumed pod whose binding is under way shows up unbound for a while: it stays.
            None => self.forget_confirmed(key),
        }
    }

    fn place(&mut self, key: &str, node: &str, pod: Arc<Pod>) {
        if self.placed.get(key).is_some_and(|n| n != node) {
            self.forget(key);
        }
        match self.nodes.get_mut(node) {
            Some(info) => info.put(key, pod),
            None => {
                self.homeless.entry(node.to_owned()).or_default().insert(key.to_owned(), pod);
            }
        }
        self.placed.insert(key.to_owned(), node.to_owned());
    }

    fn forget_confirmed(&mut self, key: &str) -> bool {
        let assumed = self.placed.get(key).and_then(|n| self.nodes.get(n)).and_then(|i| i.pods.get(key));
        let unbound = assumed
            .is_some_and(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default().is_empty());
        if unbound { false } else { self.forget(key) }
    }

    /// Counts a pod on a node before the API has confirmed its binding.
    pub fn assume(&mut self, key: &str, node: &str, pod: Arc<Pod>) {
        self.place(key, node, pod);
    }

    /// Takes a pod out. Returns whether it was counted.
    pub fn forget(&mut self, key: &str) -> bool {
        let Some(node) = self.placed.remove(key) else { return false };
        if let Some(pods) = self.homeless.get_mut(&node) {
            pods.remove(key);
        }
        self.nodes.get_mut(&node).is_some_and(|i| i.take(key))
    }
}
