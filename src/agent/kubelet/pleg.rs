//! Tells workers when something of their pod changed in the runtime: by the runtime's event stream,
//! and by a rare look at everything in case an event was lost. It also finds what belongs to no pod.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::cri::{Error, RuntimeEventKind};
use super::observed::POD_UID;
use super::pods::Pods;

/// How often everything is looked at.
const RELIST: Duration = Duration::from_secs(60);
/// Between attempts to get the event stream back.
const RETRY: Duration = Duration::from_secs(1);

/// States of everything of each pod: when it differs from the last one, the pod is woken.
type Snapshot = HashMap<String, BTreeSet<(String, i32)>>;

async fn snapshot(shared: &Shared) -> Result<Snapshot, Error> {
    let mut found = Snapshot::new();
    for s in shared.runtime.list_sandboxes(&[]).await? {
        if let Some(uid) = s.labels.get(POD_UID) {
            found.entry(uid.clone()).or_default().insert((s.id, s.state));
        }
    }
    for c in shared.runtime.list_containers(&[]).await? {
        if let Some(uid) = c.labels.get(POD_UID) {
            found.entry(uid.clone()).or_default().insert((c.id, c.state));
        }
    }
    Ok(found)
}

/// Runs until it is cancelled.
pub async fn run(shared: Arc<Shared>, pods: Arc<Pods>) {
    let mut last = Snapshot::new();
    let mut relist = tokio::time::interval(RELIST);
    relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut events = match shared.runtime.events().await {
            Ok(events) => events,
            Err(e) => {
                tracing::warn!(error = %e, "no events from the runtime; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        // Whatever happened while there was no stream.
        pods.wake_all();
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { break };
                    if event.kind == RuntimeEventKind::Oom {
                        tracing::info!(id = %event.id, "a process was killed for want of memory");
                    }
                    if let Some(uid) = shared.owners.of(&event.id) {
                        match event.kind {
                            RuntimeEventKind::Exited => pods.container_ended(&uid, &event.id),
                            _ => pods.wake(&uid),
                        }
                    }
                }
                _ = relist.tick() => {
                    match snapshot(&shared).await {
                        Ok(now) => {
                            for uid in now.keys().chain(last.keys()) {
                                if now.get(uid) != last.get(uid) {
                                    pods.wake(uid);
                                }
                            }
                            pods.clean_orphans(now.keys().cloned().collect()).await;
                            last = now;
                        }
                        Err(e) => tracing::warn!(error = %e, "the runtime does not list its containers"),
                    }
                }
            }
        }
        tracing::warn!("the runtime's event stream ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
