//! Takes the condition `DisruptionTarget` back from pods that were not disrupted after all
//! (upstream: the second queue of `pkg/controller/disruption`).

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::core::v1::Pod;
use api::meta::apis::meta::v1::Time;
use async_trait::async_trait;
use client::api::PatchKind;
use client::{Client, Informer};
use jiff::Timestamp;
use serde_json::json;

use crate::disruption::NAME;
use crate::pod_control::{self as pods, name, namespace, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

const TARGET: &str = "DisruptionTarget";
/// How long a disruption may take to begin.
const TIMEOUT: Duration = Duration::from_secs(120);

struct StaleDisruption {
    client: Client,
    pods: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let pods = context.informers.of::<Pod>();
    let queue = Queue::default();
    {
        let queue = queue.clone();
        pods.on_change(move |c| {
            if c.new.as_ref().is_some_and(|o| o.typed::<Pod>().is_ok_and(|p| marked(&p).is_some())) {
                queue.add(c.object().key().to_owned());
            }
        });
    }
    let caches = vec![pods.clone()];
    runtime::run(context, Arc::new(StaleDisruption { client, pods }), queue, caches, 1);
}

/// Since when a pod that lives on is marked.
fn marked(pod: &Pod) -> Option<Timestamp> {
    if pod.metadata.deletion_timestamp.is_some() || matches!(pods::phase(pod), "Succeeded" | "Failed") {
        return None;
    }
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let found = conditions.iter().find(|c| c.type_ == TARGET && c.status == "True")?;
    found.last_transition_time.as_ref().map(|Time(t)| *t)
}

#[async_trait]
impl Controller for StaleDisruption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "stale_pod_disruption"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(pod) = self.pods.get::<Pod>(key) else { return Ok(Action::Done) };
        let Some(since) = marked(&pod) else { return Ok(Action::Done) };
        let now = Timestamp::now();
        let left = since.as_second() + TIMEOUT.as_secs() as i64 - now.as_second();
        if left > 0 {
            return Ok(Action::After(Duration::from_secs(left as u64)));
        }
        let condition = json!({
            "type": TARGET, "status": "False", "reason": null, "message": null, "lastTransitionTime": Time(now),
        });
        let patch = json!({"metadata": {"uid": uid(&*pod)}, "status": {"conditions": [condition]}});
        let written =
            self.client.patch::<Pod>(namespace(&*pod), name(&*pod), "status", PatchKind::Strategic, &patch).await;
        pods::ignore_absent(written)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_live_on_are_looked_at() {
        let pod = |phase: &str| -> Pod {
            let condition = json!({"type": TARGET, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase, "conditions": [condition]}}))
                .unwrap()
        };
        assert!(marked(&pod("Running")).is_some());
        assert!(marked(&pod("Failed")).is_none());
    }
}
