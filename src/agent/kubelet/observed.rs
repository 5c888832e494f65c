//! What the runtime has of one pod, read anew whenever something may have changed. Everything the
//! kubelet must know after a restart is in here: labels and annotations carry it.

use std::collections::HashMap;

use super::cri::{Error, Runtime, v1};

/// Label of the pod's name, on sandboxes and containers.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label of the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label of the pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label of the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of what makes a running container outdated when it changes.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container was restarted.
pub const RESTARTS: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the termination message is in the container.
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's grace period, for pods that are gone from the API.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// A container's state.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime does not know.
    #[default]
    Unknown,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name in the pod's spec.
    pub name: String,
    /// The sandbox it is in.
    pub sandbox: String,
    /// How many containers of this name the pod had before.
    pub restarts: u32,
    /// Its state.
    pub state: State,
    /// Hash of the spec it was made from.
    pub hash: String,
    /// When it was made, ns since the epoch; 0 is never, here and below.
    pub created_ns: i64,
    /// When it was started.
    pub started_ns: i64,
    /// When it ended.
    pub finished_ns: i64,
    /// Its exit code.
    pub exit_code: i32,
    /// Why it ended.
    pub reason: String,
    /// The runtime's words, or the termination message.
    pub message: String,
    /// The image as the spec names it.
    pub image: String,
    /// The image as the registry names it.
    pub image_ref: String,
    /// Its log file.
    pub log_path: String,
    /// Who runs it, where the runtime says so.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Whether it runs.
    pub ready: bool,
    /// When it was made, ns.
    pub created_ns: i64,
    /// Its addresses; none on the host's network.
    pub ips: Vec<String>,
}

/// All of one pod, the newest of each kind first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers.
    pub containers: Vec<Container>,
}

impl Observed {
    /// The newest sandbox when it runs.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The containers of a name, the newest first.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |c| c.name == name)
    }

    /// The newest container of a name.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Containers whose process runs (or may).
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }

    /// Ids of everything, as runtime events name them.
    pub fn ids(&self) -> Vec<String> {
        self.sandboxes.iter().map(|s| s.id.clone()).chain(self.containers.iter().map(|c| c.id.clone())).collect()
    }
}

/// At most this much of a termination message is kept, in bytes.
const MESSAGE_MAX: usize = 4096;
/// And of a log that stands in for one.
const LOG_MAX: usize = 2048;
const LOG_LINES: usize = 80;

/// The termination message of a container that ended: from its file, or from its log.
fn termination_message(s: &v1::ContainerStatus) -> String {
    let annotation = |k: &str| s.annotations.get(k).map(String::as_str).unwrap_or_default();
    let path = annotation(MESSAGE_PATH);
    let file = s.mounts.iter().find(|m| m.container_path == path).map(|m| m.host_path.clone());
    let from_file = file.and_then(|f| read_up_to(&f, MESSAGE_MAX)).unwrap_or_default();
    if !from_file.is_empty() || annotation(MESSAGE_POLICY) != "FallbackToLogsOnError" || s.exit_code == 0 {
        return from_file;
    }
    super::logs::tail(&s.log_path, LOG_LINES, LOG_MAX)
}

fn read_up_to(path: &str, limit: usize) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(limit as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn container(summary: &v1::Container, s: v1::ContainerStatus) -> Container {
    let state = match s.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running,
        v1::ContainerState::ContainerExited => State::Exited,
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let mut message = s.message.clone();
    if state == State::Exited {
        let own = termination_message(&s);
        if !own.is_empty() {
            message = if message.is_empty() { own } else { format!("{message}: {own}") };
        }
    }
    let user = s.user.and_then(|u| u.linux).map(|l| (l.uid, l.gid, l.supplemental_groups));
    Container {
        id: s.id,
        name: s.labels.get(CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox: summary.pod_sandbox_id.clone(),
        restarts: s.annotations.get(RESTARTS).and_then(|r| r.parse().ok()).unwrap_or(0),
        state,
        hash: s.annotations.get(HASH).cloned().unwrap_or_default(),
        created_ns: s.created_at,
        started_ns: s.started_at,
        finished_ns: s.finished_at,
        exit_code: s.exit_code,
        reason: s.reason,
        message,
        image: s.image.map(|i| i.image).unwrap_or_default(),
        image_ref: s.image_ref,
        log_path: s.log_path,
        user,
    }
}

/// Reads a pod's state from the runtime. Statuses of containers that ended are taken from
/// `before`: nothing about them changes any more.
///
/// # Errors
/// When the runtime does not answer.
pub async fn observe(runtime: &dyn Runtime, uid: &str, before: &Observed) -> Result<Observed, Error> {
    let labels = [(POD_UID, uid)];
    let (sandboxes, containers) = tokio::try_join!(runtime.list_sandboxes(&labels), runtime.list_containers(&labels))?;
    let mut found = Observed::default();
    for s in sandboxes {
        let ready = s.state() == v1::PodSandboxState::SandboxReady;
        let mut ips = Vec::new();
        if ready {
            match before.sandboxes.iter().find(|b| b.id == s.id && b.ready && !b.ips.is_empty()) {
                Some(b) => ips = b.ips.clone(),
                None => match runtime.sandbox_status(&s.id).await {
                    Ok(status) => {
                        if let Some(n) = status.network {
                            ips.push(n.ip);
                            ips.extend(n.additional_ips.into_iter().map(|i| i.ip));
                            ips.retain(|i| !i.is_empty());
                        }
                    }
                    Err(e) if e.is_not_found() => continue,
                    Err(e) => return Err(e),
                },
            }
        }
        let attempt = s.metadata.as_ref().map_or(0, |m| m.attempt);
        found.sandboxes.push(Sandbox { id: s.id, attempt, ready, created_ns: s.created_at, ips });
    }
    let known: HashMap<&str, &Container> =
        before.containers.iter().filter(|c| c.state == State::Exited).map(|c| (c.id.as_str(), c)).collect();
    for c in &containers {
        if let Some(old) = known.get(c.id.as_str()) {
            found.containers.push((*old).clone());
            continue;
        }
        match runtime.container_status(&c.id).await {
            Ok(s) => found.containers.push(container(c, s)),
            // Removed in between.
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    found.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_ns, s.attempt)));
    found.containers.sort_by_key(|c| std::cmp::Reverse((c.restarts, c.created_ns)));
    Ok(found)
}
