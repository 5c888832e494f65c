//! `sampan uninstall`: takes everything back that this version puts on a machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Flags of `sampan uninstall`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The data directory to remove.
    #[arg(long, short = 'd', env = "SAMPAN_DATA_DIR", default_value = "/var/lib/sampan")]
    data_dir: PathBuf,
    /// The kubeconfig to remove.
    #[arg(long, env = "SAMPAN_WRITE_KUBECONFIG", default_value = "/etc/sampan/sampan.yaml")]
    write_kubeconfig: PathBuf,
    /// Do it; without this flag only tell what would be removed.
    #[arg(long)]
    yes: bool,
}

/// Removes data directory and kubeconfig, unless a server is still running on them.
pub fn run(flags: &Flags) -> Result<()> {
    let store = flags.data_dir.join("server/db");
    if store.exists() {
        // Holding the store's lock proves that no server uses the directory.
        match store::DurableStore::open(store::Options::new(&store)) {
            Err(store::Error::Locked(_)) => {
                bail!("a server is running on {}; stop it first", flags.data_dir.display())
            }
            // A damaged store is no reason not to remove it.
            _ => {}
        }
    }
    let mut targets: Vec<&Path> = [flags.data_dir.as_path(), flags.write_kubeconfig.as_path()].to_vec();
    targets.retain(|p| p.exists());
    if targets.is_empty() {
        println!("Nothing to remove.");
        return Ok(());
    }
    for path in &targets {
        if !flags.yes {
            println!("would remove {}", path.display());
            continue;
        }
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
        println!("removed {}", path.display());
    }
    if !flags.yes {
        println!("Nothing was removed yet: run `sampan uninstall --yes`.");
    }
    Ok(())
}
