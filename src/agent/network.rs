//! Feeds the node's network: what `net` should do follows from Nodes, Services, EndpointSlices and
//! the host ports of the node's pods.
//!
//! `net` knows no client; here its desired state comes from shared informers. A change wakes one
//! task, which applies the newest state as a whole; several changes at once are applied once.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::core::v1::{Node, Pod, Service};
use api::k8s::discovery::v1::EndpointSlice;
use client::{Client, Gvr, Informer, Informers, ListParams};
use ipnet::IpNet;
use net::dns::{Dns, Records, View, upstreams};
use net::overlay::{Network, Peer};
use net::proxy::{Endpoint, Front, Protocol, Syncer, Table};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::NetworkState;
use crate::host_ports::{self, HostPorts};

/// Wait before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
const DNS_PORT: u16 = 53;

/// What the network needs to know beyond the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's name.
    pub node_name: String,
    /// This node's address.
    pub node_ip: IpAddr,
    /// Pods of all nodes.
    pub cluster_cidr: IpNet,
    /// Services.
    pub service_cidr: IpNet,
    /// The service address of DNS.
    pub cluster_dns: IpAddr,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Resolvers for everything else are read from here.
    pub resolv_conf: PathBuf,
    /// Where the CNI plugin finds the agent.
    pub cni_socket: PathBuf,
    /// Where pods' addresses are kept.
    pub ipam_dir: PathBuf,
}

fn node_ip(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()
}

fn pod_cidr(node: &Node) -> Option<IpNet> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

fn wake(informer: &Informer, notify: &Arc<Notify>) {
    let notify = notify.clone();
    informer.on_change(move |_| notify.notify_one());
}

/// Runs the network until cancelled; `state` tells the kubelet when pods can have addresses.
pub async fn run(
    settings: Settings,
    client: Client,
    state: watch::Sender<NetworkState>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let informers = Informers::new(client, tasks.clone(), cancel.clone());
    let work = async {
        let nodes = informers.of::<Node>();
        let range = own_range(&settings, &nodes).await;
        let mut config = net::Config::new(&settings.node_name, settings.node_ip, range);
        config.cluster_cidr = settings.cluster_cidr;
        config.service_cidr = settings.service_cidr;
        config.cluster_dns = settings.cluster_dns;
        config.cluster_domain = settings.cluster_domain.clone();
        loop {
            match start(&settings, &config, &informers, &nodes, &state, &tasks, &cancel).await {
                Ok(()) => return,
                Err(e) => {
                    tracing::error!(error = e, "the pod network cannot be set up; trying again");
                    let _ = state.send_replace(Err(e));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    let _ = cancel.run_until_cancelled(work).await;
    // The kubelet keeps the last state for as long as it runs.
    cancel.cancelled().await;
    drop(state);
}

/// Waits for the range that the control plane gives this node.
async fn own_range(settings: &Settings, nodes: &Informer) -> IpNet {
    let changed = Arc::new(Notify::new());
    wake(nodes, &changed);
    loop {
        if let Some(range) = nodes.get::<Node>(&settings.node_name).and_then(|n| pod_cidr(&n)) {
            return range;
        }
        changed.notified().await;
    }
}

async fn start(
    settings: &Settings,
    config: &net::Config,
    informers: &Informers,
    nodes: &Informer,
    state: &watch::Sender<NetworkState>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let network = Network::start(config.clone()).await.map_err(|e| format!("the links: {e}"))?;
    let server = net::cni::CniServer::new(config.clone(), network.mtu(), &settings.ipam_dir)
        .map_err(|e| format!("the CNI server: {e}"))?;
    // A socket that an earlier agent left behind would be in the way.
    let _ = std::fs::remove_file(&settings.cni_socket);
    let listener = tokio::net::UnixListener::bind(&settings.cni_socket)
        .map_err(|e| format!("cannot listen on {}: {e}", settings.cni_socket.display()))?;
    tasks.spawn(Arc::new(server).serve(listener, cancel.clone()));

    let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
    let pods = informers.select(Gvr::of::<Pod>(), ListParams::field("spec.nodeName", &settings.node_name));
    services.synced().await;
    slices.synced().await;
    pods.synced().await;
    let view = View::new(Records::build(&config.cluster_domain, [], []));
    let front = serve_dns(settings, config, &view, tasks, cancel)?;
    spawn(tasks, cancel, peers(settings.node_name.clone(), nodes.clone(), network));
    let (sender, ports) = watch::channel(HostPorts::new());
    spawn(tasks, cancel, follow_host_ports(pods, config.node_ip, sender));
    let config = config.clone();
    let state = state.clone();
    spawn(tasks, cancel, rules(config, services, slices, ports, view, front, state));
    Ok(())
}

fn spawn(tasks: &TaskTracker, cancel: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let cancel = cancel.clone();
    tasks.spawn(async move {
        let _ = cancel.run_until_cancelled(work).await;
    });
}

/// Starts cluster DNS on the bridge's address; returns where it listens.
fn serve_dns(
    settings: &Settings,
    config: &net::Config,
    view: &View,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Endpoint, String> {
    let gateway = net::overlay::gateway(config.pod_cidr).ok_or("the pod range has no addresses")?.addr();
    let text = std::fs::read_to_string(&settings.resolv_conf).unwrap_or_default();
    let dns =
        Dns::new(view.clone(), &upstreams(&text, &[gateway, config.cluster_dns])).map_err(|e| format!("DNS: {e}"))?;
    let (address, cancel) = (SocketAddr::new(gateway, DNS_PORT), cancel.clone());
    tasks.spawn(async move {
        if let Err(e) = dns.serve(address, cancel).await {
            tracing::error!(error = %e, "cluster DNS has ended");
        }
    });
    Ok(Endpoint { addr: gateway, port: DNS_PORT })
}

/// Keeps the tunnel's peers as the Nodes are.
async fn peers(own: String, nodes: Informer, network: Network) {
    let changed = Arc::new(Notify::new());
    wake(&nodes, &changed);
    let mut applied: Option<BTreeSet<(String, IpAddr, IpNet)>> = None;
    loop {
        let all = nodes.list::<Node>();
        let wanted: BTreeSet<(String, IpAddr, IpNet)> = all
            .iter()
            .filter(|n| n.metadata.name.as_deref() != Some(own.as_str()))
            .filter_map(|n| Some((n.metadata.name.clone()?, node_ip(n)?, pod_cidr(n)?)))
            .collect();
        // Heartbeats change nothing here.
        if applied.as_ref() != Some(&wanted) {
            let list: Vec<Peer> = wanted.iter().map(|(name, ip, range)| Peer::new(name, *ip, *range)).collect();
            match network.sync_peers(&list).await {
                Ok(()) => applied = Some(wanted),
                Err(e) => {
                    tracing::warn!(error = %e, "the routes to other nodes could not be set; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        changed.notified().await;
    }
}

/// Tells the host ports of the node's pods; most changes of pods change nothing here.
async fn follow_host_ports(pods: Informer, node_ip: IpAddr, ports: watch::Sender<HostPorts>) {
    let changed = Arc::new(Notify::new());
    wake(&pods, &changed);
    loop {
        let all = pods.list::<Pod>();
        let now = host_ports::of(all.iter().map(|p| &**p), node_ip);
        ports.send_if_modified(|before| {
            let news = *before != now;
            *before = now;
            news
        });
        changed.notified().await;
    }
}

/// Keeps rules and DNS records as Services, EndpointSlices and host ports are.
async fn rules(
    config: net::Config,
    services: Informer,
    slices: Informer,
    mut ports: watch::Receiver<HostPorts>,
    view: View,
    dns: Endpoint,
    state: watch::Sender<NetworkState>,
) {
    let changed = Arc::new(Notify::new());
    wake(&services, &changed);
    wake(&slices, &changed);
    let mut syncer = Syncer::new(config.clone(), net::nft::Kernel::new());
    loop {
        let all: Vec<Arc<Service>> = services.list();
        let ends: Vec<Arc<EndpointSlice>> = slices.list();
        view.replace(Records::build(&config.cluster_domain, all.iter().map(|s| &**s), ends.iter().map(|s| &**s)));
        let mut table = Table::desired(&config, all.iter().map(|s| &**s), ends.iter().map(|s| &**s));
        for (front, pod) in ports.borrow_and_update().iter() {
            table.host_port(*front, *pod);
        }
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            table.serve(Front { addr: config.cluster_dns, protocol, port: DNS_PORT }, dns);
        }
        match syncer.sync(table).await {
            Ok(_) => {
                state.send_if_modified(|s| {
                    let news = s.is_err();
                    *s = Ok(());
                    news
                });
            }
            Err(e) => {
                tracing::error!(error = %e, "the service rules could not be set; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            // Its sender ends with this task's own end.
            Ok(()) = ports.changed() => {}
        }
    }
}

/// Takes links, tunnel and rules back. For uninstall; what is not there is no error.
///
/// # Errors
/// A message for people when something stays.
pub async fn remove_all() -> Result<(), String> {
    let anywhere = IpNet::V4(ipnet::Ipv4Net::new_assert([10, 42, 0, 0].into(), 24));
    let config = net::Config::new("", IpAddr::from([127, 0, 0, 1]), anywhere);
    let mut syncer = Syncer::new(config.clone(), net::nft::Kernel::new());
    syncer.remove().await.map_err(|e| format!("the nftables table: {e}"))?;
    net::overlay::remove_links(&config).await.map_err(|e| format!("the links: {e}"))
}
