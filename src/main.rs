//! Sampan: Kubernetes in one executable.
//!
//! Parses the command line and dispatches; everything else is in [`cli`] and the workspace's
//! members (docs/ARCHITECTURE.md).

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // containerd calls this executable under the names of the CNI plugins.
    let called = std::env::args_os().next().unwrap_or_default();
    match std::path::Path::new(&called).file_name().and_then(|n| n.to_str()) {
        Some(agent::containerd::CNI_PLUGIN) => net::cni::plugin_main(),
        Some(net::cni::LOOPBACK) => net::cni::loopback_main(),
        _ => cli::run(),
    }
}
