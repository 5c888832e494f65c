//! `sampan server`: the composition root. Store, API server, controllers and scheduler as tracked
//! tasks of one process; they end together.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::tls::{self, Current};
use client::workqueue::Queues;
use client::{Informers, Liveness};
use controllers::certificates::signer::{Authority, CertificateSigner};
use ipnet::IpNet;
use server::authn::join_tokens::JoinSecrets;
use server::encryption::{self, Keyring};
use server::pki::{LEAF_LIFETIME, Pki, Usage};
use server::request::User;
use store::{DurableStore, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lock::Lock;
use super::{auth, kubeconfig, node, process};

/// Flags of `sampan server`. Names and meanings are k3s's where k3s has the flag.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Configuration file; flags by their names.
    #[arg(long, short, env = "SAMPAN_CONFIG", default_value = super::config_file::DEFAULT)]
    config: PathBuf,
    /// Where everything is kept.
    #[arg(long, short, env = "SAMPAN_DATA_DIR", default_value = "/var/lib/sampan", value_parser = super::absolute)]
    data_dir: PathBuf,
    /// Where the kubeconfig for the administrator is written.
    #[arg(long, env = "SAMPAN_WRITE_KUBECONFIG", default_value = "/etc/sampan/sampan.yaml", value_parser = super::absolute)]
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
    /// The secret that machines join this cluster with [default: one that is made at the first start].
    #[arg(long, short, env = "SAMPAN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The secret that agents alone can join with [default: the one of --token].
    #[arg(long, env = "SAMPAN_AGENT_TOKEN", hide_env_values = true)]
    agent_token: Option<String>,
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
    /// Admission plugins to run beside the default ones.
    #[arg(long, env = "SAMPAN_ENABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Default admission plugins that are not to run.
    #[arg(long, env = "SAMPAN_DISABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// An `AdmissionConfiguration`: what the admission plugins are configured with.
    #[arg(long, env = "SAMPAN_ADMISSION_CONTROL_CONFIG_FILE")]
    admission_control_config_file: Option<PathBuf>,
    /// How long events are kept after they were last seen.
    #[arg(long, env = "SAMPAN_EVENT_TTL", default_value = "1h0m0s", value_parser = lifetime)]
    event_ttl: Duration,
    /// How many requests that read are served at once; flow control divides them.
    #[arg(long, env = "SAMPAN_MAX_REQUESTS_INFLIGHT", default_value_t = 400)]
    max_requests_inflight: u32,
    /// How many requests that write are served at once, in addition.
    #[arg(long, env = "SAMPAN_MAX_MUTATING_REQUESTS_INFLIGHT", default_value_t = 200)]
    max_mutating_requests_inflight: u32,
    #[command(flatten)]
    auth: auth::Flags,
    /// Run no workloads on this machine.
    #[arg(long, env = "SAMPAN_DISABLE_AGENT")]
    disable_agent: bool,
    #[command(flatten)]
    audit: super::audit::Flags,
    #[command(flatten)]
    agent: node::Flags,
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

fn lifetime(s: &str) -> Result<Duration, String> {
    let seconds = api::time::go_duration(s).filter(|d| *d > 0.0);
    seconds
        .and_then(|d| Duration::try_from_secs_f64(d).ok())
        .ok_or_else(|| "must be a duration such as 1h0m0s, and more than none".to_owned())
}

/// Runs the server until it is told to end.
pub fn run(flags: &Flags) -> Result<()> {
    check(flags)?;
    process::start(flags.debug)?.block_on(serve(flags))
}

fn check(flags: &Flags) -> Result<()> {
    let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    if overlap(&flags.cluster_cidr, &flags.service_cidr) {
        bail!("--cluster-cidr {} and --service-cidr {} overlap", flags.cluster_cidr, flags.service_cidr);
    }
    let prefix = flags.cluster_cidr.prefix_len();
    if flags.max_requests_inflight + flags.max_mutating_requests_inflight == 0 {
        bail!("--max-requests-inflight and --max-mutating-requests-inflight are both 0: nobody would be served");
    }
    if flags.node_cidr_mask_size <= prefix || flags.node_cidr_mask_size > flags.cluster_cidr.max_prefix_len() {
        bail!(
            "--node-cidr-mask-size {} must be longer than the prefix of --cluster-cidr {}",
            flags.node_cidr_mask_size,
            flags.cluster_cidr
        );
    }
    Ok(())
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
    let admission = server::admission::Settings::new(
        &flags.enable_admission_plugins,
        &flags.disable_admission_plugins,
        flags.admission_control_config_file.as_deref(),
    )?;
    let data = flags.data_dir.join("server");
    let fresh = !data.exists();
    if fresh {
        eprintln!("Setting up a new cluster in {} …", flags.data_dir.display());
    }
    if !flags.disable_agent {
        super::check::require(flags.agent.own_runtime())
            .context("give --disable-agent to run the control plane alone")?;
    }
    let _lock = Lock::take(&flags.data_dir)?;
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    // The port first: a second server must not touch anything.
    let address = SocketAddr::new(flags.bind_address, flags.https_listen_port);
    let listener = server::serving::bind(address).with_context(|| {
        format!("cannot listen on {address}; is another server running? Choose another port with --https-listen-port")
    })?;
    let port = listener.local_addr().context("cannot read the address that is listened on")?.port();
    let durable = DurableStore::open(store::Options::new(data.join("db"))).context("cannot open the store")?;
    let store: Arc<dyn Store> = Arc::new(durable);

    let advertise = flags
        .advertise_address
        .or_else(|| process::own_address(None, Some(&flags.cluster_cidr)))
        .unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let names = certificate_names(flags, advertise, node::nth(&flags.service_cidr, 1));
    let pki = Arc::new(Pki::load_or_create(&data.join("tls"), &names)?);
    let beside = Beside::default();
    let config = server::Config {
        advertise_address: advertise,
        port,
        issuer: format!("https://kubernetes.default.svc.{}", flags.cluster_domain),
        cluster_cidr: flags.cluster_cidr,
        service_cidr: flags.service_cidr,
        cluster_domain: flags.cluster_domain.clone(),
        node_ports: flags.service_node_port_range,
        requests_inflight: (flags.max_requests_inflight, flags.max_mutating_requests_inflight),
        join_secrets: JoinSecrets::load_or_create(&data, &pki, flags.token.as_deref(), flags.agent_token.as_deref())?,
        audit: flags.audit.config(&data),
        event_ttl: flags.event_ttl,
        keyring: Arc::new(Keyring::load(&data.join("cred").join(encryption::config::FILE))?),
        components: vec![("scheduler", beside.scheduler.clone()), ("controller-manager", beside.controllers.clone())],
        queues: beside.queues.clone(),
        admission,
        authentication: flags.auth.authentication()?,
        authorization: flags.auth.authorization()?,
    };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let api = server::Server::start(config, store.clone(), pki.clone(), &tasks, &cancel).await?;
    server::bootstrap::run(&api).await?;
    tasks.spawn(server::flow_control::configuration::run(api.clone(), cancel.clone()));
    tasks.spawn(server::serving::serve(api.clone(), listener, pki.server_config()?, cancel.clone()));
    let local = if flags.bind_address.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { flags.bind_address };
    let url = format!("https://{}", SocketAddr::new(local, port));
    write_kubeconfig(flags, &url, &pki)?;
    start_controllers(flags, &api, &pki, &beside, &tasks, &cancel);
    let mut kubelet = None;
    if !flags.disable_agent {
        kubelet = Some(start_agent(flags, &api, &pki, advertise, &tasks, &cancel)?);
    }
    let renewed = Renewed { kubeconfig: flags.write_kubeconfig.clone(), url: url.clone(), pki: pki.clone(), kubelet };
    tasks.spawn(renewal(renewed, cancel.clone()));
    tracing::info!(url, advertise = %advertise, milliseconds = started.elapsed().as_millis() as u64, "the API is ready");
    if fresh {
        let config = flags.write_kubeconfig.display();
        eprintln!(
            "Ready. Try:\n\n    kubectl --kubeconfig {config} get nodes\n\nand for the line that joins another machine:\n\n    sampan token create --print-join-command --kubeconfig {config}\n"
        );
    }
    process::ended(&cancel).await?;
    process::shut_down(&tasks, &cancel).await;
    store.close().await.context("the store could not be closed")?;
    Ok(())
}

fn write_kubeconfig(flags: &Flags, url: &str, pki: &Pki) -> Result<()> {
    let leaf = pki.client_ca.issue("system:admin", Some("system:masters"), Usage::Client, &[])?;
    kubeconfig::write(&flags.write_kubeconfig, url, &pki.server_ca, "default", &leaf)
}

/// The serving certificate of this process's own kubelet.
struct KubeletLeaf {
    node: String,
    names: [String; 2],
    current: Arc<Current>,
}

impl KubeletLeaf {
    fn issue(pki: &Pki, node: &str, names: &[String]) -> Result<Arc<rustls::sign::CertifiedKey>> {
        let leaf = pki.kubelet_ca.issue(&format!("system:node:{node}"), Some("system:nodes"), Usage::Server, names)?;
        Ok(leaf.certified()?)
    }
}

/// Runs workloads on this machine; gives the kubelet's certificate, which must be renewed.
fn start_agent(
    flags: &Flags,
    api: &Arc<server::Server>,
    pki: &Pki,
    advertise: IpAddr,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<KubeletLeaf> {
    let cluster = node::Cluster {
        cluster_cidr: flags.cluster_cidr,
        service_cidr: flags.service_cidr,
        domain: flags.cluster_domain.clone(),
    };
    let machine = node::Machine::new(&flags.agent, Some(advertise))?;
    let node = node::Node::new(&flags.agent, &flags.data_dir, &cluster, machine);
    let own = User::authenticated(&format!("system:node:{}", node.name()), &["system:nodes"]);
    let names = [node.name().to_owned(), node.ip().to_string()];
    let current = Current::new(KubeletLeaf::issue(pki, node.name(), &names)?);
    let leaf = KubeletLeaf { node: node.name().to_owned(), names, current: current.clone() };
    let tls = tls::listener_config(pki.client_ca.roots()?, current)?;
    node.start(api.client(own), tls, server::pki::KUBELET_CLIENT, tasks, cancel);
    Ok(leaf)
}

/// What is renewed at two thirds of its life.
struct Renewed {
    kubeconfig: PathBuf,
    url: String,
    pki: Arc<Pki>,
    kubelet: Option<KubeletLeaf>,
}

impl Renewed {
    fn renew(&self) -> Result<()> {
        self.pki.renew()?;
        if let Some(k) = &self.kubelet {
            k.current.set(KubeletLeaf::issue(&self.pki, &k.node, &k.names)?);
        }
        let leaf = self.pki.client_ca.issue("system:admin", Some("system:masters"), Usage::Client, &[])?;
        kubeconfig::write(&self.kubeconfig, &self.url, &self.pki.server_ca, "default", &leaf)
    }
}

/// Renews the leaves that this process made for itself, until cancelled.
async fn renewal(renewed: Renewed, cancel: CancellationToken) {
    let mut wait = Pki::renew_after();
    while cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        wait = match renewed.renew() {
            Ok(()) => Pki::renew_after(),
            Err(e) => {
                tracing::error!(error = format!("{e:#}"), "certificates could not be renewed; trying again in an hour");
                Duration::from_secs(3600).min(LEAF_LIFETIME / 10)
            }
        };
    }
}

/// The server's authorities, as the controllers sign with them.
#[derive(Debug)]
struct Authorities(Arc<Pki>);

impl CertificateSigner for Authorities {
    fn sign(&self, by: Authority, request: &[u8], usages: &[String], lifetime: Duration) -> Result<String, String> {
        let authority = match by {
            Authority::Clients => &self.0.client_ca,
            Authority::Kubelets => &self.0.kubelet_ca,
        };
        authority.sign_as_requested(request, usages, lifetime).map_err(|e| e.to_string())
    }
}

/// What the API server shows of the components beside it.
#[derive(Default)]
struct Beside {
    scheduler: Liveness,
    controllers: Liveness,
    queues: Queues,
}

fn start_controllers(
    flags: &Flags,
    api: &Arc<server::Server>,
    pki: &Arc<Pki>,
    beside: &Beside,
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
        liveness: beside.controllers.clone(),
        queues: beside.queues.clone(),
        config: Arc::new(controllers::Config {
            cluster_cidr: flags.cluster_cidr,
            node_cidr_mask: flags.node_cidr_mask_size,
            root_ca_pem: pki.server_ca.certificate_pem.clone(),
            cluster_authentication: server::authn::front_proxy::told_to_extensions(pki),
            node_monitor_grace: Duration::from_secs(flags.node_monitor_grace_period),
            certificate_signer: Arc::new(Authorities(pki.clone())),
        }),
    };
    controllers::start(&context);
    let scheduler = api.client(User::authenticated("system:kube-scheduler", &[]));
    scheduler::start(scheduler, &informers, &beside.scheduler, tasks, cancel);
}
