//! The kubelet: what runs here is what should run here.
//!
//! * [`pods`] – where pods come from (API, static files), and one [`worker`] for each.
//! * [`worker`] – the state machine of one pod; [`start`] and [`stop`] are its hands.
//! * [`actions`] – decides what to do next (pure); [`status`] – what to report (pure).
//! * [`observed`] – what the runtime has of a pod; [`pleg`] – tells when that changes.
//! * [`statuses`] – writes statuses to the API, and deletes what has ended.
//! * [`admission`] – whether a pod may run here at all.
//! * [`cri`] – the runtime. [`cgroup`], [`volumes`], [`logs`] – the host.
//! * [`spec`], [`env`], [`dns`], [`resources`] – from specs to settings (pure, but for lookups).
//! * [`images`], [`pulled`], [`objects`], [`probes`], [`hooks`], [`http`] – what starting and keeping takes.
//! * [`node`] – the Node object and its Lease.

pub mod actions;
pub mod admission;
pub mod cgroup;
pub mod cri;
pub mod dns;
pub mod env;
pub mod hooks;
pub mod http;
pub mod images;
pub mod logs;
pub mod node;
pub mod objects;
pub mod observed;
pub mod pleg;
pub mod pods;
pub mod probes;
pub mod pulled;
pub mod resources;
pub mod spec;
mod start;
pub mod status;
pub mod statuses;
mod stop;
pub mod volumes;
pub mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use client::{Client, EventRecorder, Informer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Paths};
use cri::Runtime;

/// What all workers share.
pub struct Shared {
    /// What the agent was told.
    pub config: Config,
    /// Where things are.
    pub paths: Paths,
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The API.
    pub client: Client,
    /// Events.
    pub recorder: EventRecorder,
    /// ConfigMaps and Secrets.
    pub objects: objects::Objects,
    /// Images.
    pub images: images::Images,
    /// Volumes.
    pub volumes: volumes::Volumes,
    /// Cgroups.
    pub cgroups: cgroup::Cgroups,
    /// Statuses on their way to the API.
    pub statuses: statuses::Statuses,
    /// All Services.
    pub services: Informer,
    /// Which pod a container or sandbox belongs to.
    pub owners: Owners,
    /// What the machine has.
    pub machine: node::Machine,
    /// Tasks end before [`crate::run`] returns.
    pub tasks: TaskTracker,
    /// Ends them.
    pub cancel: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({})", self.config.node_name)
    }
}

/// From the ids that runtime events name to pods' UIDs.
#[derive(Debug, Default)]
pub struct Owners(Mutex<HashMap<String, String>>);

impl Owners {
    /// Notes the owner of an id.
    pub fn add(&self, id: &str, uid: &str) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).insert(id.to_owned(), uid.to_owned());
    }

    /// The owner of an id.
    pub fn of(&self, id: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).get(id).cloned()
    }

    /// Forgets an id.
    pub fn remove(&self, id: &str) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(id);
    }

    /// Forgets all ids of a pod.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).retain(|_, owner| owner != uid);
    }
}
