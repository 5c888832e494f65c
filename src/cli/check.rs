//! `sampan check`: what this machine lacks, and how to get it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

/// Flags of `sampan check`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Print nothing but what is missing.
    #[arg(long, short)]
    quiet: bool,
}

/// When something is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Always.
    Node,
    /// Where no other container runtime is named.
    OwnRuntime,
    /// The kernel may bring it when it is asked for.
    Later,
}

struct Finding {
    what: &'static str,
    need: Need,
    /// What is there; `Err` holds what to do.
    state: Result<String, String>,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(standard).map(|d| d.join(name)).find(|p| executable(p))
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The command that installs a package on this distribution.
fn install(package: &str) -> String {
    let managers = [
        ("apt-get", "apt-get install -y"),
        ("dnf", "dnf install -y"),
        ("apk", "apk add"),
        ("zypper", "zypper install -y"),
    ];
    match managers.iter().find(|(m, _)| program(m).is_some()) {
        Some((_, command)) => format!("install it: {command} {package}"),
        None => format!("install the package {package}"),
    }
}

fn programs(what: &'static str, need: Need, names: &[&str], package: &str) -> Finding {
    let found = names.iter().find_map(|n| program(n));
    Finding { what, need, state: found.map(|p| p.display().to_string()).ok_or_else(|| install(package)) }
}

fn findings() -> Vec<Finding> {
    let root = nix::unistd::geteuid().is_root();
    let cgroups =
        ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory"].into_iter().find(|p| Path::new(p).exists());
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let overlay = filesystems.lines().any(|l| l.trim_start_matches("nodev").trim() == "overlay");
    vec![
        Finding {
            what: "root",
            need: Need::Node,
            state: if root { Ok("yes".into()) } else { Err("run as root: sudo sampan …".into()) },
        },
        programs("containerd", Need::OwnRuntime, &["containerd"], "containerd"),
        programs("OCI runtime", Need::OwnRuntime, &["runc", "crun"], "runc"),
        programs("nftables", Need::Node, &["nft"], "nftables"),
        Finding {
            what: "cgroups",
            need: Need::Node,
            state: cgroups.map(str::to_owned).ok_or_else(|| "mount the cgroup file system at /sys/fs/cgroup".into()),
        },
        Finding {
            what: "overlayfs",
            need: Need::Later,
            state: if overlay { Ok("in the kernel".into()) } else { Err("load it: modprobe overlay".into()) },
        },
    ]
}

/// Makes sure that this machine can run workloads, before anything is started.
///
/// # Errors
/// What is missing, and how to get it.
pub fn require(own_runtime: bool) -> Result<()> {
    let needed = |f: &Finding| f.need == Need::Node || (f.need == Need::OwnRuntime && own_runtime);
    let missing: Vec<String> = findings()
        .into_iter()
        .filter(needed)
        .filter_map(|f| Some(format!("\n  {}: {}", f.what, f.state.err()?)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks what it takes to run workloads:{}", missing.concat())
}

/// Prints what was found; fails when something is missing.
pub fn run(flags: &Flags) -> ExitCode {
    let mut missing = 0;
    for f in findings() {
        match f.state {
            Ok(there) if !flags.quiet => println!("ok       {:<12} {there}", f.what),
            Ok(_) => {}
            Err(advice) => {
                missing += 1;
                println!("missing  {:<12} {advice}", f.what);
            }
        }
    }
    if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
