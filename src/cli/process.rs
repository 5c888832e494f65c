//! What `sampan server` and `sampan agent` do as processes: logs, runtime, signals, shutdown.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Sets up logs and cryptography, and starts the runtime.
pub fn start(debug: bool) -> Result<tokio::runtime::Runtime> {
    // The DNS library writes a line for every query.
    let default = if debug { "debug,h2=info,hyper=info,rustls=info,sled=info" } else { "info,hickory_server=warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SAMPAN_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("a second TLS provider is installed; this is an error in the build");
    }
    // Few workers: edge boxes are small, and what blocks runs elsewhere.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(4)))
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Returns when somebody asks the process to end, or an essential task has.
pub async fn ended(cancel: &CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        r = tokio::signal::ctrl_c() => r.context("cannot listen for SIGINT"),
        () = cancel.cancelled() => bail!("an essential part has failed; see the log"),
    }
}

/// Ends all tasks and waits for them.
pub async fn shut_down(tasks: &TaskTracker, cancel: &CancellationToken) {
    tracing::info!("shutting down");
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(SHUTDOWN, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
}

/// The address of this machine that packets to `peer` leave from (nothing is sent); without a
/// route there, its first address that is neither the loopback's nor a pod's.
pub fn own_address(peer: Option<SocketAddr>, pods: Option<&IpNet>) -> Option<IpAddr> {
    let towards = |peer: SocketAddr| -> std::io::Result<IpAddr> {
        let any = if peer.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip())
    };
    // An address that belongs to nobody (RFC 5737): the default route decides.
    let peer = peer.unwrap_or_else(|| SocketAddr::from(([192, 0, 2, 1], 9)));
    if let Some(a) = towards(peer).ok().filter(|a| !a.is_unspecified()) {
        return Some(a);
    }
    let all = nix::ifaddrs::getifaddrs().ok()?;
    all.filter_map(|i| Some(IpAddr::V4(i.address?.as_sockaddr_in()?.ip())))
        .find(|a| !a.is_loopback() && pods.is_none_or(|p| !p.contains(a)))
}
