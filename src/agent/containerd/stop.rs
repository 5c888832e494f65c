//! Takes everything down: pods, shims, containerd, mounts, cgroups. For uninstall and for tests.
//!
//! Processes are found by what they are, never by a broad name: containers by their cgroup,
//! shims by the `-address` of our own socket on their command line, containerd by its pid file
//! and our configuration file on its command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::Paths;
use crate::kubelet::cgroup::Cgroups;

/// Processes whose command line has an argument that fulfils `is`.
fn processes(is: impl Fn(&[String]) -> bool) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let args: Vec<String> = line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if is(&args) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// Mount points at or below one of the roots, the deepest first.
pub(crate) fn mounts_below(roots: &[&Path]) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(p.replace("\\040", " ")))
        .filter(|p| roots.iter().any(|r| p.starts_with(r)))
        .collect();
    // Later mounts cover earlier ones.
    found.reverse();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    found
}

fn shims(paths: &Paths) -> Vec<Pid> {
    let socket = paths.containerd_socket().to_string_lossy().into_owned();
    processes(|args| args.iter().any(|a| a.contains("containerd-shim")) && args.contains(&socket))
}

fn containerds(paths: &Paths) -> Vec<Pid> {
    let file = paths.containerd_config().to_string_lossy().into_owned();
    processes(|args| args.first().is_some_and(|a| a.ends_with("containerd")) && args.contains(&file))
}

/// Kills a set of processes until none is found any more.
async fn kill_until_gone(signal: Signal, find: impl Fn() -> Vec<Pid>) {
    for _ in 0..100 {
        let found = find();
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill(pid, signal);
        }
        // There is no event for the end of a process that is not our child.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills all pods, shims and containerd of this configuration, unmounts what they had mounted and
/// removes their cgroups (below `cgroup_parent`). Afterwards the folders hold plain files only.
pub async fn stop_all(paths: &Paths, cgroup_parent: &str) {
    kill_until_gone(Signal::SIGTERM, || containerds(paths)).await;
    let cgroups = Cgroups::detect(cgroup_parent);
    cgroups.kill_pods().await;
    kill_until_gone(Signal::SIGKILL, || shims(paths)).await;
    let (state, data) = (paths.containerd_state(), paths.data().to_owned());
    for mount in mounts_below(&[&state, &data]) {
        if let Err(e) = umount2(&mount, MntFlags::MNT_DETACH) {
            tracing::warn!(mount = %mount.display(), error = %e, "not unmounted");
        }
    }
    cgroups.remove_all().await;
    for file in [paths.containerd_pid(), paths.containerd_socket()] {
        let _ = std::fs::remove_file(file);
    }
}
