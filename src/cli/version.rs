//! `sampan version`.

use anyhow::Result;

/// Flags of `sampan version`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What `sampan --version` prints.
pub fn text() -> String {
    format!("{} (Kubernetes {})", env!("CARGO_PKG_VERSION"), api::KUBERNETES_VERSION)
}

/// Prints the version.
pub fn run(flags: &Flags) -> Result<()> {
    if flags.json {
        println!("{}", serde_json::json!({"version": env!("CARGO_PKG_VERSION"), "gitVersion": api::VERSION}));
    } else {
        println!("sampan {}", text());
    }
    Ok(())
}
