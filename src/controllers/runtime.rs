//! What every controller runs on: queue, workers, back-off, clock, shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use client::informer::Change;
use client::workqueue::Queues;
use client::{Client, EventRecorder, Informer, Informers, Kind, Liveness, WorkQueue};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::signer::CertificateSigner;

/// Settings of the cluster that controllers need.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range that nodes get their pod ranges from.
    pub cluster_cidr: IpNet,
    /// Prefix length of a node's range.
    pub node_cidr_mask: u8,
    /// The CA that pods trust the API server by, PEM.
    pub root_ca_pem: String,
    /// What aggregated API servers need to know of this one, as the data of a config map.
    pub cluster_authentication: BTreeMap<String, String>,
    /// How long a node may be silent before it is not ready.
    pub node_monitor_grace: Duration,
    /// Signs approved certificate signing requests.
    pub certificate_signer: Arc<dyn CertificateSigner>,
}

/// What a controller is made from. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Shared caches, read with the controller manager's identity.
    pub informers: Informers,
    /// Makes a client with the identity `system:serviceaccount:kube-system:<name>`.
    pub client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// Owns all tasks.
    pub tasks: TaskTracker,
    /// Ends all tasks.
    pub cancel: CancellationToken,
    /// Whether all of them go on.
    pub liveness: Liveness,
    /// Their queues, for those who show the numbers.
    pub queues: Queues,
    /// Settings.
    pub config: Arc<Config>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// A recorder for a controller's events.
    pub fn recorder(&self, client: &Client, component: &str) -> EventRecorder {
        EventRecorder::new(client.clone(), component, "", &self.tasks, self.cancel.clone())
    }
}

/// What is to happen with a key after it was reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until the next change.
    Done,
    /// Look again after this time, unless a change comes first.
    After(Duration),
}

/// The queue of a controller.
pub type Queue = Arc<WorkQueue<String>>;

/// A controller of one kind of key.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Its name in logs.
    fn name(&self) -> &'static str;

    /// The name of its queue in metrics, which is upstream's where upstream has that queue.
    fn queue(&self) -> &'static str {
        self.name()
    }

    /// Brings the world closer to what the object of `key` wants. Called again with back-off
    /// after an error; a conflict is no news and only tried again.
    async fn reconcile(&self, key: &str) -> Result<Action, Status>;
}

/// Runs a controller: waits for its caches, then works the queue off with `workers` tasks.
pub fn run(context: &Context, controller: Arc<dyn Controller>, queue: Queue, caches: Vec<Informer>, workers: usize) {
    let (cancel, name) = (context.cancel.clone(), controller.name());
    context.queues.add(controller.queue(), &queue);
    {
        let (queue, cancel) = (queue.clone(), cancel.clone());
        context.tasks.spawn(async move {
            cancel.cancelled().await;
            queue.close();
        });
    }
    for _ in 0..workers {
        let (controller, queue, caches) = (controller.clone(), queue.clone(), caches.clone());
        let work = async move {
            for c in &caches {
                c.synced().await;
            }
            while let Some(key) = queue.get().await {
                match controller.reconcile(&key).await {
                    Ok(action) => {
                        queue.forget(&key);
                        if let Action::After(d) = action {
                            queue.add_after(key.clone(), d);
                        }
                    }
                    Err(s) => {
                        // The cache was behind: not worth a line in the log.
                        if !s.is_conflict() && !s.is_already_exists() {
                            tracing::warn!(controller = controller.name(), key, error = %s, "reconcile failed; trying again");
                        }
                        queue.add_rate_limited(key.clone());
                    }
                }
                queue.done(&key);
            }
        };
        context.tasks.spawn(context.liveness.keep(name, &cancel, work));
    }
}

/// Queues the key of every changed object.
pub fn enqueue_own(informer: &Informer, queue: &Queue) {
    let queue = queue.clone();
    informer.on_change(move |c: &Change| queue.add(c.object().key().to_owned()));
}

/// Queues the key of the controlling owner of every changed object, now and before.
pub fn enqueue_controller<Owner: Kind>(informer: &Informer, queue: &Queue) {
    let queue = queue.clone();
    informer.on_change(move |c: &Change| {
        for o in [&c.old, &c.new].into_iter().flatten() {
            let m = o.meta();
            for r in m.owner_references.iter().filter(|r| r.controller && r.kind == Owner::KIND) {
                queue.add(api::key_of(m.namespace, &r.name));
            }
        }
    });
}

/// Index: the UID of the controlling owner; `""` + namespace for orphans, as `orphan/<namespace>`.
pub const BY_CONTROLLER: &str = "controller";

/// Adds the index [`BY_CONTROLLER`].
pub fn index_by_controller(informer: &Informer) {
    informer.add_index(BY_CONTROLLER, |o| {
        let m = o.meta();
        match m.owner_references.iter().find(|r| r.controller) {
            Some(r) => vec![r.uid.clone()],
            None => vec![format!("orphan/{}", m.namespace)],
        }
    });
}

/// `system:serviceaccount:kube-system:<name>`.
pub fn account(name: &str) -> String {
    format!("system:serviceaccount:kube-system:{name}")
}
