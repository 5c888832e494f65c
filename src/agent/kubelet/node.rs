//! The Node object and its Lease: registration, readings, heartbeats.
//!
//! The status is computed every 10 s and sent when it changed, else every 5 min; the Lease says
//! every 10 s that we live. Upstream: `pkg/kubelet/{kubelet_node_status.go,nodestatus}`,
//! `component-helpers/apimachinery/lease`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::coordination::v1::{Lease, LeaseSpec};
use api::k8s::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo, ObjectReference, Taint,
};
use api::meta::api::resource::Quantity;
use api::meta::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use client::{Informer, PatchKind};
use jiff::Timestamp;
use serde_json::json;

use super::Shared;
use super::status::seconds;
use crate::config::{Config, Paths};
use crate::images::oci::go_arch;

/// How often readings are taken.
const READ: Duration = Duration::from_secs(10);
/// How long the network may take at a start before the node is reported as not ready.
const NETWORK_START: Duration = Duration::from_secs(10);
/// How long an unchanged status may stay unsent.
const REPORT: Duration = Duration::from_secs(300);
/// How often the Lease is renewed, and for how long it holds.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// Images listed in the status at most.
const IMAGES_MAX: usize = 50;
/// Less memory than this is pressure, bytes.
const MEMORY_MIN: i64 = 100 << 20;

/// What the machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes of the file system that pods' files are on.
    pub storage_bytes: i64,
    /// Huge pages by size, such as `2Mi`, in bytes.
    pub hugepages: BTreeMap<String, i64>,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn meminfo(name: &str) -> i64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0) * 1024
}

impl Machine {
    /// Reads it off this machine.
    pub fn detect(paths: &Paths) -> Machine {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let storage = nix::sys::statvfs::statvfs(paths.data())
            .map(|s| i64::try_from(s.blocks() * s.fragment_size()).unwrap_or(0))
            .unwrap_or(0);
        let mut hugepages = BTreeMap::new();
        for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(kib) = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")?.parse::<i64>().ok())
            else {
                continue;
            };
            let count: i64 = read(&entry.path().join("nr_hugepages").to_string_lossy()).parse().unwrap_or(0);
            let size = if kib >= 1 << 20 {
                format!("{}Gi", kib >> 20)
            } else if kib >= 1024 {
                format!("{}Mi", kib >> 10)
            } else {
                format!("{kib}Ki")
            };
            hugepages.insert(size, count * kib * 1024);
        }
        Machine {
            cpu_millis: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: meminfo("MemTotal"),
            storage_bytes: storage,
            hugepages,
        }
    }

    fn amounts(&self, config: &Config) -> BTreeMap<String, Quantity> {
        let mut map = BTreeMap::from([
            ("cpu".to_owned(), Quantity((self.cpu_millis / 1000).to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", self.memory_bytes / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", self.storage_bytes / 1024))),
            ("pods".to_owned(), Quantity(config.max_pods.to_string())),
        ]);
        for (size, bytes) in &self.hugepages {
            map.insert(format!("hugepages-{size}"), Quantity(bytes.to_string()));
        }
        map
    }
}

/// The labels with which the Node is registered.
pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (k, v) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", go_arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", go_arch()),
    ] {
        map.insert(k.to_owned(), v.to_owned());
    }
    map.extend(config.node_labels.iter().cloned());
    map
}

fn system_info(runtime: &str) -> NodeSystemInfo {
    let os = read("/etc/os-release");
    let os_image = os
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |v| v.trim_matches('"').to_owned());
    let machine_id = [read("/etc/machine-id"), read("/var/lib/dbus/machine-id")].into_iter().find(|s| !s.is_empty());
    let uuid = read("/sys/class/dmi/id/product_uuid");
    let machine_id = machine_id.unwrap_or_default();
    NodeSystemInfo {
        architecture: go_arch().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_owned(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: api::VERSION.to_owned(),
        operating_system: "linux".to_owned(),
        os_image,
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        swap: None,
    }
}

/// One reading: whether it is bad, and upstream's words for bad and good.
struct Reading {
    kind: &'static str,
    bad: bool,
    reasons: (&'static str, &'static str),
    messages: (&'static str, &'static str),
}

fn readings(paths: &Paths) -> Vec<Reading> {
    let low = |path: &std::path::Path, percent: u64| {
        nix::sys::statvfs::statvfs(path).is_ok_and(|s| {
            let (all, free) = (s.blocks(), s.blocks_available());
            let (inodes, inodes_free) = (s.files(), s.files_available());
            free * 100 < all * percent || (inodes > 0 && inodes_free * 100 < inodes * 5)
        })
    };
    let pids_max: i64 = read("/proc/sys/kernel/pid_max").parse().unwrap_or(i64::MAX);
    let pids: i64 =
        read("/proc/loadavg").split_whitespace().nth(3).and_then(|f| f.split_once('/')?.1.parse().ok()).unwrap_or(0);
    vec![
        Reading {
            kind: "MemoryPressure",
            bad: meminfo("MemAvailable") < MEMORY_MIN,
            reasons: ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            messages: ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        },
        Reading {
            kind: "DiskPressure",
            bad: low(paths.data(), 5) || low(&paths.containerd_root(), 5),
            reasons: ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
            messages: ("kubelet has disk pressure", "kubelet has no disk pressure"),
        },
        Reading {
            kind: "PIDPressure",
            bad: pids.saturating_mul(100) > pids_max.saturating_mul(90),
            reasons: ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
            messages: ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        },
    ]
}

/// Keeps the Node object and its Lease.
pub struct NodeKeeper {
    shared: Arc<Shared>,
    informer: Informer,
    runtime_version: tokio::sync::OnceCell<String>,
}

impl std::fmt::Debug for NodeKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKeeper")
    }
}

impl NodeKeeper {
    /// `informer` has this Node alone.
    pub fn new(shared: Arc<Shared>, informer: Informer) -> Arc<NodeKeeper> {
        Arc::new(NodeKeeper { shared, informer, runtime_version: tokio::sync::OnceCell::new() })
    }

    /// A reference for events about the Node. As upstream, its UID there is its name.
    pub fn reference(config: &Config) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".into()),
            api_version: Some("v1".into()),
            name: Some(config.node_name.clone()),
            uid: Some(config.node_name.clone()),
            ..Default::default()
        }
    }

    fn config(&self) -> &Config {
        &self.shared.config
    }

    async fn runtime_version(&self) -> String {
        let ask = || async {
            let v = self.shared.runtime.version().await?;
            Ok::<_, super::cri::Error>(format!("{}://{}", v.runtime_name, v.runtime_version.trim_start_matches('v')))
        };
        self.runtime_version.get_or_try_init(ask).await.cloned().unwrap_or_default()
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        let address = |kind: &str, a: String| NodeAddress { type_: kind.to_owned(), address: a };
        let mut out: Vec<NodeAddress> =
            self.config().node_ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
        out.push(address("Hostname", self.config().node_name.clone()));
        out
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut all = self.shared.runtime.list_images().await.unwrap_or_default();
        all.sort_by_key(|i| std::cmp::Reverse(i.size));
        all.truncate(IMAGES_MAX);
        all.into_iter()
            .map(|i| ContainerImage {
                names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(5).collect()),
                size_bytes: i64::try_from(i.size).ok(),
            })
            .collect()
    }

    /// Why the node is not ready, if it is not.
    async fn not_ready(&self) -> Option<String> {
        let mut why = Vec::new();
        match self.shared.runtime.status().await {
            Ok(s) => {
                for c in s.conditions.iter().filter(|c| c.r#type == "RuntimeReady" && !c.status) {
                    why.push(format!(
                        "container runtime not ready: RuntimeReady=false reason:{} message:{}",
                        c.reason, c.message
                    ));
                }
            }
            Err(e) => why.push(format!("container runtime is down: {e}")),
        }
        if let Err(e) = self.config().network.borrow().clone() {
            why.push(format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{e}"
            ));
        }
        (!why.is_empty()).then(|| format!("[{}]", why.join(", ")).trim_matches(['[', ']']).to_owned())
    }

    async fn conditions(&self, old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
        let mut out = Vec::new();
        let mut add = |kind: &str, yes: bool, reason: &str, message: String| {
            let status = if yes { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == kind && c.status == status);
            out.push(NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(seconds(now)),
                last_transition_time: before
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| Some(seconds(now))),
            });
            before.is_none()
        };
        let had_ready = old.iter().any(|c| c.type_ == "Ready");
        for r in readings(&self.shared.paths) {
            let (reason, message) = if r.bad { (r.reasons.0, r.messages.0) } else { (r.reasons.1, r.messages.1) };
            if add(r.kind, r.bad, reason, message.to_owned()) {
                // The event's reason is the node's, the condition's is the kubelet's.
                let reason = reason.replacen("Kubelet", "Node", 1);
                let text = format!("Node {} status is now: {reason}", self.config().node_name);
                self.shared.recorder.normal(Self::reference(self.config()), &reason, text);
            }
        }
        let changed = match self.not_ready().await {
            None => {
                add("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()).then_some("NodeReady")
            }
            Some(why) => add("Ready", false, "KubeletNotReady", why).then_some("NodeNotReady"),
        };
        if let Some(reason) = changed.filter(|_| had_ready) {
            let text = format!("Node {} status is now: {reason}", self.config().node_name);
            self.shared.recorder.normal(Self::reference(self.config()), reason, text);
        }
        // What others report about the node stays: NetworkUnavailable …
        let ours: Vec<String> = out.iter().map(|c| c.type_.clone()).collect();
        out.extend(old.iter().filter(|c| !ours.contains(&c.type_)).cloned());
        out
    }

    async fn status(&self, old: Option<&NodeStatus>) -> NodeStatus {
        let amounts = self.shared.machine.amounts(self.config());
        let (mut capacity, mut allocatable) = (amounts.clone(), amounts);
        // Extended resources are whoever's who put them there.
        for (from, to) in [
            (old.and_then(|o| o.capacity.as_ref()), &mut capacity),
            (old.and_then(|o| o.allocatable.as_ref()), &mut allocatable),
        ] {
            for (k, v) in from.into_iter().flatten().filter(|(k, _)| k.contains('/')) {
                to.insert(k.clone(), v.clone());
            }
        }
        let old_conditions = old.and_then(|o| o.conditions.as_deref()).unwrap_or_default();
        NodeStatus {
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(self.conditions(old_conditions, Timestamp::now()).await),
            addresses: Some(self.addresses()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.config().kubelet_bind.port()) }),
            }),
            node_info: Some(system_info(&self.runtime_version().await)),
            images: Some(self.images().await),
            ..Default::default()
        }
    }

    async fn register(&self) -> Result<Arc<Node>, api::Status> {
        let c = self.config();
        if let Some(node) = self.shared.client.get_opt::<Node>("", &c.node_name).await? {
            let wanted = labels(c);
            let has = node.metadata.labels.clone().unwrap_or_default();
            if wanted.iter().any(|(k, v)| has.get(k) != Some(v)) {
                let patch = json!({"metadata": {"labels": wanted}});
                return self.shared.client.patch::<Node>("", &c.node_name, "", PatchKind::Strategic, &patch).await;
            }
            return Ok(node);
        }
        let not_ready =
            Taint { key: "node.kubernetes.io/not-ready".into(), effect: "NoSchedule".into(), ..Default::default() };
        let mut taints = c.node_taints.clone();
        taints.push(not_ready);
        let provider =
            if c.provider_id.is_empty() { format!("sampan://{}", c.node_name) } else { c.provider_id.clone() };
        let node = Node {
            metadata: ObjectMeta {
                name: Some(c.node_name.clone()),
                labels: Some(labels(c)),
                annotations: Some(
                    [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())].into(),
                ),
                ..Default::default()
            },
            spec: Some(NodeSpec { provider_id: Some(provider), taints: Some(taints), ..Default::default() }),
            status: Some(self.status(None).await),
        };
        self.shared.client.create(&node).await
    }

    /// Registers the Node and keeps its status. Runs until cancelled.
    pub async fn run(self: Arc<Self>) {
        let mut wait = Duration::from_millis(200);
        let node = loop {
            match self.register().await {
                Ok(node) => break node,
                Err(s) => {
                    tracing::warn!(error = %s, "the node is not registered yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(7));
                }
            }
        };
        tracing::info!(node = %self.config().node_name, "node registered");
        self.shared.recorder.normal(Self::reference(self.config()), "Starting", "Starting kubelet.");
        let mut last: Option<(NodeStatus, std::time::Instant)> = None;
        let mut known = (*node).clone();
        let mut network = self.config().network.clone();
        // At every start the network takes a moment to be found as it was left; a node that says so
        // would lose its endpoints everywhere for that moment.
        let _ = tokio::time::timeout(NETWORK_START, network.wait_for(Result::is_ok)).await;
        let mut network_open = true;
        let mut ticks = tokio::time::interval(READ);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                r = network.changed(), if network_open => network_open = r.is_ok(),
            }
            if let Some(now) = self.informer.get::<Node>(&self.config().node_name) {
                known = (*now).clone();
            } else if self.informer.is_synced() && last.is_some() {
                // Somebody deleted it.
                last = None;
                match self.register().await {
                    Ok(n) => known = (*n).clone(),
                    Err(s) => tracing::warn!(error = %s, "the node is not registered"),
                }
            }
            let status = self.status(known.status.as_ref()).await;
            let changed = last.as_ref().is_none_or(|(l, at)| at.elapsed() >= REPORT || !same(l, &status))
                || !same(known.status.as_ref().unwrap_or(&NodeStatus::default()), &status);
            if !changed {
                continue;
            }
            let mut value = serde_json::to_value(&status).unwrap_or_default();
            if let Some(list) = value["addresses"].as_array_mut() {
                // They are merged by type, which several of one family would not survive.
                list.push(json!({"$patch": "replace"}));
            }
            let patch = json!({"status": value});
            match self
                .shared
                .client
                .patch::<Node>("", &self.config().node_name, "status", PatchKind::Strategic, &patch)
                .await
            {
                Ok(n) => {
                    known = (*n).clone();
                    last = Some((status, std::time::Instant::now()));
                }
                Err(s) => tracing::warn!(error = %s, "the node's status was not written"),
            }
        }
    }

    /// Renews the Lease. Runs until cancelled.
    pub async fn run_lease(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(s) = self.renew().await {
                tracing::warn!(error = %s, "the node's lease was not renewed");
            }
        }
    }

    async fn renew(&self) -> Result<(), api::Status> {
        const NAMESPACE: &str = "kube-node-lease";
        let name = &self.config().node_name;
        let client = &self.shared.client;
        let now = MicroTime(Timestamp::now());
        let patch = json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}});
        match client.patch::<Lease>(NAMESPACE, name, "", PatchKind::Merge, &patch).await {
            Ok(_) => return Ok(()),
            Err(s) if s.is_not_found() => {}
            Err(s) => return Err(s),
        }
        let node = client.get_opt::<Node>("", name).await?;
        let owner = node.and_then(|n| n.metadata.uid.clone()).map(|uid| {
            vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid,
                ..Default::default()
            }]
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                owner_references: owner,
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..Default::default()
            }),
        };
        match client.create(&lease).await {
            Err(s) if !s.is_already_exists() => Err(s),
            _ => Ok(()),
        }
    }

    /// Writes the CNI configuration whenever the Node's pod CIDRs are known or change.
    pub fn write_cni_config(self: &Arc<Self>) {
        let paths = self.shared.paths.clone();
        self.informer.on_change(move |c| {
            let Some(node) = c.new.as_ref().and_then(|o| o.typed::<Node>().ok()) else { return };
            let cidrs = pod_cidrs(&node);
            if cidrs.is_empty() {
                return;
            }
            let file = paths.cni_conf().join(crate::containerd::CNI_CONFLIST);
            let text = crate::containerd::cni_conflist(&paths, &cidrs);
            if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
                return;
            }
            let fresh = file.with_extension("new");
            if let Err(e) = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &file)) {
                tracing::error!(file = %file.display(), error = %e, "the CNI configuration was not written");
            }
        });
    }
}

/// The pod CIDRs of a Node.
pub fn pod_cidrs(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    if all.is_empty() { spec.and_then(|s| s.pod_cidr.clone()).into_iter().collect() } else { all }
}

/// Whether two statuses differ in nothing but heartbeats and what others own.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let strip = |s: &NodeStatus| {
        let mut c = s.conditions.clone().unwrap_or_default();
        for c in &mut c {
            c.last_heartbeat_time = None::<Time>;
        }
        c.sort_by(|x, y| x.type_.cmp(&y.type_));
        (
            c,
            s.capacity.clone(),
            s.allocatable.clone(),
            s.addresses.clone(),
            s.node_info.clone(),
            s.images.clone(),
            s.daemon_endpoints.clone(),
        )
    };
    strip(a) == strip(b)
}
