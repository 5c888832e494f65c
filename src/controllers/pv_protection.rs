//! PV protection: a volume that is deleted stays while a claim is bound to it
//! (upstream: `pkg/controller/volume/pvprotection`).
//!
//! Invariant: the finalizer goes only from a volume that is being deleted and not bound.

use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::PersistentVolume;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::pvc_protection::{awaits, has, switch};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "pv-protection-controller";
const FINALIZER: &str = "kubernetes.io/pv-protection";

struct PvProtection {
    client: Client,
    volumes: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = Queue::default();
    runtime::enqueue_own(&volumes, &queue);
    let controller = PvProtection { client: (context.client_for)(NAME), volumes: volumes.clone() };
    runtime::run(context, Arc::new(controller), queue, vec![volumes], 1);
}

#[async_trait]
impl Controller for PvProtection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "pvprotection"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(volume) = self.volumes.get::<PersistentVolume>(key) else { return Ok(Action::Done) };
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let free = awaits(&volume.metadata, FINALIZER) && !bound;
        let missing = volume.metadata.deletion_timestamp.is_none() && !has(&volume.metadata, FINALIZER);
        if !free && !missing {
            return Ok(Action::Done);
        }
        let mut volume = (*volume).clone();
        switch(&mut volume.metadata, FINALIZER);
        match self.client.update(&volume).await {
            Err(s) if !s.is_not_found() => Err(s),
            _ => Ok(Action::Done),
        }
    }
}
