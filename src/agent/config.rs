//! What the agent is told by the command that starts it, and where it keeps its files.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::k8s::core::v1::Taint;
use client::Client;
use tokio::sync::watch;

/// Whether the node's network is set up: `Err` says what is missing. The owner of the network
/// sends a new value at every change; a sender that is gone leaves its last value standing.
pub type NetworkState = Result<(), String>;

/// Everything [`crate::run`] needs to know.
#[derive(Clone)]
pub struct Config {
    /// The name under which this machine is a Node.
    pub node_name: String,
    /// The machine's addresses, the primary one first; at most one of each family.
    pub node_ips: Vec<IpAddr>,
    /// Such as `/var/lib/sampan`.
    pub data_dir: PathBuf,
    /// Such as `/run/sampan`.
    pub run_dir: PathBuf,
    /// Where pods' log files go. `/var/log/pods`, or a place below a data directory that was moved.
    pub pod_logs_dir: PathBuf,
    /// How to reach the API, as `system:node:<name>`.
    pub client: Client,
    /// Labels for the Node, besides the well-known ones.
    pub node_labels: Vec<(String, String)>,
    /// Taints with which the Node is registered.
    pub node_taints: Vec<Taint>,
    /// The cluster's DNS address.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// The file from which pods with `dnsPolicy: Default` (and our forwarders) take their resolvers.
    pub resolv_conf: PathBuf,
    /// The cgroup below which `kubepods` is made; `/` when empty.
    pub cgroup_parent: String,
    /// The socket of a container runtime that somebody else runs; ours is started when `None`.
    pub container_runtime_endpoint: Option<String>,
    /// Where manifests of static pods are.
    pub static_pod_dir: PathBuf,
    /// Where the kubelet's HTTPS server listens.
    pub kubelet_bind: SocketAddr,
    /// The TLS side of that server: certificate and the verifier of client certificates, which
    /// should let clients without one through (they may have a token).
    pub serving_tls: Option<Arc<rustls::ServerConfig>>,
    /// Common names of client certificates that may do anything here: the API servers'.
    pub api_server_names: Vec<String>,
    /// Most pods that run here.
    pub max_pods: u32,
    /// `spec.providerID` of the Node; `sampan://<name>` when empty.
    pub provider_id: String,
    /// Whether the pods' network is up.
    pub network: watch::Receiver<NetworkState>,
    /// The program that containerd runs as the CNI plugin `sampan-cni`; our own executable when `None`.
    pub cni_program: Option<PathBuf>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({}, {})", self.node_name, self.data_dir.display())
    }
}

impl Config {
    /// A configuration with the defaults of a node whose name, addresses and client are known.
    pub fn new(
        node_name: &str,
        node_ips: Vec<IpAddr>,
        client: Client,
        network: watch::Receiver<NetworkState>,
    ) -> Config {
        Config {
            node_name: node_name.to_owned(),
            node_ips,
            data_dir: "/var/lib/sampan".into(),
            run_dir: "/run/sampan".into(),
            pod_logs_dir: "/var/log/pods".into(),
            client,
            node_labels: Vec::new(),
            node_taints: Vec::new(),
            cluster_dns: vec![IpAddr::from([10, 43, 0, 10])],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_parent: String::new(),
            container_runtime_endpoint: None,
            static_pod_dir: "/var/lib/sampan/agent/pod-manifests".into(),
            kubelet_bind: SocketAddr::from(([0, 0, 0, 0], 10250)),
            serving_tls: None,
            api_server_names: vec!["system:apiserver".into(), "kube-apiserver-kubelet-client".into()],
            max_pods: 110,
            provider_id: String::new(),
            network,
            cni_program: None,
        }
    }

    /// Where things are.
    pub fn paths(&self) -> Paths {
        Paths::new(&self.data_dir, &self.run_dir, &self.pod_logs_dir)
    }
}

/// The agent's files and folders.
#[derive(Clone, Debug)]
pub struct Paths {
    data: PathBuf,
    run: PathBuf,
    pod_logs: PathBuf,
}

impl Paths {
    /// The paths of an agent with these directories.
    pub fn new(data_dir: &Path, run_dir: &Path, pod_logs: &Path) -> Paths {
        Paths { data: data_dir.join("agent"), run: run_dir.to_owned(), pod_logs: pod_logs.to_owned() }
    }

    /// The agent's part of the data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The run directory.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// containerd's images and snapshots.
    pub fn containerd_root(&self) -> PathBuf {
        self.data.join("containerd")
    }

    /// Who pulled which image.
    pub fn pulled_images(&self) -> PathBuf {
        self.data.join("pulled-images.json")
    }

    /// containerd's running state.
    pub fn containerd_state(&self) -> PathBuf {
        self.run.join("containerd")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd_state().join("containerd.sock")
    }

    /// containerd's process id.
    pub fn containerd_pid(&self) -> PathBuf {
        self.run.join("containerd.pid")
    }

    /// containerd's configuration.
    pub fn containerd_config(&self) -> PathBuf {
        self.data.join("etc").join("containerd.toml")
    }

    /// containerd's log.
    pub fn containerd_log(&self) -> PathBuf {
        self.data.join("containerd.log")
    }

    /// Registry host configuration.
    pub fn certs_d(&self) -> PathBuf {
        self.data.join("certs.d")
    }

    /// CNI programs.
    pub fn cni_bin(&self) -> PathBuf {
        self.data.join("cni").join("bin")
    }

    /// CNI configuration.
    pub fn cni_conf(&self) -> PathBuf {
        self.data.join("cni").join("net.d")
    }

    /// Where the CNI program finds the agent.
    pub fn cni_socket(&self) -> PathBuf {
        self.run.join("cni.sock")
    }

    /// Image tarballs that are imported as they appear.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// The pods' folders.
    pub fn pods(&self) -> PathBuf {
        self.data.join("kubelet").join("pods")
    }

    /// One pod's folder.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// Localhost seccomp profiles.
    pub fn seccomp(&self) -> PathBuf {
        self.data.join("kubelet").join("seccomp")
    }

    /// The pods' logs.
    pub fn pod_logs(&self) -> &Path {
        &self.pod_logs
    }

    /// One pod's logs: `<namespace>_<name>_<uid>`.
    pub fn pod_log(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Makes the folders that are always there.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let private = [self.data.clone(), self.run.clone(), self.pods()];
        for dir in private {
            std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        }
        let open = [
            self.containerd_root(),
            self.containerd_state(),
            self.data.join("etc"),
            self.certs_d(),
            self.cni_bin(),
            self.cni_conf(),
            self.images(),
            self.seccomp(),
            self.pod_logs.clone(),
        ];
        for dir in open {
            std::fs::create_dir_all(dir)?;
        }
        Ok(())
    }
}
