//! What `sampan server` and `sampan agent` have in common: this machine as a node.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use client::Client;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tenth address of the service range is the cluster's DNS.
const DNS_OFFSET: u32 = 10;

/// Flags of a machine that runs workloads.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "node")]
pub struct Flags {
    /// Where sockets and running state are kept.
    #[arg(long, env = "SAMPAN_RUN_DIR", default_value = "/run/sampan", value_parser = super::absolute)]
    run_dir: PathBuf,
    /// The name of this machine as a node [default: its host name].
    #[arg(long, env = "SAMPAN_NODE_NAME")]
    node_name: Option<String>,
    /// The address of this machine as a node [default: the address of the default route].
    #[arg(long, env = "SAMPAN_NODE_IP")]
    node_ip: Option<IpAddr>,
    /// Labels for the node, as <key>=<value>.
    #[arg(long, env = "SAMPAN_NODE_LABEL", value_delimiter = ',')]
    node_label: Vec<String>,
    /// Taints for the node when it registers, as <key>[=<value>]:<effect>.
    #[arg(long, env = "SAMPAN_NODE_TAINT", value_delimiter = ',')]
    node_taint: Vec<String>,
    /// The socket of a container runtime that is already there, instead of an own containerd.
    #[arg(long, env = "SAMPAN_CONTAINER_RUNTIME_ENDPOINT")]
    container_runtime_endpoint: Option<String>,
    /// The address of the cluster's DNS [default: the tenth of the service range].
    #[arg(long, env = "SAMPAN_CLUSTER_DNS")]
    cluster_dns: Option<IpAddr>,
    /// The file with the resolvers for pods with `dnsPolicy: Default`.
    #[arg(long, env = "SAMPAN_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// The port of the kubelet.
    #[arg(long, env = "SAMPAN_KUBELET_PORT", default_value_t = 10250)]
    kubelet_port: u16,
    /// Most pods on this machine.
    #[arg(long, env = "SAMPAN_MAX_PODS", default_value_t = 110)]
    max_pods: u32,
    /// The cgroup below which pods' cgroups are made.
    #[arg(long, env = "SAMPAN_CGROUP_ROOT", default_value = "")]
    cgroup_root: String,
}

impl Flags {
    /// Whether the agent is to run a container runtime of its own.
    pub fn own_runtime(&self) -> bool {
        self.container_runtime_endpoint.is_none()
    }
}

/// What a node must know of its cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Addresses of pods.
    pub cluster_cidr: IpNet,
    /// Addresses of services.
    pub service_cidr: IpNet,
    /// The DNS domain.
    pub domain: String,
}

/// This machine as the flags describe it.
pub struct Machine {
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub ip: IpAddr,
    labels: Vec<(String, String)>,
    taints: Vec<api::k8s::core::v1::Taint>,
}

/// This machine, ready to be started as a node.
pub struct Node {
    name: String,
    ip: IpAddr,
    settings: agent::network::Settings,
    config: Box<dyn FnOnce(Client, watch::Receiver<agent::NetworkState>) -> agent::Config + Send>,
}

fn host_name() -> Result<String> {
    let raw = nix::unistd::gethostname().context("cannot read the host name")?;
    Ok(raw.to_string_lossy().to_lowercase())
}

fn label(text: &str) -> Result<(String, String)> {
    let (k, v) = text.split_once('=').with_context(|| format!("--node-label {text:?} must be <key>=<value>"))?;
    let wrong = api::names::qualified_name(k).or_else(|| api::names::label_value(v));
    if let Some(e) = wrong {
        bail!("--node-label {text:?}: {e}");
    }
    if !api::node_labels::is_allowed(k) {
        bail!(
            "--node-label {text:?}: a node may not set this label on itself. Of kubernetes.io and k8s.io it sets \
             those below kubelet.kubernetes.io and node.kubernetes.io and a few others; set this one with kubectl label"
        );
    }
    Ok((k.to_owned(), v.to_owned()))
}

fn taint(text: &str) -> Result<api::k8s::core::v1::Taint> {
    let form = || format!("--node-taint {text:?} must be <key>[=<value>]:<effect>");
    let (head, effect) = text.rsplit_once(':').with_context(form)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        bail!("--node-taint {text:?}: the effect must be NoSchedule, PreferNoSchedule or NoExecute");
    }
    let (key, value) = head.split_once('=').map_or((head, None), |(k, v)| (k, Some(v.to_owned())));
    Ok(api::k8s::core::v1::Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

/// The address that lies `n` after the first of a range.
pub(super) fn nth(net: &IpNet, n: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + n).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + u128::from(n)).into()),
    }
}

impl Machine {
    /// Checks the flags and fills in what they leave open; `address` is used when they name none.
    ///
    /// # Errors
    /// Flags that make no sense.
    pub fn new(flags: &Flags, address: Option<IpAddr>) -> Result<Machine> {
        let name = match &flags.node_name {
            Some(n) => n.to_lowercase(),
            None => host_name()?,
        };
        if let Some(e) = api::names::dns1123_subdomain(&name) {
            bail!("the node name {name:?} cannot be used: {e}. Choose another with --node-name");
        }
        let labels = flags.node_label.iter().map(|l| label(l)).collect::<Result<Vec<_>>>()?;
        let taints = flags.node_taint.iter().map(|t| taint(t)).collect::<Result<Vec<_>>>()?;
        let ip = flags.node_ip.or(address).context("this machine has no address; name one with --node-ip")?;
        Ok(Machine { name, ip, labels, taints })
    }
}

impl Node {
    /// Puts together how the node is to run.
    pub fn new(flags: &Flags, data_dir: &Path, cluster: &Cluster, machine: Machine) -> Node {
        let Machine { name, ip, labels, taints } = machine;
        let dns = flags.cluster_dns.unwrap_or_else(|| nth(&cluster.service_cidr, DNS_OFFSET));
        let settings = agent::network::Settings {
            node_name: name.clone(),
            node_ip: ip,
            cluster_cidr: cluster.cluster_cidr,
            service_cidr: cluster.service_cidr,
            cluster_dns: dns,
            cluster_domain: cluster.domain.clone(),
            resolv_conf: flags.resolv_conf.clone(),
            cni_socket: agent::Paths::new(data_dir, &flags.run_dir, data_dir).cni_socket(),
            ipam_dir: data_dir.join("agent/cni/ipam"),
        };
        let (flags, data_dir, domain) = (flags.clone(), data_dir.to_owned(), cluster.domain.clone());
        let node_name = name.clone();
        let config = move |client: Client, network: watch::Receiver<agent::NetworkState>| {
            let mut c = agent::Config::new(&node_name, vec![ip], client, network);
            c.pod_logs_dir = super::uninstall::pod_logs(&data_dir);
            c.static_pod_dir = data_dir.join("agent/pod-manifests");
            c.data_dir = data_dir;
            c.run_dir = flags.run_dir;
            c.node_labels = labels;
            c.node_taints = taints;
            c.cluster_dns = vec![dns];
            c.cluster_domain = domain;
            c.resolv_conf = flags.resolv_conf;
            c.cgroup_parent = flags.cgroup_root;
            c.container_runtime_endpoint = flags.container_runtime_endpoint;
            c.kubelet_bind = SocketAddr::new(
                if ip.is_ipv4() { [0, 0, 0, 0].into() } else { IpAddr::from([0u16; 8]) },
                flags.kubelet_port,
            );
            c.max_pods = flags.max_pods;
            c
        };
        Node { name, ip, settings, config: Box::new(config) }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Starts the agent. When it fails, the process ends with its error: a node that runs no pods
    /// must not look as if it did.
    pub fn start(
        self,
        client: Client,
        tls: Arc<rustls::ServerConfig>,
        api_server: &str,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) {
        let (network, state) = watch::channel::<agent::NetworkState>(Err("the pod network is not set up".into()));
        tasks.spawn(agent::network::run(self.settings, client.clone(), network, tasks.clone(), cancel.clone()));
        let mut config = (self.config)(client, state);
        config.serving_tls = Some(tls);
        config.api_server_names = vec![api_server.to_owned()];
        let cancel = cancel.clone();
        tasks.spawn(async move {
            if let Err(e) = agent::run(config, cancel.clone()).await {
                tracing::error!(error = format!("{:#}", anyhow::Error::new(e)), "the agent has ended");
                cancel.cancel();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_are_checked() -> Result<()> {
        assert_eq!(label("a/b=c")?, ("a/b".to_owned(), "c".to_owned()));
        assert!(label("a").is_err());
        assert!(label("a=b c").is_err());
        assert!(label("node-role.kubernetes.io/worker=true").is_err());
        let t = taint("k=v:NoSchedule")?;
        assert_eq!((t.key.as_str(), t.value.as_deref()), ("k", Some("v")));
        assert!(taint("k:Never").is_err());
        Ok(())
    }
}
