//! Several hosts on one machine: each a network namespace with an address on a common switch (a
//! bridge in a namespace of its own, so that the machine's own network is not touched), its own
//! directories, its own containerd and its own part of the cgroup tree.
//!
//! Everything is taken back, also after a failure; what a killed run left behind is taken back by
//! the next.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{PATIENCE, end, has};

static NUMBER: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "sampanlab";

/// What a lab needs and this machine lacks.
pub fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("hosts need root".into());
    }
    let programs = ["containerd", "runc", "busybox", "ip", "nft", "nsenter", "kubectl"];
    programs.iter().find(|p| !has(p)).map(|p| format!("{p} is not installed"))
}

fn ip(arguments: &[&str]) {
    let out = Command::new("ip").args(arguments).output().unwrap();
    assert!(out.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A switch and the hosts on it.
pub struct Lab {
    name: String,
    directory: PathBuf,
    hosts: u8,
}

impl Lab {
    /// A switch without hosts.
    pub fn new() -> Lab {
        sweep();
        let name = format!("{PREFIX}{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory).unwrap();
        crate::image::write(&directory.join("image.tar"));
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "add", "lan", "type", "bridge"]);
        ip(&["-n", &name, "addr", "add", "10.99.0.254/24", "dev", "lan"]);
        ip(&["-n", &name, "link", "set", "lan", "up"]);
        Lab { name, directory, hosts: 0 }
    }

    /// Plugs a new host in.
    pub fn host(&mut self) -> Host {
        self.hosts += 1;
        let n = self.hosts;
        let (netns, port) = (format!("{}h{n}", self.name), format!("p{n}"));
        ip(&["netns", "add", &netns]);
        ip(&["-n", &self.name, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &netns]);
        ip(&["-n", &self.name, "link", "set", &port, "master", "lan", "up"]);
        let address = format!("10.99.0.{n}");
        ip(&["-n", &netns, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &netns, "link", "set", "eth0", "up"]);
        ip(&["-n", &netns, "link", "set", "lo", "up"]);
        ip(&["-n", &netns, "route", "add", "default", "via", "10.99.0.254"]);
        let directory = self.directory.join(format!("h{n}"));
        let images = directory.join("data/agent/images");
        std::fs::create_dir_all(&images).unwrap();
        std::fs::hard_link(self.directory.join("image.tar"), images.join("image.tar")).unwrap();
        Host { name: format!("h{n}"), switch: self.name.clone(), port, netns, address, directory, child: None }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        take_back(&self.name);
    }
}

/// One host. It is taken back with its lab's switch, or when dropped.
pub struct Host {
    pub name: String,
    pub address: String,
    directory: PathBuf,
    switch: String,
    port: String,
    netns: String,
    child: Option<Child>,
}

impl Host {
    /// A command that runs on this host.
    pub fn command(&self, program: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        c.env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null());
        c
    }

    fn sampan(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_sampan"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig.yaml")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn directories(&self) -> [String; 2] {
        let flag = |name: &str, dir: &str| format!("--{name}={}", self.directory.join(dir).display());
        [flag("data-dir", "data"), flag("run-dir", "run")]
    }

    fn cgroup(&self) -> String {
        format!("--cgroup-root=/{}", self.netns)
    }

    fn start(&mut self, mut command: Command) {
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        command.args(self.directories()).arg(self.cgroup()).arg(format!("--node-name={}", self.name));
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Waits until the log says something.
    pub fn says(&mut self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let why = if ended.is_some() { "ended" } else { "is too slow" };
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "{} {why}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a server with an agent here and waits for its API.
    pub fn serve(&mut self, flags: &[&str]) {
        let mut c = self.sampan();
        c.arg("server").arg(format!("--write-kubeconfig={}", self.kubeconfig().display())).args(flags);
        self.start(c);
        self.says("the API is ready");
    }

    /// Starts a server here that does not find a program, without waiting.
    pub fn serve_without(&mut self, program: &str) {
        let which = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().stdout;
        let path = String::from_utf8(which).unwrap().trim().to_owned();
        let mut c = self.command("unshare");
        c.args(["--mount", "sh", "-c", "mount --bind /dev/null \"$1\" && shift && exec \"$@\"", "sh", &path]);
        c.arg(env!("CARGO_BIN_EXE_sampan")).arg("server");
        c.arg(format!("--write-kubeconfig={}", self.kubeconfig().display()));
        self.start(c);
    }

    /// Waits until what runs here has ended by itself; whether it succeeded.
    pub fn ended(&mut self) -> bool {
        self.child.take().unwrap().wait().unwrap().success()
    }

    /// Starts an agent here with the words of a join command, without waiting.
    pub fn join(&mut self, command: &str) {
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("sampan"));
        let mut c = self.sampan();
        c.args(words);
        self.start(c);
    }

    /// Starts the agent of a host that has joined before.
    pub fn rejoin(&mut self) {
        self.join("sampan agent");
    }

    /// Runs `sampan` and returns what it prints; it must succeed.
    pub fn sampan_says(&self, arguments: &[&str]) -> String {
        succeeded(self.sampan().args(arguments))
    }

    /// Runs kubectl against the server of this host; it must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(self.kubectl_command().args(arguments))
    }

    pub fn kubectl_command(&self) -> Command {
        self.kubectl_of("kubectl")
    }

    /// The kubectl that is this program.
    pub fn kubectl_of(&self, program: &str) -> Command {
        let mut c = self.command(program);
        c.arg("--cache-dir").arg(self.directory.join("kubectl-cache"));
        c
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        let file = self.directory.join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// The words of a JSONPath.
    pub fn words(&self, object: &str, path: &str) -> Vec<String> {
        let output = format!("jsonpath={{{path}}}");
        let mut arguments: Vec<&str> = std::iter::once("get").chain(object.split(' ')).collect();
        arguments.extend(["-o", &output]);
        self.kubectl(&arguments).split_whitespace().map(str::to_owned).collect()
    }

    /// Reads a URL from this host; `None` when nothing answers within two seconds.
    pub fn reads(&self, url: &str) -> Option<String> {
        let out = self.command("timeout").args(["2", "busybox", "wget", "-q", "-O", "-", url]).output().unwrap();
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Takes the cable out, or puts it back in.
    pub fn link(&self, state: &str) {
        ip(&["-n", &self.switch, "link", "set", &self.port, state]);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// Ends what runs here as a service manager does.
    pub fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }

    /// `sampan uninstall`, while the server or agent still runs.
    pub fn uninstall(&mut self) -> Output {
        let mut c = self.sampan();
        c.arg("uninstall").args(self.directories()).arg(self.cgroup());
        let out = c.arg(format!("--write-kubeconfig={}", self.kubeconfig().display())).output().unwrap();
        self.stop();
        out
    }

    /// What is mounted below this host's folder. The network namespaces of its pods are among it,
    /// and so found by `traces` if they stay.
    pub fn mounts(&self) -> Vec<String> {
        let here = self.directory.display().to_string();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        mounts.lines().filter(|l| l.contains(&here)).map(str::to_owned).collect()
    }

    /// What a host that was never used would not have: processes, links, rules, mounts, cgroups, files.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut look = |what: &str, lines: Vec<String>| found.extend(lines.into_iter().map(|l| format!("{what}: {l}")));
        let text = |c: &mut Command| String::from_utf8_lossy(&c.output().unwrap().stdout).into_owned();
        let lines = |t: String| t.lines().map(str::to_owned).collect::<Vec<_>>();
        look("process", lines(text(Command::new("ip").args(["netns", "pids", &self.netns]))));
        let links = lines(text(self.command("ip").args(["-o", "link"])));
        look("link", links.into_iter().filter(|l| !l.contains(": lo:") && !l.contains(": eth0@")).collect());
        look("nftables", lines(text(self.command("nft").args(["list", "tables"]))));
        look("mount", self.mounts());
        look("cgroup", cgroups(&self.netns).iter().map(|p| p.display().to_string()).collect());
        for dir in ["data", "run", "kubeconfig.yaml"] {
            let path = self.directory.join(dir);
            if path.exists() {
                look("file", vec![path.display().to_string()]);
            }
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log());
        }
        let _ = self.uninstall();
    }
}

/// Runs a command, which must succeed, and returns what it printed.
pub fn succeeded(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{command:?}: {}\n{text}", String::from_utf8_lossy(&out.stderr));
    text
}

/// Cgroups of a name, in all hierarchies.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    roots.chain([PathBuf::from("/sys/fs/cgroup")]).map(|r| r.join(name)).filter(|p| p.exists()).collect()
}

/// Removes all namespaces and files of a lab, and whatever still runs in them.
fn take_back(name: &str) {
    let list = Command::new("ip").args(["netns", "list"]).output().map(|o| o.stdout).unwrap_or_default();
    let list = String::from_utf8_lossy(&list).into_owned();
    let own = list.lines().filter_map(|l| l.split_whitespace().next()).filter(|n| {
        n.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('h') || rest.starts_with('x'))
    });
    for netns in own {
        let pids = Command::new("ip").args(["netns", "pids", netns]).output().map(|o| o.stdout).unwrap_or_default();
        for pid in String::from_utf8_lossy(&pids).split_whitespace().filter_map(|p| p.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        let _ = Command::new("ip").args(["netns", "del", netns]).status();
    }
    let directory = std::env::temp_dir().join(name);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = directory.display().to_string();
    for mount in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|m| m.starts_with(&below)) {
        let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
    }
    let _ = std::fs::remove_dir_all(directory);
}

/// Takes back what runs that were killed have left.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|r| r.split('x').next());
        if pid.is_some_and(|p| !std::path::Path::new("/proc").join(p).exists()) {
            take_back(&name);
        }
    }
}
