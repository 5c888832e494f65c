//! Sampan: Kubernetes in one executable.
//!
//! Parses the command line and dispatches; everything else is in [`cli`] and the workspace's
//! members (docs/ARCHITECTURE.md).

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // containerd calls this executable under the name of the CNI plugin.
    let called = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&called).file_name().is_some_and(|n| n == agent::containerd::CNI_PLUGIN) {
        return net::cni::plugin_main();
    }
    cli::run()
}
