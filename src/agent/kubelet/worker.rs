//! The worker of one pod: the only one that changes anything about it.
//!
//! ```text
//!                  deleted, removed, rejected, past its deadline, finished
//!   Syncing ──────────────────────────────────────────────────────────────► Terminating
//!                                                                               │ nothing runs
//!   (end) ◄── object gone ── Resting ◄── cleaned up, status final ── Cleaning ◄─┘
//! ```
//!
//! The way is one-way. `Syncing` loops: observe, probe, plan, act, report. Image pulls and starts
//! run beside it and wake it when they are done. In `Resting` only the ended containers are left,
//! for their logs; when the object is gone they go too. Ending the agent ends the worker wherever
//! it is, and leaves the pod as it is.

mod ending;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::k8s::core::v1::Pod;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::actions::{self, Memory, Plan, Role, Start};
use super::cri::v1;
use super::env::PodFacts;
use super::observed::{Observed, State as ContainerState, observe};
use super::probes::{Probes, Results, Target};
use super::spec::{self, Identity, SandboxInput, identity};
use super::start::{Outcome, Starter};
use super::status::{self, Verdict, View, Waiting};
use super::volumes::Ready;
use super::{Shared, dns, stop};

/// Retries after trouble with the runtime or volumes: first and longest wait.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Waits for the runtime's books to agree with its events: first and longest.
const SETTLE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(512));

fn still_runs(seen: &Observed, ended: &HashSet<String>) -> bool {
    seen.containers.iter().any(|c| c.state == ContainerState::Running && ended.contains(&c.id))
        || seen.sandboxes.iter().any(|s| s.ready && ended.contains(&s.id))
}

/// What a worker is to bring about.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The object in the API that stands for it, if there is one: itself, or its mirror.
    pub object: Option<Arc<Pod>>,
    /// It is gone from where it came from.
    pub removed: bool,
    /// It must not run (any more).
    pub verdict: Option<Verdict>,
}

impl Desired {
    fn must_stop(&self) -> bool {
        self.removed || self.verdict.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn grace(&self) -> Duration {
        let object = self.object.as_ref().unwrap_or(&self.pod);
        let seconds = if self.pod.metadata.deletion_timestamp.is_some() {
            spec::grace_seconds(object)
        } else {
            spec::grace_seconds(&self.pod)
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or(30))
    }
}

/// How others reach a worker.
#[derive(Debug)]
pub struct Handle {
    /// Tells it what to bring about.
    pub desired: watch::Sender<Desired>,
    /// Makes it look again.
    pub wake: Arc<Notify>,
    /// Makes it look at its volumes again, too.
    pub volumes_changed: Arc<std::sync::atomic::AtomicBool>,
    /// Ids of containers and sandboxes of which the runtime has said that they ended.
    pub ended: Arc<Mutex<HashSet<String>>>,
    /// What it saw last.
    pub seen: watch::Receiver<Arc<Observed>>,
}

enum State {
    Syncing,
    Terminating,
    Cleaning,
    Resting,
    End,
}

/// See the module.
pub struct Worker {
    shared: Arc<Shared>,
    id: Identity,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    volumes_changed: Arc<std::sync::atomic::AtomicBool>,
    ended: Arc<Mutex<HashSet<String>>>,
    seen_by_others: watch::Sender<Arc<Observed>>,
    seen: Observed,
    memory: Memory,
    plan: Plan,
    trouble: HashMap<String, Waiting>,
    verdict: Option<Verdict>,
    results: Arc<Results>,
    probes: Probes,
    jobs: JoinSet<Job>,
    stopping: HashSet<String>,
    volumes: Option<Ready>,
    start_time: Timestamp,
    retry: Duration,
    cgroup: Option<String>,
    told_network: bool,
}

/// A finished side task.
enum Job {
    Start(Outcome),
    Stop(String),
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({}/{})", self.id.namespace, self.id.name)
    }
}

impl Worker {
    /// A worker and its handle; [`Worker::run`] makes it work.
    pub fn new(shared: Arc<Shared>, desired: Desired) -> (Worker, Handle) {
        let id = identity(&desired.pod);
        let wake = Arc::new(Notify::new());
        let results = Arc::new(Results::new(wake.clone()));
        let volumes_changed = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let ended: Arc<Mutex<HashSet<String>>> = Arc::default();
        let verdict = desired.verdict.clone();
        let (desired_tx, desired_rx) = watch::channel(desired);
        let (seen_tx, seen_rx) = watch::channel(Arc::new(Observed::default()));
        let worker = Worker {
            probes: Probes::new(results.clone(), shared.tasks.clone()),
            shared,
            id,
            desired: desired_rx,
            wake: wake.clone(),
            volumes_changed: volumes_changed.clone(),
            ended: ended.clone(),
            seen_by_others: seen_tx,
            seen: Observed::default(),
            memory: Memory::default(),
            plan: Plan::default(),
            trouble: HashMap::new(),
            verdict,
            results,
            jobs: JoinSet::new(),
            stopping: HashSet::new(),
            volumes: None,
            start_time: Timestamp::now(),
            retry: RETRY.0,
            cgroup: None,
            told_network: false,
        };
        (worker, Handle { desired: desired_tx, wake, volumes_changed, ended, seen: seen_rx })
    }

    /// Works until nothing of the pod is left, here and in the API.
    pub async fn run(mut self) {
        let ended_before = status::is_terminal(self.object_status().as_ref());
        let mut state = if ended_before { State::Terminating } else { State::Syncing };
        loop {
            state = match state {
                State::Syncing => self.sync().await,
                State::Terminating => self.terminate().await,
                State::Cleaning => self.clean().await,
                State::Resting => self.rest().await,
                State::End => return,
            };
        }
    }

    fn now_desired(&self) -> Desired {
        self.desired.borrow().clone()
    }

    fn object_status(&self) -> Option<api::k8s::core::v1::PodStatus> {
        self.desired.borrow().object.as_ref().and_then(|o| o.status.clone())
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self, until: Option<Timestamp>) {
        let left = until.map(|u| Duration::try_from(u.duration_since(Timestamp::now())).unwrap_or_default());
        let timer = async {
            match left {
                Some(d) => tokio::time::sleep(d).await,
                None => std::future::pending().await,
            }
        };
        let mut network = self.shared.config.network.clone();
        tokio::select! {
            () = self.wake.notified() => {}
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The sender lives as long as the manager; without it only the agent's end is left.
                    std::future::pending::<()>().await;
                }
                self.volumes_changed.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(()) = network.changed(), if self.told_network => {}
            Some(done) = self.jobs.join_next() => {
                if let Ok(job) = done {
                    self.finished(job);
                }
            }
            () = timer => {}
        }
        while let Some(done) = self.jobs.try_join_next() {
            if let Ok(job) = done {
                self.finished(job);
            }
        }
    }

    fn finished(&mut self, job: Job) {
        match job {
            Job::Start(o) => {
                self.memory.starting.remove(&o.name);
                match o.result {
                    Ok(()) => {
                        self.trouble.remove(&o.name);
                        self.memory.held.remove(&o.name);
                    }
                    Err((waiting, until)) => {
                        self.trouble.insert(o.name.clone(), waiting);
                        self.memory.held.insert(o.name, until);
                    }
                }
            }
            Job::Stop(id) => {
                self.stopping.remove(&id);
            }
        }
    }

    async fn look(&mut self) -> Result<(), super::cri::Error> {
        let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(|e| e.into_inner()));
        let mut seen = observe(&*self.shared.runtime, &self.id.uid, &self.seen).await?;
        // The runtime tells of an end a moment before its own books have it.
        let mut moment = SETTLE.0;
        while moment <= SETTLE.1 && !ended.is_empty() && still_runs(&seen, &ended) {
            tokio::time::sleep(moment).await;
            moment *= 2;
            seen = observe(&*self.shared.runtime, &self.id.uid, &self.seen).await?;
        }
        let ids = seen.ids();
        for id in &ids {
            self.shared.owners.add(id, &self.id.uid);
        }
        // Only what was seen before and is gone: something may have been made since we asked.
        for id in self.seen.ids().iter().filter(|id| !ids.contains(id)) {
            self.shared.owners.remove(id);
        }
        self.seen = seen;
        self.seen_by_others.send_replace(Arc::new(self.seen.clone()));
        Ok(())
    }

    fn backoff(&mut self) -> Timestamp {
        let wait = self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
        Timestamp::now() + SignedDuration::try_from(wait).unwrap_or_default()
    }

    async fn sync(&mut self) -> State {
        let desired = self.now_desired();
        self.desired.mark_unchanged();
        if let Err(e) = self.look().await {
            tracing::warn!(pod = %self.id.name, error = %e, "the runtime does not answer about a pod");
            let at = self.backoff();
            self.wait(Some(at)).await;
            return State::Syncing;
        }
        self.memory_from_probes(&desired.pod);
        self.check_deadline(&desired.pod);
        if desired.must_stop() || self.verdict.is_some() || status::is_finished(&desired.pod, &self.seen) {
            self.verdict = self.verdict.take().or(desired.verdict);
            return State::Terminating;
        }
        let wake = self.act(&desired).await;
        self.report(&desired);
        let deadline = self.deadline(&desired.pod);
        let wake = [wake, deadline, self.volumes.as_ref().and_then(|v| v.refresh_at)].into_iter().flatten().min();
        self.wait(wake).await;
        if let Some(at) = self.volumes.as_ref().and_then(|v| v.refresh_at)
            && at <= Timestamp::now()
        {
            self.volumes_changed.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        State::Syncing
    }

    fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)?;
        let begun = self.object_status().and_then(|s| s.start_time).map_or(self.start_time, |t| t.0);
        Some(begun + SignedDuration::from_secs(seconds))
    }

    fn check_deadline(&mut self, pod: &Pod) {
        if self.verdict.is_none() && self.deadline(pod).is_some_and(|d| d <= Timestamp::now()) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.shared.recorder.normal(client::events::reference(pod), "DeadlineExceeded", message.clone());
            self.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message });
        }
    }

    fn memory_from_probes(&mut self, pod: &Pod) {
        let mut targets = Vec::new();
        let ip = self.pod_ip();
        for c in self.seen.containers.iter().filter(|c| c.state == ContainerState::Running) {
            let role = stop::role(pod, &c.name);
            if matches!(role, Role::Ephemeral | Role::Init) {
                continue;
            }
            let Some(container) = super::start::find(pod, &c.name, role) else { continue };
            targets.push(Target {
                runtime: self.shared.runtime.clone(),
                recorder: self.shared.recorder.clone(),
                about: super::start::about(pod, &c.name, role),
                container,
                id: c.id.clone(),
                ip: ip.clone(),
                started_ns: c.started_ns,
            });
        }
        self.probes.set(targets, &self.shared.cancel);
        let v = self.results.get();
        self.memory.started = v.started;
        self.memory.unhealthy = v.unhealthy;
    }

    fn pod_ip(&self) -> String {
        let own = self.seen.ready_sandbox().and_then(|s| s.ips.first()).cloned();
        own.or_else(|| self.shared.config.node_ips.first().map(ToString::to_string)).unwrap_or_default()
    }

    fn facts(&self, pod: &Pod) -> PodFacts {
        let node_ips: Vec<String> = self.shared.config.node_ips.iter().map(ToString::to_string).collect();
        let on_host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let own = self.seen.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        let m = &self.shared.machine;
        PodFacts {
            pod_ips: if on_host { node_ips.clone() } else { own },
            host_ips: node_ips,
            node_cpu_millis: m.cpu_millis,
            node_memory_bytes: m.memory_bytes,
            node_storage_bytes: m.storage_bytes,
        }
    }

    /// Does what is to be done now; gives when to look again.
    async fn act(&mut self, desired: &Desired) -> Option<Timestamp> {
        let pod = &desired.pod;
        let about = client::events::reference(&**pod);
        let on_host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        self.told_network = false;
        if !on_host
            && self.seen.ready_sandbox().is_none()
            && let Err(why) = self.shared.config.network.borrow().clone()
        {
            let message = format!("network is not ready: {why}");
            self.shared.recorder.warning(about, "NetworkNotReady", message);
            self.told_network = true;
            return None;
        }
        if let Err(e) = self.prepare(pod).await {
            tracing::warn!(pod = %self.id.name, error = %e, "a pod cannot be prepared");
            self.shared.recorder.warning(about, "FailedCreatePodContainer", e.to_string());
            return Some(self.backoff());
        }
        if self.volumes_changed.swap(false, std::sync::atomic::Ordering::Relaxed) || self.volumes.is_none() {
            let facts = self.facts(pod);
            match self.shared.volumes.set_up(pod, &facts, &self.shared.objects).await {
                Ok(ready) => self.volumes = Some(ready),
                Err(e) => {
                    self.shared.recorder.warning(about, "FailedMount", e.to_string());
                    self.volumes_changed.store(true, std::sync::atomic::Ordering::Relaxed);
                    if self.volumes.is_none() {
                        return Some(self.backoff());
                    }
                }
            }
        }
        let plan = actions::plan(pod, &self.seen, &self.memory, Timestamp::now());
        self.tell_back_offs(pod, &plan);
        self.plan = plan.clone();
        if let Some(attempt) = plan.sandbox {
            return self.new_sandbox(pod, attempt).await;
        }
        for s in &plan.stop {
            self.begin_stop(pod, s);
        }
        for s in &plan.start {
            self.begin_start(pod, s);
        }
        self.drop_dead(pod).await;
        self.retry = RETRY.0;
        plan.wake
    }

    async fn prepare(&mut self, pod: &Pod) -> std::io::Result<()> {
        if self.cgroup.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(self.shared.paths.pod(&self.id.uid))?;
        std::fs::create_dir_all(self.logs())?;
        self.cgroup = Some(self.shared.cgroups.create_pod(pod, &self.id.uid)?);
        Ok(())
    }

    fn logs(&self) -> std::path::PathBuf {
        self.shared.paths.pod_log(&self.id.namespace, &self.id.name, &self.id.uid)
    }

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
        let c = &self.shared.config;
        let (hostname, _) = dns::hostname(pod, &c.cluster_domain);
        spec::sandbox(
            pod,
            &SandboxInput {
                attempt,
                dns: dns::resolvers(pod, &c.cluster_dns, &c.cluster_domain, &c.resolv_conf),
                hostname: &hostname,
                logs: &self.logs(),
                cgroup: self.cgroup.as_deref().unwrap_or_default(),
                seccomp: &self.shared.paths.seccomp(),
            },
        )
    }

    /// The runtime's handler for the pod's RuntimeClass. What the runtime would silently ignore is refused.
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let spec = pod.spec.as_ref();
        if spec.and_then(|s| s.host_users) == Some(false) {
            return Err("user namespaces (hostUsers: false) are not supported by this node".into());
        }
        let Some(name) = spec.and_then(|s| s.runtime_class_name.as_deref()).filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let class = self.shared.client.get::<api::k8s::node::v1::RuntimeClass>("", name).await;
        class.map(|c| c.handler.clone()).map_err(|s| format!("failed to get sandbox runtime: {s}"))
    }

    async fn new_sandbox(&mut self, pod: &Arc<Pod>, attempt: u32) -> Option<Timestamp> {
        let about = client::events::reference(&**pod);
        if !self.seen.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.recorder.normal(about.clone(), "SandboxChanged", message);
            self.jobs.abort_all();
            self.memory.starting.clear();
            for s in self.seen.sandboxes.clone() {
                if let Err(e) = self.shared.runtime.stop_sandbox(&s.id).await {
                    tracing::warn!(sandbox = %s.id, error = %e, "an old sandbox does not stop");
                    return Some(self.backoff());
                }
            }
        }
        let config = self.sandbox_config(pod, attempt);
        let handler = match self.runtime_handler(pod).await {
            Ok(h) => h,
            Err(why) => {
                let message = format!("Failed to create pod sandbox: {why}");
                self.shared.recorder.warning(about, "FailedCreatePodSandBox", message);
                return Some(self.backoff());
            }
        };
        // A pod that is to go does not wait for its sandbox.
        let made = {
            let mut desired = self.desired.clone();
            desired.mark_unchanged();
            let stop = async {
                while desired.changed().await.is_ok() {
                    if desired.borrow().must_stop() {
                        return;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                made = self.shared.runtime.run_sandbox(config, &handler) => made,
                () = stop => return Some(Timestamp::now()),
            }
        };
        match made {
            Ok(id) => {
                self.shared.owners.add(&id, &self.id.uid);
                self.retry = RETRY.0;
                Some(Timestamp::now())
            }
            Err(e) => {
                let message = format!("Failed to create pod sandbox: {e}");
                self.shared.recorder.warning(about, "FailedCreatePodSandBox", message);
                Some(self.backoff())
            }
        }
    }

    /// An event for each container that has begun to wait before it is started again.
    fn tell_back_offs(&self, pod: &Pod, plan: &Plan) {
        for name in plan.crash_loop.keys().filter(|n| !self.plan.crash_loop.contains_key(*n)) {
            let about = super::start::about(pod, name, stop::role(pod, name));
            let id = &self.id;
            let message =
                format!("Back-off restarting failed container {name} in pod {}_{}({})", id.name, id.namespace, id.uid);
            self.shared.recorder.warning(about, "BackOff", message);
        }
    }

    fn begin_stop(&mut self, pod: &Arc<Pod>, s: &actions::Stop) {
        if !self.stopping.insert(s.id.clone()) {
            return;
        }
        let Some(c) = self.seen.containers.iter().find(|c| c.id == s.id).cloned() else { return };
        let own = super::start::find(pod, &c.name, stop::role(pod, &c.name));
        let of_probe = own
            .as_ref()
            .filter(|_| s.by_probe)
            .and_then(|c| {
                let l = c.liveness_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
                l.or_else(|| c.startup_probe.as_ref().and_then(|p| p.termination_grace_period_seconds))
            })
            .and_then(|g| u64::try_from(g).ok());
        let default = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let grace = Duration::from_secs(of_probe.unwrap_or_else(|| u64::try_from(default).unwrap_or(30)));
        let (shared, pod, ip, message) = (self.shared.clone(), pod.clone(), self.pod_ip(), s.message.clone());
        self.jobs.spawn(async move {
            if let Err(e) = stop::container(&shared, &pod, &c, &ip, grace, &message).await {
                tracing::warn!(container = %c.id, error = %e, "a container does not stop");
            }
            Job::Stop(c.id)
        });
    }

    fn begin_start(&mut self, pod: &Arc<Pod>, s: &Start) {
        let Some(sandbox) = self.seen.ready_sandbox().cloned() else { return };
        let facts = self.facts(pod);
        if let Err(e) = self.write_hosts(pod, &facts) {
            tracing::warn!(pod = %self.id.name, error = %e, "the hosts file was not written");
        }
        if let Some(finished) = s.after {
            self.memory.backoffs.next(&s.name, finished);
        }
        self.memory.starting.insert(s.name.clone());
        let target = pod
            .spec
            .iter()
            .flat_map(|p| p.ephemeral_containers.iter().flatten())
            .find(|e| s.role == Role::Ephemeral && e.name == s.name)
            .and_then(|e| e.target_container_name.as_deref())
            .and_then(|t| self.seen.latest(t))
            .map(|c| c.id.clone());
        let starter = Starter {
            shared: self.shared.clone(),
            pod: pod.clone(),
            sandbox_config: self.sandbox_config(pod, sandbox.attempt),
            sandbox,
            volumes: self.volumes.clone().unwrap_or_default(),
            facts,
            target,
        };
        let start = s.clone();
        self.jobs.spawn(async move { Job::Start(starter.run(start).await) });
    }

    fn write_hosts(&self, pod: &Pod, facts: &PodFacts) -> std::io::Result<()> {
        let file = self.shared.paths.pod(&self.id.uid).join("etc-hosts");
        let (host, domain) = dns::hostname(pod, &self.shared.config.cluster_domain);
        let of_node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let text = dns::hosts_file(pod, &facts.pod_ips, &host, &domain, &of_node);
        // In place: running containers have this very file mounted.
        if std::fs::read_to_string(&file).is_ok_and(|old| old == text) { Ok(()) } else { std::fs::write(file, text) }
    }

    /// Of each name, the newest container and the one before stay, for status and logs.
    async fn drop_dead(&mut self, pod: &Pod) {
        let keep_init = !actions::initialized(pod, &self.seen);
        let mut dead = Vec::new();
        let mut count: HashMap<&str, usize> = HashMap::new();
        for c in &self.seen.containers {
            let n = count.entry(c.name.as_str()).or_default();
            *n += 1;
            let keep = if stop::role(pod, &c.name) == Role::Init && keep_init { 3 } else { 2 };
            if *n > keep && c.state == ContainerState::Exited {
                dead.push((c.id.clone(), c.log_path.clone()));
            }
        }
        let ready = self.seen.ready_sandbox().map(|s| s.id.clone());
        for (id, log) in dead {
            if self.shared.runtime.remove_container(&id).await.is_ok() && !log.is_empty() {
                for file in super::logs::rotated(std::path::Path::new(&log)) {
                    let _ = std::fs::remove_file(file);
                }
                let _ = std::fs::remove_file(log);
            }
        }
        let emptied: Vec<String> = self
            .seen
            .sandboxes
            .iter()
            .filter(|s| !s.ready && Some(&s.id) != ready.as_ref() && ready.is_some())
            .filter(|s| !self.seen.containers.iter().any(|c| c.sandbox == s.id))
            .map(|s| s.id.clone())
            .collect();
        for id in emptied {
            let _ = self.shared.runtime.remove_sandbox(&id).await;
        }
    }

    /// Hands the pod's status to the writer.
    fn report(&self, desired: &Desired) {
        let Some(object) = &desired.object else { return };
        // What has ended stays ended.
        if status::is_terminal(object.status.as_ref()) {
            return self.shared.statuses.set(&self.id.uid, object, object.status.clone().unwrap_or_default());
        }
        // A static pod's spec is the file's, its status and identity in the API are the mirror's.
        let mut pod = (*desired.pod).clone();
        pod.status = status::base(self.shared.statuses.get(&self.id.uid), object.status.as_ref());
        pod.metadata.generation = object.metadata.generation;
        let verdicts = self.results.get();
        let view = View {
            pod: &pod,
            seen: &self.seen,
            memory: &self.memory,
            crash_loop: &self.plan.crash_loop,
            trouble: &self.trouble,
            ready: &verdicts.ready,
            verdict: self.verdict.as_ref(),
            node_ips: &self.shared.config.node_ips,
            start_time: self.start_time,
            now: Timestamp::now(),
        };
        self.shared.statuses.set(&self.id.uid, object, view.status());
    }
}
