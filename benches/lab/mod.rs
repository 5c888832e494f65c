//! What the benchmarks share: a host of their own, a server on it, and how figures are printed.
//!
//! `SAMPAN_BENCH_DIR` chooses the disk, `SAMPAN_BENCH_PROGRAM` another executable. Run as root, a benchmark moves into a network namespace of
//! its own first, since an agent programs the host it runs on.
#![allow(dead_code, reason = "no benchmark uses all of it")]

pub mod etcd;
#[path = "../../tests/it/https.rs"]
pub mod https;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;

use https::{Connection, Endpoint};

const INSIDE: &str = "SAMPAN_BENCH_INSIDE";
const CGROUP_ROOT: &str = "/sampan-bench";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a namespace needs to be a host: loopback, a link, an address, a default route.
const HOST: &str = "ip link set lo up && ip link add bench0 type veth peer name bench1 && \
    ip address add 198.18.0.10/24 dev bench0 && ip link set bench0 up && ip link set bench1 up && \
    ip route add default dev bench0 && exec \"$0\" \"$@\"";

/// Starts this process again on a host of its own; returns on that host, or, without the
/// rights to make one, where it is.
pub fn on_own_host() {
    if std::env::var_os(INSIDE).is_some() || !can_run_a_node() {
        return;
    }
    let error = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", HOST])
        .args(std::env::args_os())
        .env(INSIDE, "1")
        .exec();
    eprintln!("no host of its own: {error}");
}

/// Whether this machine has what an agent needs.
pub fn can_run_a_node() -> bool {
    let directories = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(Path::new);
    nix::unistd::geteuid().is_root()
        && ["containerd", "runc", "nft", "unshare", "ip"].iter().all(|p| directories.iter().any(|d| d.join(p).exists()))
}

/// The executable that is measured.
fn sampan() -> PathBuf {
    std::env::var_os("SAMPAN_BENCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_sampan").into(), PathBuf::from)
}

/// A server in a directory of its own, removed with it.
pub struct Server {
    child: Child,
    directory: tempfile::TempDir,
    agent: bool,
    started: Instant,
}

/// A directory on the disk that is measured.
pub fn directory() -> tempfile::TempDir {
    let made = match std::env::var_os("SAMPAN_BENCH_DIR") {
        Some(base) => tempfile::tempdir_in(base),
        None => tempfile::tempdir(),
    };
    made.expect("a directory for the benchmark")
}

impl Server {
    /// Starts a server on a fresh directory, with an agent or without.
    pub fn start(agent: bool) -> Server {
        let directory = directory();
        Server { child: spawn(directory.path(), agent), directory, agent, started: Instant::now() }
    }

    /// Ends it as a service manager does, and starts it again on the same directory.
    pub fn restart(&mut self) {
        self.stop();
        self.started = Instant::now();
        self.child = spawn(self.directory.path(), self.agent);
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Waits until the API answers a request over HTTPS.
    pub async fn answers(&self) -> (Endpoint, Connection) {
        while self.started.elapsed() < PATIENCE {
            if let Ok(endpoint) = Endpoint::of(&self.kubeconfig())
                && let Ok(mut api) = endpoint.connect().await
                && api.send(Method::GET, "/api/v1/namespaces/default", "").await.is_ok()
            {
                return (endpoint, api);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the server does not answer; its log:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, agent: bool) -> Child {
    let log = std::fs::File::create(directory.join("log")).expect("a log");
    // What an earlier server wrote there must not pass for an answer of the next.
    let _ = std::fs::remove_file(directory.join("kubeconfig"));
    let mut command = Command::new(sampan());
    command.args(["server", "--bind-address=127.0.0.1", "--https-listen-port=0"]);
    if agent {
        command.args(["--kubelet-port=0", "--node-name=bench", "--cgroup-root", CGROUP_ROOT]);
    } else {
        command.arg("--disable-agent");
    }
    places(&mut command, directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the server starts")
}

fn places<'a>(command: &'a mut Command, directory: &Path) -> &'a mut Command {
    command.arg("--data-dir").arg(directory.join("data")).arg("--run-dir").arg(directory.join("run"));
    command.arg("--write-kubeconfig").arg(directory.join("kubeconfig"))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if self.agent {
            let mut command = Command::new(sampan());
            command.args(["uninstall", "--yes", "--cgroup-root", CGROUP_ROOT]);
            let ended = places(&mut command, self.directory.path()).output();
            if !ended.is_ok_and(|o| o.status.success()) {
                eprintln!("the node was not taken back in {}", self.directory.path().display());
            }
        }
    }
}

/// Prints the heading of a table of figures.
pub fn heading(subject: &str) {
    println!("{subject:<46}{:>16}{:>16}", "measured", "target");
}

/// Prints a figure beside its target, and whether it is met.
pub fn figure(name: &str, value: f64, unit: &str, target: Target) {
    let (text, met) = match target {
        Target::AtMost(t) => (format!("<= {t} {unit}"), value <= t),
        Target::AtLeast(t) => (format!(">= {t} {unit}"), value >= t),
        Target::None => (String::new(), true),
    };
    let digits = if value < 10.0 { 2 } else { 0 };
    println!("{name:<46}{:>16}{text:>16}{}", format!("{value:.digits$} {unit}"), if met { "" } else { "  missed" });
}

/// What DESIGN.md promises of a figure.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// The given percentile of some measurements, in milliseconds.
pub fn percentile(measured: &mut [Duration], part: f64) -> f64 {
    measured.sort_unstable();
    let at = ((measured.len().max(1) - 1) as f64 * part) as usize;
    measured.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}

/// What one durable write costs without a store: a loop of write and fdatasync.
pub fn raw_writes(bytes: usize, time: Duration) -> Vec<Duration> {
    let directory = directory();
    let mut file = std::fs::File::create(directory.path().join("raw")).expect("a file");
    let value = vec![7; bytes];
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        file.write_all(&value).and_then(|()| file.sync_data()).expect("a durable write");
        latencies.push(start.elapsed());
    }
    latencies
}

/// The number behind `name` in a file of `/proc` with a name and a number on each line.
pub fn number(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A process's share of memory.
pub fn pss_mib(pid: u32) -> f64 {
    number(&format!("/proc/{pid}/smaps_rollup"), "Pss") as f64 / 1024.0
}

/// The processor time that a process has used.
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: the twelfth and thirteenth field, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}
