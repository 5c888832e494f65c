//! Sampan: Kubernetes in one executable.
//!
//! Parses the command line and dispatches; everything else is in [`cli`] and the workspace's
//! members (docs/ARCHITECTURE.md).

mod cli;

use std::process::ExitCode;

/// Measured beside glibc's: a write takes a quarter less of the processor, and memory that is no
/// longer needed goes back. `.cargo/config.toml` has its settings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // containerd calls this executable under the names of the CNI plugins.
    let called = std::env::args_os().next().unwrap_or_default();
    match std::path::Path::new(&called).file_name().and_then(|n| n.to_str()) {
        Some(agent::containerd::CNI_PLUGIN) => net::cni::plugin_main(),
        Some(net::cni::LOOPBACK) => net::cni::loopback_main(),
        _ => cli::run(),
    }
}
