//! containerd as our supervised child, with its own root, state, socket and configuration.
//!
//! ```text
//! start: socket answers ──────────────► adopted ──┐
//!        else spawn (own session) ────► child ────┤ ends ─► back-off ─► spawn
//! ```
//!
//! It runs in a session of its own, so pods and containerd outlive the agent; the next agent
//! adopts it when its socket answers. A configuration that differs from the one it was started
//! with makes us restart it: shims, and with them the pods, are not touched by that.
//! Only [`stop_all`] takes everything down.

mod settings;
mod stop;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::version_client::VersionClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use crate::config::{Config, Paths};
use client::dirwatch::DirWatch;

pub use settings::{CNI_CONFLIST, CNI_PLUGIN, cni_conflist};
pub(crate) use stop::mounts_below;
pub use stop::stop_all;

/// How long containerd may take until its socket answers.
const START: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Why there is no containerd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not installed.
    #[error("{program} is not installed: install the package {package} (searched in {path})")]
    Missing {
        /// What was looked for.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
        /// Where.
        path: String,
    },
    /// A file of ours cannot be written.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    /// The program cannot be started.
    #[error("cannot start containerd")]
    Spawn(#[source] std::io::Error),
    /// It ended at once, or never answered.
    #[error("containerd does not come up: {0}; its log is {1}")]
    NotUp(String, PathBuf),
    /// The given runtime's socket does not answer.
    #[error("the container runtime at {0} does not answer")]
    Endpoint(String, #[source] tonic::transport::Error),
}

/// A channel to a socket that connects at the first call, and again when it is lost.
///
/// # Errors
/// Never for a sane path; the signature is tonic's.
pub fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = socket.to_owned();
    Ok(
        Endpoint::try_from("http://[::]")?.connect_with_connector_lazy(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?))
            }
        })),
    )
}

/// Finds a program where the system keeps programs.
fn find(program: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    let path = search_path();
    std::env::split_paths(&path)
        .map(|d| d.join(program))
        .find(|p| nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok() && p.is_file())
        .ok_or(Error::Missing { program, package, path })
}

fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Makes sure that a runtime answers, and keeps it so on `tasks` until `cancel`.
///
/// # Errors
/// When a program is missing or containerd does not come up.
pub async fn start(
    config: &Config,
    tasks: &TaskTracker,
    cancel: CancellationToken,
) -> Result<(Channel, PathBuf), Error> {
    if let Some(endpoint) = &config.container_runtime_endpoint {
        let socket = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let channel = channel(&socket).map_err(|e| Error::Endpoint(endpoint.clone(), e))?;
        return Ok((channel, socket));
    }
    let paths = config.paths();
    let program = find("containerd", "containerd")?;
    find("containerd-shim-runc-v2", "containerd")?;
    let runtime = match find("runc", "runc") {
        Ok(p) => p,
        Err(missing) => find("crun", "crun").map_err(|_| missing)?,
    };
    link_cni_programs(config, &paths)?;
    let text = settings::containerd_config(&paths, &runtime);
    let file = paths.containerd_config();
    let unchanged = std::fs::read_to_string(&file).is_ok_and(|old| old == text);
    if !unchanged {
        std::fs::write(&file, text).map_err(|e| Error::Write(file, e))?;
    }
    let socket = paths.containerd_socket();
    let channel = channel(&socket).map_err(|e| Error::Endpoint(socket.display().to_string(), e))?;
    let supervisor = Supervisor { program, paths, channel: channel.clone() };
    let mut running = Running::Adopted;
    if !supervisor.answers().await {
        running = supervisor.spawn().await?;
    } else if !unchanged {
        tracing::info!("containerd is restarted with a new configuration; pods are not affected");
        supervisor.terminate().await;
        running = supervisor.spawn().await?;
    } else {
        tracing::info!(socket = %socket.display(), "adopted the running containerd");
    }
    tasks.spawn(async move {
        let _ = cancel.run_until_cancelled(supervisor.supervise(running)).await;
    });
    Ok((channel, socket))
}

/// The CNI programs are our own executable under other names.
fn link_cni_programs(config: &Config, paths: &Paths) -> Result<(), Error> {
    [CNI_PLUGIN, net::cni::LOOPBACK].into_iter().try_for_each(|name| link_cni_program(config, paths, name))
}

fn link_cni_program(config: &Config, paths: &Paths, name: &str) -> Result<(), Error> {
    let link = paths.cni_bin().join(name);
    let own = config.cni_program.clone().or_else(|| std::env::current_exe().ok()).unwrap_or_default();
    if std::fs::read_link(&link).is_ok_and(|t| t == own) {
        return Ok(());
    }
    let fresh = link.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&own, &fresh)
        .and_then(|()| std::fs::rename(&fresh, &link))
        .map_err(|e| Error::Write(link, e))
}

enum Running {
    /// Started by an earlier agent: its end shows as the end of an event stream.
    Adopted,
    /// Our child.
    Child(Child),
}

struct Supervisor {
    program: PathBuf,
    paths: Paths,
    channel: Channel,
}

impl Supervisor {
    async fn answers(&self) -> bool {
        let ask = VersionClient::new(self.channel.clone()).version(()).await;
        ask.is_ok()
    }

    async fn spawn(&self) -> Result<Running, Error> {
        let log_path = self.paths.containerd_log();
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = open().and_then(|f| Ok((f.try_clone()?, f))).map_err(|e| Error::Write(log_path.clone(), e))?;
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.paths.containerd_config())
            .env("PATH", search_path())
            .env_remove("NOTIFY_SOCKET")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.0))
            .stderr(Stdio::from(log.1));
        // SAFETY: setsid is async-signal-safe and touches nothing of the parent's memory. It is
        // what lets containerd outlive the agent's terminal and session.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(std::io::Error::from));
        }
        let state = self.paths.containerd_state();
        let mut appears = DirWatch::new(&state).map_err(|e| Error::Write(state, e))?;
        // A socket of a containerd that died would answer with "connection refused" only.
        let _ = std::fs::remove_file(self.paths.containerd_socket());
        let mut child = command.spawn().map_err(Error::Spawn)?;
        if let Some(pid) = child.id() {
            let file = self.paths.containerd_pid();
            std::fs::write(&file, format!("{pid}\n")).map_err(|e| Error::Write(file, e))?;
        }
        let not_up = |why: String| Error::NotUp(why, log_path.clone());
        let up = async {
            let socket = self.paths.containerd_socket();
            while !self.answers().await {
                if socket.exists() {
                    // Between bind and listen, of which nothing tells.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                } else if appears.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = up => Ok(Running::Child(child)),
            ended = child.wait() => Err(not_up(match ended {
                Ok(s) => s.code().map_or_else(|| format!("signal {:?}", s.signal()), |c| format!("it ended with code {c}")),
                Err(e) => e.to_string(),
            })),
            () = tokio::time::sleep(START) => Err(not_up(format!("no answer after {} s", START.as_secs()))),
        }
    }

    fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.paths.containerd_pid()).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    /// Waits until containerd closes a stream of events of which there are none.
    async fn ended(&self) {
        let none = SubscribeRequest { filters: vec!["topic==\"/sampan/none\"".into()] };
        if let Ok(stream) = EventsClient::new(self.channel.clone()).subscribe(none).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
    }

    async fn terminate(&self) {
        let Some(pid) = self.pid() else { return };
        let none = self.ended();
        tokio::pin!(none);
        // Subscribe before the signal, so that the end cannot be missed.
        let _ = tokio::time::timeout(Duration::from_millis(200), &mut none).await;
        if kill(pid, Signal::SIGTERM).is_err() {
            return;
        }
        if tokio::time::timeout(Duration::from_secs(10), none).await.is_err() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    async fn supervise(self, mut running: Running) {
        let mut backoff = Duration::from_millis(100);
        loop {
            let since = std::time::Instant::now();
            match &mut running {
                Running::Adopted => {
                    self.ended().await;
                    if self.answers().await {
                        continue;
                    }
                }
                Running::Child(child) => {
                    let status = child.wait().await;
                    tracing::error!(?status, "containerd ended");
                }
            }
            if since.elapsed() > Duration::from_secs(60) {
                backoff = Duration::from_millis(100);
            }
            loop {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                match self.spawn().await {
                    Ok(r) => {
                        tracing::info!("containerd runs again");
                        running = r;
                        break;
                    }
                    Err(e) => tracing::error!(error = %e, "containerd does not start"),
                }
            }
        }
    }
}
