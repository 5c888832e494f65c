//! The configuration files of containerd and of CNI.

use std::path::Path;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use crate::config::Paths;
use crate::images::pause;

/// The name of our CNI program.
pub const CNI_PLUGIN: &str = "sampan-cni";
/// The name of the CNI configuration file.
pub const CNI_CONFLIST: &str = "10-sampan.conflist";

/// The CNI configuration: one plugin, which finds the agent by its socket.
pub fn cni_conflist(paths: &Paths, pod_cidrs: &[String]) -> String {
    let list = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "sampan",
        "plugins": [{
            "type": CNI_PLUGIN,
            "socket": paths.cni_socket(),
            "podCIDRs": pod_cidrs,
            "capabilities": {"portMappings": true, "bandwidth": true},
        }],
    });
    format!("{list:#}\n")
}

/// overlayfs cannot be stacked on itself.
fn snapshotter(root: &Path) -> &'static str {
    match statfs(root) {
        Ok(s) if s.filesystem_type() == OVERLAYFS_SUPER_MAGIC => "native",
        _ => "overlayfs",
    }
}

/// Whether this process may lower an oom_score_adj (CAP_SYS_RESOURCE, bit 24).
fn may_lower_oom_score() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| {
            let line = s.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|caps| caps & (1 << 24) != 0)
}

fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|s| s.trim() == "Y")
}

/// containerd's configuration file.
pub fn containerd_config(paths: &Paths, runtime: &Path) -> String {
    let root = paths.containerd_root();
    // A JSON string is a TOML basic string.
    let quoted = |p: &Path| serde_json::Value::from(p.to_string_lossy().into_owned()).to_string();
    format!(
        r#"# Written by sampan at every start.
version = 2
root = {root}
state = {state}
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
  address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  stream_idle_timeout = "4h"
  max_container_log_line_size = 16384
  disable_apparmor = {no_apparmor}
  restrict_oom_score_adj = {restrict}
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  # Below our own folder rather than in /run/netns, so that uninstall knows them all by their place.
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin}
    conf_dir = {cni_conf}

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {certs}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = {runtime}
        SystemdCgroup = false
"#,
        root = quoted(&root),
        state = quoted(&paths.containerd_state()),
        socket = quoted(&paths.containerd_socket()),
        sandbox = pause::NAME,
        no_apparmor = !apparmor(),
        restrict = !may_lower_oom_score(),
        cni_bin = quoted(&paths.cni_bin()),
        cni_conf = quoted(&paths.cni_conf()),
        certs = quoted(&paths.certs_d()),
        snapshotter = snapshotter(&root),
        runtime = quoted(runtime),
    )
}
