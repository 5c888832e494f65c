//! A runtime in memory that behaves: sandboxes, containers with states and times, images, events.
//! Tests script what happens in containers by [`FakeRuntime::exit`] and the `exec` answers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::runtime::{Error, ErrorKind, ExecOutput, Runtime, RuntimeEvent, RuntimeEventKind, v1};

#[derive(Default)]
struct State {
    serial: u64,
    sandboxes: Vec<v1::PodSandbox>,
    configs: HashMap<String, v1::ContainerConfig>,
    containers: Vec<v1::ContainerStatus>,
    in_sandbox: HashMap<String, String>,
    images: HashSet<String>,
    pullable: HashSet<String>,
    listeners: Vec<mpsc::Sender<RuntimeEvent>>,
    exec: HashMap<String, i32>,
    calls: Vec<String>,
}

/// See the module.
pub struct FakeRuntime {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

fn gone(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} not found"))
}

fn has(labels: &HashMap<String, String>, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(k, v)| labels.get(*k).is_some_and(|l| l == v))
}

impl FakeRuntime {
    /// A runtime with these images; those in `pullable` can be had.
    pub fn new(images: &[&str], pullable: &[&str]) -> Arc<FakeRuntime> {
        let state = State {
            images: images.iter().map(|s| (*s).to_owned()).collect(),
            pullable: pullable.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        };
        Arc::new(FakeRuntime { state: Mutex::new(state), changed: watch::Sender::new(0) })
    }

    fn emit(&self, s: &mut State, id: &str, kind: RuntimeEventKind) {
        s.listeners.retain(|l| l.try_send(RuntimeEvent { id: id.to_owned(), kind }).is_ok());
        self.changed.send_modify(|n| *n += 1);
    }

    /// Ends a running container, found by name.
    pub fn exit(&self, name: &str, code: i32) {
        let mut s = self.state.lock().unwrap();
        let c = s
            .containers
            .iter_mut()
            .find(|c| c.metadata.as_ref().unwrap().name == name && c.state() == v1::ContainerState::ContainerRunning)
            .unwrap();
        c.set_state(v1::ContainerState::ContainerExited);
        c.exit_code = code;
        c.finished_at = now();
        let id = c.id.clone();
        self.emit(&mut s, &id, RuntimeEventKind::Exited);
    }

    /// Exit code of a command (by its first word) from now on.
    pub fn answer(&self, command: &str, code: i32) {
        self.state.lock().unwrap().exec.insert(command.to_owned(), code);
    }

    /// What was asked of it.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Names and attempts of the containers that run.
    pub fn running(&self) -> Vec<(String, u32)> {
        let s = self.state.lock().unwrap();
        let mut all: Vec<_> = s
            .containers
            .iter()
            .filter(|c| c.state() == v1::ContainerState::ContainerRunning)
            .map(|c| c.metadata.clone().unwrap())
            .map(|m| (m.name, m.attempt))
            .collect();
        all.sort();
        all
    }

    /// The configuration of the newest container of a name.
    pub fn config(&self, name: &str) -> Option<v1::ContainerConfig> {
        let s = self.state.lock().unwrap();
        let c = s.containers.iter().rev().find(|c| c.metadata.as_ref().unwrap().name == name)?;
        s.configs.get(&c.id).cloned()
    }

    /// Waits for a condition, which is looked at again at each change.
    pub async fn until(&self, what: &str, condition: impl Fn(&FakeRuntime) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !condition(self) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(3600), wait).await.is_err() {
            panic!("{what} did not come about: {:?}", self.calls());
        }
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<v1::VersionResponse, Error> {
        Ok(v1::VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() })
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, Error> {
        Ok(v1::RuntimeStatus::default())
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, Error> {
        let (tx, rx) = mpsc::channel(1000);
        self.state.lock().unwrap().listeners.push(tx);
        Ok(rx)
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig, _: &str) -> Result<String, Error> {
        let mut s = self.state.lock().unwrap();
        s.serial += 1;
        let id = format!("sandbox{}", s.serial);
        let m = config.metadata.clone().unwrap();
        s.calls.push(format!("sandbox {} {}", m.name, m.attempt));
        if s.sandboxes.iter().any(|b| b.metadata == config.metadata) {
            return Err(Error::new(ErrorKind::Other, "failed to reserve sandbox name"));
        }
        s.sandboxes.push(v1::PodSandbox {
            id: id.clone(),
            metadata: config.metadata,
            state: v1::PodSandboxState::SandboxReady as i32,
            created_at: now(),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: String::new(),
        });
        self.emit(&mut s, &id, RuntimeEventKind::Started);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let mut s = self.state.lock().unwrap();
        if let Some(b) = s.sandboxes.iter_mut().find(|b| b.id == id) {
            b.set_state(v1::PodSandboxState::SandboxNotready);
        }
        let inside: Vec<String> = s.in_sandbox.iter().filter(|(_, b)| *b == id).map(|(c, _)| c.clone()).collect();
        for c in s.containers.iter_mut().filter(|c| inside.contains(&c.id)) {
            if c.state() == v1::ContainerState::ContainerRunning {
                c.set_state(v1::ContainerState::ContainerExited);
                c.exit_code = 137;
                c.finished_at = now();
            }
        }
        self.emit(&mut s, id, RuntimeEventKind::Exited);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let mut s = self.state.lock().unwrap();
        let inside: Vec<String> = s.in_sandbox.iter().filter(|(_, b)| *b == id).map(|(c, _)| c.clone()).collect();
        s.containers.retain(|c| !inside.contains(&c.id));
        s.sandboxes.retain(|b| b.id != id);
        self.emit(&mut s, id, RuntimeEventKind::Deleted);
        Ok(())
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        let s = self.state.lock().unwrap();
        let b = s.sandboxes.iter().find(|b| b.id == id).ok_or_else(|| gone(id))?;
        Ok(v1::PodSandboxStatus {
            id: b.id.clone(),
            metadata: b.metadata.clone(),
            state: b.state,
            network: Some(v1::PodSandboxNetworkStatus { ip: "10.42.0.7".into(), ..Default::default() }),
            ..Default::default()
        })
    }

    async fn list_sandboxes(&self, wanted: &[(&str, &str)]) -> Result<Vec<v1::PodSandbox>, Error> {
        let s = self.state.lock().unwrap();
        Ok(s.sandboxes.iter().filter(|b| has(&b.labels, wanted)).cloned().collect())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        _: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let mut s = self.state.lock().unwrap();
        if !s.sandboxes.iter().any(|b| b.id == sandbox) {
            return Err(gone(sandbox));
        }
        s.serial += 1;
        let id = format!("container{}", s.serial);
        s.containers.push(v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at: now(),
            image: Some(v1::ImageSpec {
                image: config.image.clone().unwrap().user_specified_image,
                ..Default::default()
            }),
            image_ref: "sha256:1".into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..Default::default()
        });
        s.in_sandbox.insert(id.clone(), sandbox.to_owned());
        s.configs.insert(id.clone(), config);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let mut s = self.state.lock().unwrap();
        let c = s.containers.iter_mut().find(|c| c.id == id).ok_or_else(|| gone(id))?;
        c.set_state(v1::ContainerState::ContainerRunning);
        c.started_at = now();
        let m = c.metadata.clone().unwrap();
        s.calls.push(format!("start {} {}", m.name, m.attempt));
        self.emit(&mut s, id, RuntimeEventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let mut s = self.state.lock().unwrap();
        let Some(c) = s.containers.iter_mut().find(|c| c.id == id) else { return Ok(()) };
        let name = c.metadata.clone().unwrap().name;
        if c.state() == v1::ContainerState::ContainerRunning {
            c.set_state(v1::ContainerState::ContainerExited);
            c.exit_code = 143;
            c.finished_at = now();
        }
        s.calls.push(format!("stop {name} {}", grace.as_millis().div_ceil(1000)));
        self.emit(&mut s, id, RuntimeEventKind::Exited);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let mut s = self.state.lock().unwrap();
        s.containers.retain(|c| c.id != id);
        self.emit(&mut s, id, RuntimeEventKind::Deleted);
        Ok(())
    }

    async fn list_containers(&self, wanted: &[(&str, &str)]) -> Result<Vec<v1::Container>, Error> {
        let s = self.state.lock().unwrap();
        Ok(s.containers
            .iter()
            .filter(|c| has(&c.labels, wanted))
            .map(|c| v1::Container {
                id: c.id.clone(),
                pod_sandbox_id: s.in_sandbox[&c.id].clone(),
                metadata: c.metadata.clone(),
                state: c.state,
                created_at: c.created_at,
                labels: c.labels.clone(),
                annotations: c.annotations.clone(),
                ..Default::default()
            })
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let s = self.state.lock().unwrap();
        s.containers.iter().find(|c| c.id == id).cloned().ok_or_else(|| gone(id))
    }

    async fn update_resources(&self, _: &str, _: v1::LinuxContainerResources) -> Result<(), Error> {
        Ok(())
    }

    async fn reopen_log(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: &[String], _: Duration) -> Result<ExecOutput, Error> {
        let mut s = self.state.lock().unwrap();
        if !s.containers.iter().any(|c| c.id == id && c.state() == v1::ContainerState::ContainerRunning) {
            return Err(gone(id));
        }
        let exit_code = s.exec.get(&command[0]).copied().unwrap_or(0);
        s.calls.push(format!("exec {}", command.join(" ")));
        self.changed.send_modify(|n| *n += 1);
        Ok(ExecOutput { exit_code, ..Default::default() })
    }

    async fn exec(&self, _: v1::ExecRequest) -> Result<String, Error> {
        Err(Error::new(ErrorKind::Unimplemented, "no streams here"))
    }

    async fn attach(&self, _: v1::AttachRequest) -> Result<String, Error> {
        Err(Error::new(ErrorKind::Unimplemented, "no streams here"))
    }

    async fn port_forward(&self, _: v1::PortForwardRequest) -> Result<String, Error> {
        Err(Error::new(ErrorKind::Unimplemented, "no streams here"))
    }

    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, Error> {
        Ok(Vec::new())
    }

    async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>, Error> {
        Ok(Vec::new())
    }

    async fn image(&self, name: &str) -> Result<Option<v1::Image>, Error> {
        let there = self.state.lock().unwrap().images.contains(name);
        Ok(there.then(|| v1::Image { id: format!("id-of-{name}"), ..Default::default() }))
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        Ok(Vec::new())
    }

    async fn pull_image(
        &self,
        name: &str,
        _: Option<v1::AuthConfig>,
        _: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let mut s = self.state.lock().unwrap();
        s.calls.push(format!("pull {name}"));
        self.changed.send_modify(|n| *n += 1);
        if !s.pullable.contains(name) {
            return Err(gone(name));
        }
        s.images.insert(name.to_owned());
        Ok(name.to_owned())
    }

    async fn remove_image(&self, name: &str) -> Result<(), Error> {
        self.state.lock().unwrap().images.remove(name);
        Ok(())
    }

    async fn image_filesystems(&self) -> Result<Vec<v1::FilesystemUsage>, Error> {
        Ok(Vec::new())
    }
}
