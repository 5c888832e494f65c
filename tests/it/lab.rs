//! A server of its own for each test: own directory, own port, ended and removed afterwards,
//! also when the test fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    directory: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|d| d.join(program).is_file())
}

/// Tells that a test did not run, and why.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Ends a process as a service manager does: asks it, and kills it when it takes too long.
pub fn end(mut child: Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
    let (ended, waits) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|s| {
        s.spawn(move || {
            if waits.recv_timeout(Duration::from_secs(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
            }
        });
        child.wait().unwrap();
        drop(ended);
    });
}

impl Cluster {
    /// Starts a server without workloads.
    pub fn start() -> Cluster {
        Cluster::with(&["--disable-agent"])
    }

    /// Starts a server with flags.
    pub fn with(flags: &[&str]) -> Cluster {
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("sampan-it-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let flags = flags.iter().map(|f| f.replace("{dir}", &directory.display().to_string())).collect();
        let mut cluster = Cluster { directory, flags, child: None };
        cluster.run();
        cluster
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["server", "--https-listen-port=0", "--bind-address=127.0.0.1"])
            .arg("--data-dir")
            .arg(self.directory.join("data"))
            .arg("--write-kubeconfig")
            .arg(self.kubeconfig())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts the process again on the same directory.
    pub fn run(&mut self) {
        self.spawn();
        let start = Instant::now();
        while !self.log().contains("the API is ready") {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "the server did not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the process, which must fail by itself, and returns what it said.
    pub fn run_in_vain(&mut self) -> String {
        self.spawn();
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(!status.success(), "the server ended well:\n{}", self.log());
                return self.log();
            }
            if start.elapsed() > PATIENCE || self.log().contains("the API is ready") {
                self.child = Some(child);
                panic!("the server did not refuse to start");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// `kill -9`; the process may be dead already.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// Ends the server as a service manager does.
    pub fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }

    /// `https://host:port` of the API.
    pub fn url(&self) -> String {
        self.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig.yaml")
    }

    /// Runs kubectl with input and returns what came of it.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.directory.join("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is needed");
        // kubectl may refuse its arguments before it reads anything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs kubectl, which must succeed, and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.apply_with(arguments, "")
    }

    pub fn apply_with(&self, arguments: &[&str], input: &str) -> String {
        let out = self.kubectl_with(arguments, input);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "kubectl {arguments:?}: {}\n{text}", String::from_utf8_lossy(&out.stderr));
        text
    }

    pub fn apply(&self, manifest: &str) -> String {
        self.apply_with(&["apply", "-f", "-"], manifest)
    }

    /// Runs kubectl, which must fail, and returns what it complained about.
    pub fn refused(&self, arguments: &[&str], input: &str) -> String {
        let out = self.kubectl_with(arguments, input);
        assert!(!out.status.success(), "kubectl {arguments:?} should have failed");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// One field of one object by JSONPath.
    pub fn field(&self, object: &[&str], path: &str) -> String {
        let mut arguments = vec!["get"];
        arguments.extend(object);
        let output = format!("jsonpath={{{path}}}");
        arguments.extend(["-o", &output, "--ignore-not-found"]);
        self.kubectl(&arguments)
    }

    /// A ready node that runs nothing: its lease is fresh for as long as a test takes.
    pub fn add_fake_node(&self, name: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}}}}}\n"
        ));
        let status = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}],
            "allocatable":{"cpu":"4","memory":"8Gi","pods":"110"},"capacity":{"cpu":"4","memory":"8Gi","pods":"110"}}}"#;
        self.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", status]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.directory.display(), self.log());
        }
        self.stop();
        // Where an agent ran, containerd outlives the server on purpose.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
