//! Deletes Jobs some time after they finished, where they ask for it
//! (upstream: `pkg/controller/ttlafterfinished`).

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::batch::v1::Job;
use api::meta::apis::meta::v1::Time;
use async_trait::async_trait;
use client::{Client, Informer};
use jiff::Timestamp;
use serde_json::json;

use crate::pod_control::{self as pods, name, namespace, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "ttl-after-finished-controller";

struct TtlAfterFinished {
    client: Client,
    jobs: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let jobs = context.informers.of::<Job>();
    let queue = Queue::default();
    {
        let queue = queue.clone();
        jobs.on_change(move |c| {
            if c.new.as_ref().is_some_and(|o| o.typed::<Job>().is_ok_and(|j| expiry(&j).is_some())) {
                queue.add(c.object().key().to_owned());
            }
        });
    }
    let caches = vec![jobs.clone()];
    runtime::run(context, Arc::new(TtlAfterFinished { client, jobs }), queue, caches, 1);
}

/// The second at which a job is to go; `None` for one that still runs, goes already, or stays.
fn expiry(job: &Job) -> Option<i64> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let finished = |c: &&api::k8s::batch::v1::JobCondition| {
        matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True"
    };
    let Time(at) = conditions.iter().find(finished)?.last_transition_time.as_ref()?;
    Some(at.as_second() + i64::from(ttl))
}

/// How long a job has left to stay; `Some(0)` when it is to go now.
fn left(job: &Job, now: Timestamp) -> Option<u64> {
    expiry(job).map(|at| (at - now.as_second()).max(0) as u64)
}

#[async_trait]
impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "ttl_jobs_to_delete"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(job) = self.jobs.get::<Job>(key) else { return Ok(Action::Done) };
        match left(&job, Timestamp::now()) {
            None => return Ok(Action::Done),
            Some(0) => {}
            Some(seconds) => return Ok(Action::After(Duration::from_secs(seconds))),
        }
        // The time to live may have been raised since: only the API knows.
        let Some(job) = self.client.get_opt::<Job>(namespace(&*job), name(&*job)).await? else {
            return Ok(Action::Done);
        };
        if left(&job, Timestamp::now()) != Some(0) {
            return Ok(Action::Done);
        }
        let options = json!({"propagationPolicy": "Foreground", "preconditions": {"uid": uid(&*job)}});
        pods::ignore_absent(self.client.delete_with::<Job>(namespace(&*job), name(&*job), &options).await)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_when_its_time_after_the_end_is_over() {
        let job = |ttl: serde_json::Value, condition: &str| -> Job {
            let c = json!({"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json!({
                "metadata": {}, "spec": {"ttlSecondsAfterFinished": ttl, "template": {}}, "status": {"conditions": [c]}
            }))
            .unwrap()
        };
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        assert_eq!(left(&job(30.into(), "Complete"), now), Some(10));
        assert_eq!(left(&job(0.into(), "Failed"), now), Some(0));
        assert_eq!(left(&job(0.into(), "Suspended"), now), None);
        assert_eq!(left(&job(serde_json::Value::Null, "Complete"), now), None);
    }
}
