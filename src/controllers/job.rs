//! Job: pods that run to completion (upstream: `pkg/controller/job`).
//!
//! Invariants: a finished pod is counted exactly once. Until it is, a finalizer keeps it: its UID
//! is first written to `status.uncountedTerminatedPods`, then its finalizer goes, then it moves to
//! the counters. A finished Job never runs again.
//!
//! Not here: `podFailurePolicy`, `successPolicy` and `backoffLimitPerIndex` – Jobs that ask for
//! them get the condition Failed with reason `NotSupported` instead of being run wrongly.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use api::k8s::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use api::meta::apis::meta::v1::Time;
use async_trait::async_trait;
use client::events::reference;
use client::{Client, EventRecorder, Informer, PatchKind};
use jiff::Timestamp;
use serde_json::json;

use crate::pod_control::{self as pods, is_active, is_ready, name, namespace, phase, uid};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "job-controller";
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Back-off after failed pods: doubles from the first to the second.
const BACKOFF: (u64, u64) = (10, 600);
/// Most UIDs in `uncountedTerminatedPods`, as upstream.
const MAX_UNCOUNTED: usize = 500;

struct JobController {
    client: Client,
    recorder: EventRecorder,
    jobs: Informer,
    pods: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    runtime::index_by_controller(&pods);
    let queue = Queue::default();
    runtime::enqueue_own(&jobs, &queue);
    runtime::enqueue_controller::<Job>(&pods, &queue);
    let controller =
        JobController { recorder: context.recorder(&client, NAME), client, jobs: jobs.clone(), pods: pods.clone() };
    runtime::run(context, Arc::new(controller), queue, vec![jobs, pods], 4);
}

fn finished(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// `1,3-5,7` → the set.
fn parse_indexes(s: &str) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in s.split(',').filter(|p| !p.is_empty()) {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(a), Ok(b)) = (a.parse::<i32>(), b.parse::<i32>()) {
            set.extend(a..=b);
        }
    }
    set
}

/// The set → `1,3-5,7`.
fn format_indexes(set: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &i in set {
        match runs.last_mut() {
            Some(r) if r.1 + 1 == i => r.1 = i,
            _ => runs.push((i, i)),
        }
    }
    let one = |(a, b): &(i32, i32)| match b - a {
        0 => a.to_string(),
        1 => format!("{a},{b}"),
        _ => format!("{a}-{b}"),
    };
    runs.iter().map(one).collect::<Vec<_>>().join(",")
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: (!reason.is_empty()).then(|| reason.into()),
        message: (!message.is_empty()).then(|| message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn set_condition(list: &mut Vec<JobCondition>, new: JobCondition) {
    match list.iter_mut().find(|c| c.type_ == new.type_) {
        Some(c) if c.status == new.status && c.reason == new.reason && c.message == new.message => {}
        Some(c) => *c = new,
        None => list.push(new),
    }
}

impl JobController {
    async fn write(&self, job: &Job, status: &JobStatus) -> Result<Arc<Job>, Status> {
        let mut new = job.clone();
        new.status = Some(status.clone());
        self.client.update_status(&new).await
    }

    async fn release(&self, pod: &Pod) -> Result<(), Status> {
        if !has_finalizer(pod) {
            return Ok(());
        }
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        pods::ignore_absent(
            self.client.patch::<Pod>(namespace(pod), name(pod), "", PatchKind::Strategic, &patch).await,
        )?;
        Ok(())
    }

    /// Counts pods that have ended; returns the job with its new status.
    async fn account(&self, job: Arc<Job>, members: &[Arc<Pod>], indexed: bool) -> Result<Arc<Job>, Status> {
        let mut status = job.status.clone().unwrap_or_default();
        let mut uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let mut succeeded: BTreeSet<String> = uncounted.succeeded.clone().unwrap_or_default().into_iter().collect();
        let mut failed: BTreeSet<String> = uncounted.failed.clone().unwrap_or_default().into_iter().collect();
        let mut indexes = parse_indexes(status.completed_indexes.as_deref().unwrap_or_default());
        let before = (succeeded.clone(), failed.clone(), indexes.clone());
        for p in members.iter().filter(|p| has_finalizer(p)) {
            if succeeded.len() + failed.len() >= MAX_UNCOUNTED {
                break;
            }
            let over = phase(p) == "Failed" || (p.metadata.deletion_timestamp.is_some() && phase(p) != "Succeeded");
            match index_of(p) {
                _ if over => {
                    failed.insert(uid(&**p).to_owned());
                }
                Some(i) if indexed && phase(p) == "Succeeded" => {
                    indexes.insert(i);
                }
                _ if phase(p) == "Succeeded" => {
                    succeeded.insert(uid(&**p).to_owned());
                }
                _ => {}
            }
        }
        let nothing_new = (succeeded.clone(), failed.clone(), indexes.clone()) == before;
        if succeeded.is_empty() && failed.is_empty() && nothing_new {
            // Pods of indexes that are counted may still hold their finalizer.
            for p in members.iter().filter(|p| phase(p) == "Succeeded" && indexed) {
                self.release(p).await?;
            }
            return Ok(job);
        }
        let list = |s: &BTreeSet<String>| (!s.is_empty()).then(|| s.iter().cloned().collect::<Vec<_>>());
        uncounted = UncountedTerminatedPods { succeeded: list(&succeeded), failed: list(&failed) };
        status.uncounted_terminated_pods = Some(uncounted);
        if indexed {
            status.completed_indexes = Some(format_indexes(&indexes)).filter(|s| !s.is_empty());
            status.succeeded = Some(indexes.len() as i32).filter(|n| *n > 0);
        }
        let mut current = job.clone();
        if !nothing_new {
            current = self.write(&job, &status).await?;
        }
        for p in members.iter().filter(|p| {
            succeeded.contains(uid(&***p)) || failed.contains(uid(&***p)) || (indexed && phase(p) == "Succeeded")
        }) {
            self.release(p).await?;
        }
        if !indexed {
            let n = status.succeeded.unwrap_or(0) + succeeded.len() as i32;
            status.succeeded = (n > 0).then_some(n);
        }
        let n = status.failed.unwrap_or(0) + failed.len() as i32;
        status.failed = (n > 0).then_some(n);
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
        let mut next = (*current).clone();
        next.status = current.status.clone();
        self.write(&next, &status).await
    }

    /// Ends a job: its pods go, its finalizers too.
    async fn finish(
        &self,
        job: &Job,
        members: &[Arc<Pod>],
        mut status: JobStatus,
        condition: JobCondition,
    ) -> Result<(), Status> {
        for p in members.iter().filter(|p| is_active(p)) {
            pods::ignore_absent(self.client.delete::<Pod>(namespace(&**p), name(&**p)).await)?;
            self.recorder.normal(reference(job), "SuccessfulDelete", format!("Deleted pod: {}", name(&**p)));
        }
        for p in members {
            self.release(p).await?;
        }
        let complete = condition.type_ == "Complete";
        let mut conditions = status.conditions.unwrap_or_default();
        if complete {
            status.completion_time = condition.last_transition_time.clone();
            let criteria = JobCondition { type_: "SuccessCriteriaMet".into(), ..condition.clone() };
            set_condition(&mut conditions, criteria);
        } else {
            let target = JobCondition { type_: "FailureTarget".into(), ..condition.clone() };
            set_condition(&mut conditions, target);
        }
        set_condition(&mut conditions, condition.clone());
        status.conditions = Some(conditions);
        status.active = None;
        status.ready = Some(0);
        status.terminating = Some(0);
        self.write(job, &status).await?;
        // After the write: one that a stale cache led to fails, and tells nobody.
        if complete {
            self.recorder.normal(reference(job), "Completed", "Job completed");
        } else {
            let (reason, message) = (condition.reason.unwrap_or_default(), condition.message.unwrap_or_default());
            self.recorder.warning(reference(job), &reason, message);
        }
        Ok(())
    }

    fn pod(&self, job: &Job, index: Option<i32>) -> Option<Pod> {
        let template = job.spec.as_ref().map(|s| s.template.clone())?;
        let mut owner = pods::controller_ref(job);
        owner.block_owner_deletion = Some(true);
        let base = match index {
            Some(i) => format!("{}-{i}", name(job)),
            None => name(job).to_owned(),
        };
        let mut pod = pods::pod_from_template(&template, namespace(job), &base, owner);
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
        if let Some(i) = index {
            pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), i.to_string());
            pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), i.to_string());
            let spec = pod.spec.as_mut()?;
            spec.hostname.get_or_insert_with(|| base.clone());
            let env = EnvVar {
                name: "JOB_COMPLETION_INDEX".into(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        field_path: format!("metadata.labels['{INDEX}']"),
                        api_version: None,
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            };
            for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                c.env.get_or_insert_default().push(env.clone());
            }
        }
        Some(pod)
    }

    async fn create(&self, job: &Job, list: Vec<Pod>) -> Result<usize, Status> {
        let (made, error) = pods::create_all(&self.client, list).await;
        for p in &made {
            self.recorder.normal(reference(job), "SuccessfulCreate", format!("Created pod: {}", name(&**p)));
        }
        match error {
            Some(s) => {
                self.recorder.warning(reference(job), "FailedCreate", format!("Error creating: {s}"));
                Err(s)
            }
            None => Ok(made.len()),
        }
    }
}

/// How long to wait before the next pod after failures.
fn backoff(members: &[Arc<Pod>], failures: i32, now: Timestamp) -> Option<Duration> {
    if failures == 0 {
        return None;
    }
    let ended = |p: &Pod| {
        let statuses = p.status.as_ref()?.container_statuses.as_ref()?;
        let times = statuses
            .iter()
            .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|Time(t)| t.as_second()));
        times.max()
    };
    let last = members.iter().filter(|p| phase(p) == "Failed").filter_map(|p| ended(p)).max()?;
    let wait = BACKOFF.0.saturating_mul(1 << (failures - 1).clamp(0, 16)).min(BACKOFF.1) as i64;
    let left = last + wait - now.as_second();
    (left > 0).then(|| Duration::from_secs(left as u64))
}

#[async_trait]
impl Controller for JobController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "job"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(job) = self.jobs.get::<Job>(key) else {
            // Pods whose job is gone must not be held by its finalizer.
            let (ns, job) = api::split_key(key);
            for o in self.pods.objects() {
                let m = o.meta();
                let orphan = m.namespace == ns
                    && m.owner_references.iter().any(|r| r.controller && r.kind == "Job" && r.name == job);
                if orphan && m.finalizers.iter().any(|f| f == FINALIZER) {
                    self.release(&*o.typed::<Pod>()?).await?;
                }
            }
            return Ok(Action::Done);
        };
        let spec = job.spec.clone().unwrap_or_default();
        let selector = pods::selector(&spec.selector.clone().unwrap_or_default())?;
        let members = pods::claim::<Job, Pod>(&self.client, &self.pods, &*job, &selector).await?;
        if finished(&job) || job.metadata.deletion_timestamp.is_some() {
            for p in &members {
                self.release(p).await?;
            }
            return Ok(Action::Done);
        }
        // What the cache shows must be at least as new as what was last written.
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let job = self.account(job, &members, indexed).await?;
        let now = Timestamp::now();
        let mut status = job.status.clone().unwrap_or_default();
        let before = status.clone();

        let unsupported = [
            ("podFailurePolicy", spec.pod_failure_policy.is_some()),
            ("successPolicy", spec.success_policy.is_some()),
            ("backoffLimitPerIndex", spec.backoff_limit_per_index.is_some()),
        ];
        if let Some((field, _)) = unsupported.iter().find(|(_, set)| *set) {
            let message = format!("spec.{field} is not supported by this version of sampan");
            return self
                .finish(&job, &members, status, condition("Failed", "True", "NotSupported", &message, now))
                .await
                .map(|()| Action::Done);
        }
        let suspended = spec.suspend.unwrap_or(false);
        if !suspended && status.start_time.is_none() {
            status.start_time = Some(Time(now));
        }
        let failures = status.failed.unwrap_or(0);
        let succeeded = status.succeeded.unwrap_or(0);
        let limit = spec.backoff_limit.unwrap_or(6);
        let restarts: i32 = members
            .iter()
            .filter(|p| is_active(p) && pods::spec(p).and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure"))
            .flat_map(|p| {
                p.status.iter().flat_map(|s| {
                    s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
                })
            })
            .map(|c| c.restart_count)
            .sum();
        if failures > limit || (restarts > 0 && restarts >= limit.max(1)) {
            let c =
                condition("Failed", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit", now);
            return self.finish(&job, &members, status, c).await.map(|()| Action::Done);
        }
        let mut again: Option<Duration> = None;
        if let (Some(seconds), Some(Time(start)), false) = (spec.active_deadline_seconds, &status.start_time, suspended)
        {
            let left = start.as_second() + seconds - now.as_second();
            if left <= 0 {
                let c = condition(
                    "Failed",
                    "True",
                    "DeadlineExceeded",
                    "Job was active longer than specified deadline",
                    now,
                );
                return self.finish(&job, &members, status, c).await.map(|()| Action::Done);
            }
            again = Some(Duration::from_secs(left as u64));
        }
        let active: Vec<&Arc<Pod>> = members.iter().filter(|p| is_active(p)).collect();
        let complete = match spec.completions {
            Some(n) => succeeded >= n,
            None => succeeded > 0 && active.is_empty(),
        };
        if complete {
            let c =
                condition("Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods", now);
            return self.finish(&job, &members, status, c).await.map(|()| Action::Done);
        }
        let parallelism = spec.parallelism.unwrap_or(1).max(0);
        let mut active_count = active.len() as i32;
        let mut result = Ok(0);
        if suspended {
            for p in &active {
                pods::ignore_absent(self.client.delete::<Pod>(namespace(&***p), name(&***p)).await)?;
            }
            active_count = 0;
            status.start_time = None;
            let c = condition("Suspended", "True", "JobSuspended", "Job suspended", now);
            set_condition(status.conditions.get_or_insert_default(), c);
        } else {
            if status.conditions.iter().flatten().any(|c| c.type_ == "Suspended" && c.status == "True") {
                let c = condition("Suspended", "False", "JobResumed", "Job resumed", now);
                set_condition(status.conditions.get_or_insert_default(), c);
            }
            let wanted = match spec.completions {
                Some(n) => parallelism.min(n - succeeded),
                None if succeeded > 0 => active_count,
                None => parallelism,
            };
            if active_count > wanted {
                let surplus = (active_count - wanted) as usize;
                let mut by_rank = active.clone();
                by_rank.sort_by_cached_key(|p| pods::deletion_rank(p, 0));
                for p in &by_rank[..surplus] {
                    pods::ignore_absent(self.client.delete::<Pod>(namespace(&***p), name(&***p)).await)?;
                }
                active_count = wanted;
            } else if active_count < wanted {
                if let Some(wait) = backoff(&members, failures, now) {
                    again = Some(again.map_or(wait, |a| a.min(wait)));
                } else {
                    let missing = (wanted - active_count) as usize;
                    // The cache may not show pods that were made a moment ago.
                    let listed = self.live_pods(&job, &selector.to_string()).await?;
                    let fresh = listed.iter().filter(|p| is_active(p)).count();
                    let missing = missing.saturating_sub(fresh.saturating_sub(active.len()));
                    let indexes: Vec<Option<i32>> = if indexed {
                        let done = parse_indexes(status.completed_indexes.as_deref().unwrap_or_default());
                        let busy: BTreeSet<i32> =
                            listed.iter().filter(|p| is_active(p)).filter_map(|p| index_of(p)).collect();
                        (0..spec.completions.unwrap_or(0))
                            .filter(|i| !done.contains(i) && !busy.contains(i))
                            .take(missing)
                            .map(Some)
                            .collect()
                    } else {
                        vec![None; missing]
                    };
                    result = self.create(&job, indexes.into_iter().filter_map(|i| self.pod(&job, i)).collect()).await;
                    active_count += *result.as_ref().unwrap_or(&0) as i32;
                }
            }
        }
        status.active = (active_count > 0).then_some(active_count);
        status.ready = Some(active.iter().filter(|p| is_ready(p)).count() as i32);
        let leaving = members
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some() && !matches!(phase(p), "Succeeded" | "Failed"));
        status.terminating = Some(leaving.count() as i32);
        status.uncounted_terminated_pods.get_or_insert_default();
        if status != before {
            self.write(&job, &status).await?;
        }
        result?;
        Ok(again.map_or(Action::Done, Action::After))
    }
}

impl JobController {
    /// The pods of a job as the API has them now.
    async fn live_pods(&self, job: &Job, selector: &str) -> Result<Vec<Arc<Pod>>, Status> {
        let params = client::ListParams {
            namespace: namespace(job).to_owned(),
            label_selector: selector.to_owned(),
            ..Default::default()
        };
        let mut list = self.client.list::<Pod>(&params).await?;
        list.retain(|p| p.metadata.owner_references.iter().flatten().any(|r| r.uid == uid(job)));
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_travel_as_ranges() {
        let set = parse_indexes("1,3-5,7");
        assert_eq!(set, BTreeSet::from([1, 3, 4, 5, 7]));
        assert_eq!(format_indexes(&set), "1,3-5,7");
        assert_eq!(format_indexes(&BTreeSet::from([0, 1])), "0,1");
        assert_eq!(format_indexes(&BTreeSet::new()), "");
    }
}
