//! Starts one container: image, environment, mounts, create, start, postStart.
//! It runs in a task of its own, so that a slow pull holds up nothing else of the pod.

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::core::v1::{Container, ObjectReference, Pod, Service};
use jiff::{SignedDuration, Timestamp};

use super::Shared;
use super::actions::{Role, Start};
use super::cri::{Error, v1};
use super::env::{PodFacts, environment};
use super::observed::Sandbox;
use super::spec::{self, ContainerInput, identity};
use super::status::{Waiting, ephemeral_as_container};
use super::volumes::{Ready, mounts};

/// A postStart hook may take as long as the container's start may.
const HOOK: Duration = Duration::from_secs(600);

/// What became of a start.
#[derive(Debug)]
pub(super) struct Outcome {
    pub name: String,
    /// `Err`: what the container waits for, and when to try again.
    pub result: Result<(), (Waiting, Timestamp)>,
}

/// Everything a start needs, taken at the time of the decision.
pub(super) struct Starter {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub sandbox: Sandbox,
    pub sandbox_config: v1::PodSandboxConfig,
    pub volumes: Ready,
    pub facts: PodFacts,
    /// The runtime id of the container whose processes an ephemeral one joins.
    pub target: Option<String>,
}

/// The spec of a container by name and role.
pub(super) fn find(pod: &Pod, name: &str, role: Role) -> Option<Container> {
    let s = pod.spec.as_ref()?;
    match role {
        Role::Regular => s.containers.iter().find(|c| c.name == name).cloned(),
        Role::Init | Role::Sidecar => s.init_containers.iter().flatten().find(|c| c.name == name).cloned(),
        Role::Ephemeral => s.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(ephemeral_as_container),
    }
}

/// A reference for events about one container.
pub(super) fn about(pod: &Pod, name: &str, role: Role) -> ObjectReference {
    let list = match role {
        Role::Regular => "containers",
        Role::Init | Role::Sidecar => "initContainers",
        Role::Ephemeral => "ephemeralContainers",
    };
    let mut r = client::events::reference(pod);
    r.field_path = Some(format!("spec.{list}{{{name}}}"));
    r
}

impl Starter {
    pub(super) async fn run(self, start: Start) -> Outcome {
        let name = start.name.clone();
        let result = self.start(&start).await;
        if let Err((w, _)) = &result {
            tracing::debug!(pod = ?identity(&self.pod), container = %name, reason = %w.reason, message = %w.message, "not started");
        }
        Outcome { name, result }
    }

    async fn start(&self, start: &Start) -> Result<(), (Waiting, Timestamp)> {
        let shared = &self.shared;
        let about = about(&self.pod, &start.name, start.role);
        let fail = |reason: &str, message: String| {
            shared.recorder.warning(about.clone(), "Failed", format!("Error: {message}"));
            let at = Timestamp::now() + SignedDuration::from_secs(10);
            (Waiting { reason: reason.to_owned(), message }, at)
        };
        let Some(c) = find(&self.pod, &start.name, start.role) else {
            return Err(fail("CreateContainerConfigError", format!("container {} is not in the pod", start.name)));
        };
        let image =
            shared.images.ensure(&self.pod, &c, &about, &shared.objects, &self.sandbox_config).await.map_err(|n| {
                shared.recorder.warning(about.clone(), "Failed", format!("Error: {}", n.waiting.reason));
                (n.waiting, n.retry_at)
            })?;
        spec::check_non_root(&self.pod, &c, &image).map_err(|m| fail("CreateContainerConfigError", m))?;
        let services = shared.services.list::<Service>();
        let mut env = environment(&self.pod, &c, &self.facts, &shared.objects, &services)
            .await
            .map_err(|m| fail("CreateContainerConfigError", m))?;
        if !env.iter().any(|(k, _)| k == "HOSTNAME") && !self.sandbox_config.hostname.is_empty() {
            env.insert(0, ("HOSTNAME".into(), self.sandbox_config.hostname.clone()));
        }
        let mut all =
            mounts::mounts(&self.pod, &c, &self.volumes, &env).map_err(|m| fail("CreateContainerConfigError", m))?;
        self.own_mounts(&c, &mut all).map_err(|e| fail("CreateContainerError", e.to_string()))?;
        let input = ContainerInput {
            role: start.role,
            restarts: start.restarts,
            image: image.id.clone(),
            env,
            mounts: all,
            devices: Vec::new(),
            cgroup_v2: shared.cgroups.is_v2(),
            memory_capacity: shared.machine.memory_bytes,
            seccomp: &shared.paths.seccomp(),
            target: self.target.clone(),
        };
        let config = spec::container(&self.pod, &c, input);
        let logs = PathBuf::from(&self.sandbox_config.log_directory).join(&c.name);
        std::fs::create_dir_all(&logs).map_err(|e| fail("CreateContainerError", e.to_string()))?;
        let id = match shared.runtime.create_container(&self.sandbox.id, config, self.sandbox_config.clone()).await {
            Ok(id) => id,
            Err(e) => return Err(fail("CreateContainerError", e.message)),
        };
        shared.owners.add(&id, &identity(&self.pod).uid);
        shared.recorder.normal(about.clone(), "Created", "Container created");
        if let Err(Error { message, .. }) = shared.runtime.start_container(&id).await {
            // The container is there, ended with the reason StartError; its status shows that.
            shared.recorder.warning(about.clone(), "Failed", format!("Error: {message}"));
            let at = Timestamp::now() + SignedDuration::from_secs(1);
            return Err((Waiting { reason: "RunContainerError".into(), message }, at));
        }
        shared.recorder.normal(about.clone(), "Started", "Container started");
        if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            let ip = self.facts.pod_ips.first().cloned().unwrap_or_default();
            if let Err(why) = super::hooks::run(&*shared.runtime, hook, &c, &id, &ip, HOOK).await {
                shared.recorder.warning(about.clone(), "FailedPostStartHook", format!("PostStartHook failed: {why}"));
                let grace = Duration::from_secs(u64::try_from(spec::grace_seconds(&self.pod)).unwrap_or(30));
                shared.recorder.normal(about.clone(), "Killing", "FailedPostStartHook");
                let _ = shared.runtime.stop_container(&id, grace).await;
                let at = Timestamp::now() + SignedDuration::from_secs(1);
                return Err((Waiting { reason: "PostStartHookError".into(), message: why }, at));
            }
        }
        Ok(())
    }

    /// `/etc/hosts` and the termination message file, unless the pod mounts its own there.
    fn own_mounts(&self, c: &Container, all: &mut Vec<v1::Mount>) -> std::io::Result<()> {
        let dir = self.shared.paths.pod(&identity(&self.pod).uid);
        let has = |all: &[v1::Mount], path: &str| all.iter().any(|m| m.container_path == path);
        let hosts = dir.join("etc-hosts");
        if hosts.exists() && !has(all, "/etc/hosts") {
            all.push(v1::Mount {
                container_path: "/etc/hosts".into(),
                host_path: hosts.to_string_lossy().into_owned(),
                ..Default::default()
            });
        }
        let path = spec::message_path(c);
        if !has(all, path) {
            let folder = dir.join("containers").join(&c.name);
            std::fs::create_dir_all(&folder)?;
            let file = folder.join(&uuid::Uuid::new_v4().simple().to_string()[..8]);
            // Whoever the container runs as may write its last words.
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o666).open(&file)?;
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
            all.push(v1::Mount {
                container_path: path.to_owned(),
                host_path: file.to_string_lossy().into_owned(),
                ..Default::default()
            });
        }
        Ok(())
    }
}
