//! `sampan check`: what this machine lacks, and how to get it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `sampan check`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Print nothing but what is missing.
    #[arg(long, short)]
    quiet: bool,
}

struct Finding {
    what: &'static str,
    /// What is there; `Err` holds what to do.
    state: Result<String, String>,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(standard).map(|d| d.join(name)).find(|p| p.is_file())
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

fn need(what: &'static str, names: &[&str], package: &str) -> Finding {
    let found = names.iter().find_map(|n| program(n));
    Finding { what, state: found.map(|p| p.display().to_string()).ok_or_else(|| install(package)) }
}

fn findings() -> Vec<Finding> {
    let root = nix::unistd::geteuid().is_root();
    let cgroups =
        ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory"].into_iter().find(|p| Path::new(p).exists());
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let overlay = filesystems.lines().any(|l| l.trim_start_matches("nodev").trim() == "overlay");
    vec![
        Finding {
            what: "root", state: if root { Ok("yes".into()) } else { Err("run as root: sudo sampan …".into()) }
        },
        need("containerd", &["containerd"], "containerd"),
        need("OCI runtime", &["runc", "crun"], "runc"),
        need("nftables", &["nft"], "nftables"),
        Finding {
            what: "cgroups",
            state: cgroups.map(str::to_owned).ok_or_else(|| "mount the cgroup file system at /sys/fs/cgroup".into()),
        },
        Finding {
            what: "overlayfs",
            state: if overlay { Ok("in the kernel".into()) } else { Err("load it: modprobe overlay".into()) },
        },
    ]
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
