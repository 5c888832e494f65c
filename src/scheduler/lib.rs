//! The scheduler: gives every pending pod a node (upstream: `pkg/scheduler`).
//!
//! * [`queue`] – active, back-off, unschedulable, gated.   * [`cache`] – nodes with what their pods use.
//! * [`framework`] – the plugin interface and one scheduling cycle.   * [`plugins`] – the table of plugins.
//!
//! One task decides, one pod after the other, on the cache; binding runs beside it. A pod that was
//! given a node counts there at once (it is *assumed*) until the API confirms it or the binding fails.
//!
//! Not here yet: preemption, pod affinity, topology spread, volume binding, extenders. A pod that
//! asks for pod (anti-)affinity or a spread that must hold stays pending with a message that says so.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cache;
pub mod framework;
pub mod plugins;
pub mod queue;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use api::k8s::core::v1::{Binding, Node, ObjectReference, Pod};
use api::meta::apis::meta::v1::{ObjectMeta, Time};
use client::events::{SeriesRecorder, reference};
use client::{Client, Informers, Liveness, PatchKind};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::framework::{Decision, Framework};
use crate::queue::{Key, Queue};

/// The name that pods ask for by default.
pub const NAME: &str = "default-scheduler";
/// Bindings that may be under way at once.
const BINDINGS: usize = 64;

struct Scheduler {
    client: Client,
    recorder: SeriesRecorder,
    cache: Arc<Mutex<Cache>>,
    queue: Arc<Queue>,
    framework: Framework,
    bindings: Arc<Semaphore>,
    tasks: TaskTracker,
}

fn key(pod: &Pod) -> Key {
    let m = &pod.metadata;
    api::key_of(m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default())
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
    name.is_none_or(|n| n == NAME) && pod.metadata.deletion_timestamp.is_none()
}

fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    // Plain counters: a panic elsewhere cannot leave them half-changed.
    cache.lock().unwrap_or_else(|e| e.into_inner())
}

/// Starts the scheduler; it ends with the token.
pub fn start(
    client: Client,
    informers: &Informers,
    liveness: &Liveness,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let cache = Arc::new(Mutex::new(Cache::default()));
    let queue = Arc::new(Queue::default());
    let (nodes, pods) = (informers.of::<Node>(), informers.of::<Pod>());
    {
        let (cache, queue) = (cache.clone(), queue.clone());
        nodes.on_change(move |c| {
            let node = c.new.as_ref().and_then(|o| o.typed::<Node>().ok());
            let helps = lock(&cache).set_node(c.object().meta().name, node);
            if helps {
                queue.wake_unschedulable();
            }
        });
    }
    {
        let (cache, queue) = (cache.clone(), queue.clone());
        pods.on_change(move |c| {
            let new = c.new.as_ref().and_then(|o| o.typed::<Pod>().ok());
            let key = c.object().key().to_owned();
            let occupies = new.as_ref().filter(|p| !node_of(p).is_empty() && !finished(p));
            let freed = lock(&cache).set_pod(&key, occupies.cloned());
            match &new {
                Some(p) if node_of(p).is_empty() && is_ours(p) && !finished(p) => queue.add(key, p),
                _ => queue.remove(&key),
            }
            // Somebody left: there may be room now.
            if freed {
                queue.wake_unschedulable();
            }
        });
    }
    let scheduler = Arc::new(Scheduler {
        recorder: SeriesRecorder::new(client.clone(), NAME, tasks, cancel.clone()),
        client,
        cache,
        queue,
        framework: Framework::new(plugins::all()),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        tasks: tasks.clone(),
    });
    let run = async move {
        nodes.synced().await;
        pods.synced().await;
        loop {
            let key = scheduler.queue.next().await;
            if let Some(pod) = pods.get::<Pod>(&key) {
                scheduler.clone().schedule(key, pod).await;
            }
        }
    };
    tasks.spawn(liveness.keep("scheduling", cancel, run));
}

impl Scheduler {
    async fn schedule(self: Arc<Self>, key: Key, pod: Arc<Pod>) {
        if !node_of(&pod).is_empty() || !is_ours(&pod) {
            return;
        }
        if let Some(message) = queue::gates(&pod) {
            self.queue.park(key, &pod);
            self.condition(&pod, "SchedulingGated", &message).await;
            return;
        }
        let decision = {
            let mut cache = lock(&self.cache);
            let decision = self.framework.decide(&pod, &cache);
            if let Decision::Node(node) = &decision {
                cache.assume(&key, node, pod.clone());
            }
            decision
        };
        match decision {
            Decision::Node(node) => {
                // The semaphore is never closed.
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                let this = self.clone();
                self.tasks.spawn(async move {
                    this.bind(key, pod, node).await;
                    drop(permit);
                });
            }
            Decision::None(message) => {
                self.queue.park(key, &pod);
                self.recorder.warning(reference(&*pod), "FailedScheduling", "Scheduling", &message);
                self.condition(&pod, "Unschedulable", &message).await;
            }
        }
    }

    async fn bind(&self, key: Key, pod: Arc<Pod>, node: String) {
        let m = &pod.metadata;
        let (namespace, name) = (m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default());
        let binding = Binding {
            metadata: ObjectMeta {
                name: m.name.clone(),
                namespace: m.namespace.clone(),
                uid: m.uid.clone(),
                ..Default::default()
            },
            target: ObjectReference { kind: Some("Node".into()), name: Some(node.clone()), ..Default::default() },
        };
        match self.client.post::<Pod>(&namespace, &name, "binding", &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.normal(reference(&*pod), "Scheduled", "Binding", &message);
            }
            Err(s) => {
                lock(&self.cache).forget(&key);
                if s.is_not_found() || s.is_conflict() {
                    // It is gone or bound by another: the watch tells the rest.
                    return;
                }
                tracing::warn!(pod = key, node, error = %s, "binding failed; trying again");
                let message = format!("binding rejected: {s}");
                self.recorder.warning(reference(&*pod), "FailedScheduling", "Scheduling", &message);
                self.queue.back_off(key, &pod);
            }
        }
    }

    /// Writes why a pod is not scheduled, when that is news.
    async fn condition(&self, pod: &Pod, reason: &str, message: &str) {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let same = conditions.into_iter().any(|c| {
            c.type_ == "PodScheduled"
                && c.status == "False"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
        });
        if same {
            return;
        }
        let m = &pod.metadata;
        let patch = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason,
            "message": message, "lastProbeTime": null, "lastTransitionTime": Time(Timestamp::now())}]}});
        let (ns, name) = (m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default());
        let result: Result<Arc<Pod>, Status> =
            self.client.patch::<Pod>(ns, name, "status", PatchKind::Strategic, &patch).await;
        if let Err(s) = result
            && !s.is_not_found()
        {
            tracing::debug!(pod = key(pod), error = %s, "the reason could not be written");
        }
    }
}

/// The longest time that an unschedulable pod waits without a reason to look again.
pub const UNSCHEDULABLE_TIMEOUT: Duration = Duration::from_secs(300);
