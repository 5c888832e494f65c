//! Sampan: Kubernetes in one executable.
//!
//! Parses the command line and dispatches; everything else is in [`cli`] and the workspace's
//! members (docs/ARCHITECTURE.md).

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
