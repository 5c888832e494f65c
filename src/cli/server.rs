//! `sampan server`: the composition root. Store, API server, controllers and scheduler as tracked
//! tasks of one process; they end together.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::Informers;
use ipnet::IpNet;
use server::pki::{LEAF_LIFETIME, Pki, Usage};
use server::request::User;
use store::{DurableStore, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::kubeconfig;

/// How long tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Flags of `sampan server`. Names and meanings are k3s's where k3s has the flag.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Configuration file; flags by their names.
    #[arg(long, short, env = "SAMPAN_CONFIG", default_value = super::config_file::DEFAULT)]
    config: PathBuf,
    /// Where everything is kept.
    #[arg(long, short, env = "SAMPAN_DATA_DIR", default_value = "/var/lib/sampan")]
    data_dir: PathBuf,
    /// Where the kubeconfig for the administrator is written.
    #[arg(long, env = "SAMPAN_WRITE_KUBECONFIG", default_value = "/etc/sampan/sampan.yaml")]
    write_kubeconfig: PathBuf,
    /// The address to listen on.
    #[arg(long, env = "SAMPAN_BIND_ADDRESS", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port to listen on; 0 for any that is free.
    #[arg(long, env = "SAMPAN_HTTPS_LISTEN_PORT", default_value_t = 6443)]
    https_listen_port: u16,
    /// The address that others reach this server at [default: the address of the default route].
    #[arg(long, env = "SAMPAN_ADVERTISE_ADDRESS")]
    advertise_address: Option<IpAddr>,
    /// Further names and addresses in the server's certificate.
    #[arg(long, env = "SAMPAN_TLS_SAN", value_delimiter = ',')]
    tls_san: Vec<String>,
    /// The range of pod addresses.
    #[arg(long, env = "SAMPAN_CLUSTER_CIDR", default_value = "10.42.0.0/16")]
    cluster_cidr: IpNet,
    /// Prefix length of a node's share of the pod addresses.
    #[arg(long, env = "SAMPAN_NODE_CIDR_MASK_SIZE", default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// The range of service addresses.
    #[arg(long, env = "SAMPAN_SERVICE_CIDR", default_value = "10.43.0.0/16")]
    service_cidr: IpNet,
    /// The range of node ports.
    #[arg(long, env = "SAMPAN_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: (u16, u16),
    /// The cluster's DNS domain.
    #[arg(long, env = "SAMPAN_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Seconds after which a silent node is not ready.
    #[arg(long, env = "SAMPAN_NODE_MONITOR_GRACE_PERIOD", default_value_t = 40)]
    node_monitor_grace_period: u64,
    /// Run no workloads on this machine.
    #[arg(long, env = "SAMPAN_DISABLE_AGENT")]
    disable_agent: bool,
    #[command(flatten)]
    agent: super::node::Flags,
    /// Log more.
    #[arg(long, env = "SAMPAN_DEBUG")]
    debug: bool,
}

fn port_range(s: &str) -> Result<(u16, u16), String> {
    let (a, b) = s.split_once('-').ok_or("must be <first>-<last>")?;
    let parse = |p: &str| p.trim().parse::<u16>().map_err(|e| format!("{p:?}: {e}"));
    let (a, b) = (parse(a)?, parse(b)?);
    if a == 0 || a > b { Err("the first port must be at least 1 and at most the last".into()) } else { Ok((a, b)) }
}

/// Runs the server until it is told to end.
pub fn run(flags: &Flags) -> Result<()> {
    let default = if flags.debug { "debug,h2=info,hyper=info,rustls=info,sled=info" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SAMPAN_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("a second TLS provider is installed; this is an error in the build");
    }
    check(flags)?;
    // Two workers: edge boxes are small, and what blocks runs elsewhere.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(4)))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(flags))
}

fn check(flags: &Flags) -> Result<()> {
    let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    if overlap(&flags.cluster_cidr, &flags.service_cidr) {
        bail!("--cluster-cidr {} and --service-cidr {} overlap", flags.cluster_cidr, flags.service_cidr);
    }
    let prefix = flags.cluster_cidr.prefix_len();
    if flags.node_cidr_mask_size <= prefix || flags.node_cidr_mask_size > flags.cluster_cidr.max_prefix_len() {
        bail!(
            "--node-cidr-mask-size {} must be longer than the prefix of --cluster-cidr {}",
            flags.node_cidr_mask_size,
            flags.cluster_cidr
        );
    }
    Ok(())
}

/// The address that packets to elsewhere would leave from. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|a| !a.is_unspecified())
}

fn certificate_names(flags: &Flags, advertise: IpAddr, service: IpAddr) -> Vec<String> {
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .to_vec();
    names.push(format!("kubernetes.default.svc.{}", flags.cluster_domain));
    names.extend([advertise.to_string(), service.to_string()]);
    if !flags.bind_address.is_unspecified() {
        names.push(flags.bind_address.to_string());
    }
    names.extend(nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()));
    names.extend(flags.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    names
}

async fn serve(flags: &Flags) -> Result<()> {
    let started = Instant::now();
    let data = flags.data_dir.join("server");
    let fresh = !data.exists();
    if fresh {
        eprintln!("Setting up a new cluster in {} …", flags.data_dir.display());
    }
    std::fs::create_dir_all(&data)
        .with_context(|| format!("cannot create {}; choose another place with --data-dir", data.display()))?;
    // The port first: a second server must not touch anything.
    let address = SocketAddr::new(flags.bind_address, flags.https_listen_port);
    let listener = server::serving::bind(address).with_context(|| {
        format!("cannot listen on {address}; is another server running? Choose another port with --https-listen-port")
    })?;
    let port = listener.local_addr().context("cannot read the address that is listened on")?.port();
    let durable = DurableStore::open(store::Options::new(data.join("db"))).context("cannot open the store")?;
    let store: Arc<dyn Store> = Arc::new(durable);

    let advertise = flags.advertise_address.or_else(own_address).unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let names = certificate_names(flags, advertise, super::node::nth(&flags.service_cidr, 1));
    let pki = Arc::new(Pki::load_or_create(&data.join("tls"), &names)?);
    let config = server::Config {
        advertise_address: advertise,
        port,
        issuer: format!("https://kubernetes.default.svc.{}", flags.cluster_domain),
        service_cidr: flags.service_cidr,
        cluster_domain: flags.cluster_domain.clone(),
        node_ports: flags.service_node_port_range,
    };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let api = server::Server::start(config, store.clone(), pki.clone(), &tasks, &cancel).await?;
    server::bootstrap::run(&api).await?;
    tasks.spawn(server::serving::serve(api.clone(), listener, pki.server_config()?, cancel.clone()));
    let local = if flags.bind_address.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { flags.bind_address };
    let url = format!("https://{}", SocketAddr::new(local, port));
    write_kubeconfig(flags, &url, &pki)?;
    start_controllers(flags, &api, &pki, &tasks, &cancel);
    if !flags.disable_agent {
        let cluster = super::node::Cluster {
            cluster_cidr: flags.cluster_cidr,
            service_cidr: flags.service_cidr,
            domain: flags.cluster_domain.clone(),
        };
        let node = super::node::Node::new(&flags.agent, &flags.data_dir, &cluster, advertise)?;
        let own = User::authenticated(&format!("system:node:{}", node.name()), &["system:nodes"]);
        let names = [node.name().to_owned(), node.ip().to_string()];
        let leaf = pki.server_ca.issue(&format!("system:node:{}", node.name()), None, Usage::Server, &names)?;
        let tls = server::pki::listener_config(&pki.client_ca, server::pki::Current::new(leaf.certified()?))?;
        node.start(api.client(own), tls, server::pki::KUBELET_CLIENT, &tasks, &cancel);
    }
    tasks.spawn(renewal(flags.write_kubeconfig.clone(), url.clone(), pki.clone(), cancel.clone()));
    tracing::info!(url, advertise = %advertise, milliseconds = started.elapsed().as_millis() as u64, "the API is ready");
    if fresh {
        eprintln!("Ready. Try:\n\n    kubectl --kubeconfig {} get nodes\n", flags.write_kubeconfig.display());
    }
    end_of_process(&cancel).await?;
    tracing::info!("shutting down");
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(SHUTDOWN, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    store.close().await.context("the store could not be closed")?;
    Ok(())
}

fn write_kubeconfig(flags: &Flags, url: &str, pki: &Pki) -> Result<()> {
    let leaf = pki.client_ca.issue("system:admin", Some("system:masters"), Usage::Client, &[])?;
    kubeconfig::write(&flags.write_kubeconfig, url, &pki.server_ca, "default", &leaf)
}

/// Renews the server's own leaves and the administrator's at two thirds of their lives.
async fn renewal(path: PathBuf, url: String, pki: Arc<Pki>, cancel: CancellationToken) {
    let mut wait = Pki::renew_after();
    loop {
        if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        let renew = || -> Result<()> {
            pki.renew()?;
            let leaf = pki.client_ca.issue("system:admin", Some("system:masters"), Usage::Client, &[])?;
            kubeconfig::write(&path, &url, &pki.server_ca, "default", &leaf)
        };
        wait = match renew() {
            Ok(()) => Pki::renew_after(),
            Err(e) => {
                tracing::error!(error = format!("{e:#}"), "certificates could not be renewed; trying again in an hour");
                Duration::from_secs(3600).min(LEAF_LIFETIME / 10)
            }
        };
    }
}

fn start_controllers(
    flags: &Flags,
    api: &Arc<server::Server>,
    pki: &Pki,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let manager = api.client(User::authenticated("system:kube-controller-manager", &["system:masters"]));
    let informers = Informers::new(manager, tasks.clone(), cancel.clone());
    let own = api.clone();
    let context = controllers::Context {
        informers: informers.clone(),
        client_for: Arc::new(move |name| {
            let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
            own.client(User::authenticated(&controllers::runtime::account(name), &groups))
        }),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
        config: Arc::new(controllers::Config {
            cluster_cidr: flags.cluster_cidr,
            node_cidr_mask: flags.node_cidr_mask_size,
            root_ca_pem: pki.server_ca.certificate_pem.clone(),
            node_monitor_grace: Duration::from_secs(flags.node_monitor_grace_period),
        }),
    };
    controllers::start(&context);
    let scheduler = api.client(User::authenticated("system:kube-scheduler", &[]));
    scheduler::start(scheduler, &informers, tasks, cancel);
}

/// Returns when somebody asks the process to end, or an essential task has.
async fn end_of_process(cancel: &CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        r = tokio::signal::ctrl_c() => r.context("cannot listen for SIGINT"),
        () = cancel.cancelled() => bail!("an essential part of the server has failed; see the log"),
    }
}
