//! The agent: the kubelet, and the container runtime under it.
//!
//! * [`config`] – what it is told, and where it keeps its files.
//! * [`containerd`] – the runtime as a supervised child.
//! * [`host_ports`] – which ports of the node lead to pods; [`network`] – feeds the node's network.
//! * [`identity`] – joining, and the certificates of the node.
//! * [`images`] – images that come from no registry.
//! * [`kubelet`] – pods.
//! * [`server`] – the kubelet's HTTPS server.
//!
//! ```text
//! API watch ┐                           ┌─► CRI ─► containerd
//! manifests ┴► pods ─► worker per pod ──┤
//!              events of containerd ─►  └─► statuses ─► API
//! ```
//!
//! Ending the agent ends none of the pods; the next agent finds them by their labels.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod containerd;
pub mod host_ports;
pub mod identity;
pub mod images;
pub mod kubelet;
pub mod network;
pub mod server;
#[cfg(test)]
mod testing;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use api::k8s::core::v1::{Node, Pod, Service};
use client::{EventRecorder, Gvr, Informers, ListParams};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Config, NetworkState, Paths};
use kubelet::cri::grpc::Grpc;
use kubelet::cri::{ErrorKind, Runtime};
use kubelet::pods::Pods;
use kubelet::{Shared, node};

/// How long containerd may take from answering at all to answering CRI calls.
const CRI_START: Duration = Duration::from_secs(60);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be made.
    #[error("cannot prepare the data directory")]
    Folders(#[source] std::io::Error),
    /// There is no container runtime.
    #[error("no container runtime")]
    Containerd(#[from] containerd::Error),
    /// The runtime does not speak CRI.
    #[error("the container runtime is not usable: {0}")]
    Runtime(kubelet::cri::Error),
    /// The sandbox image cannot be made.
    #[error("no sandbox image")]
    Images(#[from] images::Error),
    /// The cgroup tree cannot be made.
    #[error("cannot make the pods' cgroups")]
    Cgroups(#[source] std::io::Error),
    /// The HTTPS server cannot listen.
    #[error("cannot listen on {0}")]
    Listen(std::net::SocketAddr, #[source] std::io::Error),
}

/// Runs the agent until `cancel`; then ends all its tasks and leaves the pods running.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, cancel: CancellationToken) -> Result<(), Error> {
    let tasks = TaskTracker::new();
    // Whatever ends this function ends the tasks.
    let guard = cancel.child_token();
    let _drop = guard.clone().drop_guard();
    let outcome = start(config, &tasks, &guard).await;
    if outcome.is_ok() {
        cancel.cancelled().await;
    }
    guard.cancel();
    tasks.close();
    tasks.wait().await;
    outcome
}

async fn start(config: Config, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<(), Error> {
    let paths = config.paths();
    paths.create().map_err(Error::Folders)?;
    let own_runtime = config.container_runtime_endpoint.is_none();
    let (channel, _) = containerd::start(&config, tasks, cancel.clone()).await?;
    let runtime: Arc<dyn Runtime> = Arc::new(Grpc::new(channel.clone()));
    wait_for_cri(&*runtime).await?;
    if own_runtime {
        images::store::put(&channel, &images::pause::image()?).await?;
    }
    let (done, imported) = tokio::sync::watch::channel(false);
    match client::dirwatch::DirWatch::new(&paths.images()) {
        // Watched before they are read, so that none is missed in between.
        Ok(watch) => {
            let dir = paths.images();
            let channel = channel.clone();
            spawn_on(
                tasks,
                cancel,
                Box::pin(async move {
                    images::import::import_all(&channel, &dir).await;
                    let _ = done.send(true);
                    images::import::follow(channel, dir, watch).await;
                }),
            );
        }
        Err(e) => tracing::error!(error = %e, "the images folder is not watched"),
    }
    assemble(config, paths, runtime, imported, tasks, cancel).await
}

/// The kubelet over any runtime.
async fn assemble(
    config: Config,
    paths: Paths,
    runtime: Arc<dyn Runtime>,
    imported: tokio::sync::watch::Receiver<bool>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let spawn = |future: futures::future::BoxFuture<'static, ()>| spawn_on(tasks, cancel, future);
    let cgroups = kubelet::cgroup::Cgroups::detect(&config.cgroup_parent);
    cgroups.prepare().map_err(Error::Cgroups)?;

    let client = config.client.clone();
    let informers = Informers::new(client.clone(), tasks.clone(), cancel.clone());
    let own_pods = informers.select(Gvr::of::<Pod>(), ListParams::field("spec.nodeName", &config.node_name));
    let own_node = informers.select(Gvr::of::<Node>(), ListParams::field("metadata.name", &config.node_name));
    let recorder = EventRecorder::new(client.clone(), "kubelet", &config.node_name, tasks, cancel.clone());
    let pods_cell: Arc<OnceLock<Weak<Pods>>> = Arc::default();
    let for_objects = pods_cell.clone();
    let on_object = Arc::new(move |uid: &str| {
        if let Some(pods) = for_objects.get().and_then(Weak::upgrade) {
            pods.volumes_changed(uid);
        }
    });
    let shared = Arc::new(Shared {
        objects: kubelet::objects::Objects::new(informers.clone(), on_object),
        images: kubelet::images::Images::new(
            runtime.clone(),
            recorder.clone(),
            kubelet::pulled::Pulled::open(paths.pulled_images()),
            imported,
        ),
        volumes: kubelet::volumes::Volumes::new(paths.clone(), client.clone()),
        statuses: kubelet::statuses::Statuses::new(client.clone()),
        services: informers.select(Gvr::of::<Service>(), ListParams::all()),
        owners: kubelet::Owners::default(),
        machine: node::Machine::detect(&paths),
        cgroups,
        runtime,
        client,
        recorder,
        paths,
        tasks: tasks.clone(),
        cancel: cancel.clone(),
        config,
    });
    let pods = Pods::new(shared.clone(), own_pods, own_node.clone());
    // Set once, here.
    let _ = pods_cell.set(Arc::downgrade(&pods));
    let keeper = node::NodeKeeper::new(shared.clone(), own_node);
    keeper.write_cni_config();
    if let Some(tls) = shared.config.serving_tls.clone() {
        let bind = shared.config.kubelet_bind;
        let listener = tokio::net::TcpListener::bind(bind).await.map_err(|e| Error::Listen(bind, e))?;
        let server = server::Server::new(shared.clone(), pods.clone());
        spawn(Box::pin(server.run(listener, tls)));
    }
    spawn(Box::pin(keeper.clone().run()));
    spawn(Box::pin(keeper.run_lease()));
    for _ in 0..4 {
        spawn(Box::pin(shared.statuses.clone().run()));
    }
    spawn(Box::pin(pods.clone().run_manifests()));
    spawn(Box::pin(pods.clone().run_mirrors()));
    spawn(Box::pin(pods.clone().run_log_rotation()));
    spawn(Box::pin(kubelet::pleg::run(shared, pods.clone())));
    spawn(Box::pin(pods.run()));
    Ok(())
}

fn spawn_on(tasks: &TaskTracker, cancel: &CancellationToken, future: futures::future::BoxFuture<'static, ()>) {
    let cancel = cancel.clone();
    tasks.spawn(async move {
        let _ = cancel.run_until_cancelled(future).await;
    });
}

/// containerd's socket answers before its CRI part does, and there is no event for that.
async fn wait_for_cri(runtime: &dyn Runtime) -> Result<(), Error> {
    let begun = std::time::Instant::now();
    loop {
        match runtime.status().await {
            Ok(_) => return Ok(()),
            Err(e) if e.kind == ErrorKind::Unavailable && begun.elapsed() < CRI_START => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => return Err(Error::Runtime(e)),
        }
    }
}
