//! What the kubelet needs of a container runtime. The messages are CRI's own.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

/// CRI's messages.
pub use k8s_cri::v1;

/// What kind of failure a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// The runtime is not there, or not yet.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The runtime does not know the call.
    Unimplemented,
    /// Anything else.
    Other,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Its kind.
    pub kind: ErrorKind,
    /// The runtime's words.
    pub message: String,
}

impl Error {
    /// An error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// Whether what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
}

/// What a command in a container wrote and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// What happened to a container or sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeEventKind {
    /// Its process runs.
    Started,
    /// Its process ended.
    Exited,
    /// A process in it was killed for want of memory.
    Oom,
    /// It is gone.
    Deleted,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The container's or sandbox' id.
    pub id: String,
    /// What happened.
    pub kind: RuntimeEventKind,
}

/// A container runtime.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version.
    async fn version(&self) -> Result<v1::VersionResponse, Error>;
    /// Its conditions.
    async fn status(&self) -> Result<v1::RuntimeStatus, Error>;
    /// Events from now on; the stream ends when the connection does.
    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, Error>;

    /// Makes and starts a sandbox; gives its id.
    async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, Error>;
    /// Stops a sandbox with all its containers and frees its network. Does nothing when it is stopped.
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Removes a sandbox with all its containers. Does nothing when it is gone.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    /// A sandbox' status.
    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error>;
    /// Sandboxes that have all the labels.
    async fn list_sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<v1::PodSandbox>, Error>;

    /// Makes a container; gives its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Stops it, by force after `grace`. Does nothing when it is stopped or gone.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error>;
    /// Removes it. Does nothing when it is gone.
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// Containers that have all the labels.
    async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<v1::Container>, Error>;
    /// A container's status.
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error>;
    /// Changes limits of a running container.
    async fn update_resources(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<(), Error>;
    /// Makes the runtime open the log file anew, after it was moved away.
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;
    /// Runs a command in a container to its end.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Error>;
    /// The URL at which to stream a command.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String, Error>;
    /// The URL at which to stream the main process' input and output.
    async fn attach(&self, request: v1::AttachRequest) -> Result<String, Error>;
    /// The URL at which to stream a connection into a sandbox.
    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, Error>;
    /// Readings of all containers.
    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, Error>;
    /// Readings of all sandboxes.
    async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>, Error>;

    /// An image that is there; `None` when it is not.
    async fn image(&self, name: &str) -> Result<Option<v1::Image>, Error>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<v1::Image>, Error>;
    /// Pulls an image; gives its reference.
    async fn pull_image(
        &self,
        name: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error>;
    /// Removes an image with all its names.
    async fn remove_image(&self, name: &str) -> Result<(), Error>;
    /// Where images lie and how much room they take.
    async fn image_filesystems(&self) -> Result<Vec<v1::FilesystemUsage>, Error>;
}
