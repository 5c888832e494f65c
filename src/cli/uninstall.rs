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
    /// The run directory to remove.
    #[arg(long, env = "SAMPAN_RUN_DIR", default_value = "/run/sampan")]
    run_dir: PathBuf,
    /// The cgroup below which pods' cgroups were made.
    #[arg(long, env = "SAMPAN_CGROUP_ROOT", default_value = "")]
    cgroup_root: String,
    /// Do it; without this flag only tell what would be removed.
    #[arg(long)]
    yes: bool,
}

/// Ends pods and containerd, then removes directories and kubeconfig, unless a server is still
/// running on them.
pub fn run(flags: &Flags) -> Result<()> {
    let store = flags.data_dir.join("server/db");
    if store.exists() {
        // Holding the store's lock proves that no server uses the directory.
        // A damaged store is no reason not to remove it.
        if let Err(store::Error::Locked(_)) = store::DurableStore::open(store::Options::new(&store)) {
            bail!("a server is running on {}; stop it first", flags.data_dir.display());
        }
    }
    let logs = pod_logs(&flags.data_dir);
    let paths = agent::Paths::new(&flags.data_dir, &flags.run_dir, &logs);
    if paths.data().exists()
        && let Err(e @ agent::Error::Locked(_)) = agent::lock(&paths)
    {
        bail!("{e}");
    }
    let mut targets: Vec<&Path> = vec![&flags.data_dir, &flags.run_dir, &flags.write_kubeconfig];
    if paths.data().exists() {
        targets.push(&logs);
    }
    targets.retain(|p| p.exists());
    if targets.is_empty() {
        println!("Nothing to remove.");
        return Ok(());
    }
    if flags.yes && paths.data().exists() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(agent::containerd::stop_all(&paths, &flags.cgroup_root));
        println!("ended pods and containerd");
        runtime
            .block_on(agent::network::remove_all())
            .map_err(anyhow::Error::msg)
            .context("the network was not removed")?;
        println!("removed links and rules");
    }
    for path in &targets {
        if !path.exists() {
            // It was inside another one.
            continue;
        }
        if !flags.yes {
            println!("would remove {}", path.display());
            continue;
        }
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            // A disk of its own: the directory that it is mounted on is not ours.
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && is_empty(path) => {
                println!("emptied {}", path.display());
            }
            other => {
                other.with_context(|| format!("cannot remove {}", path.display()))?;
                println!("removed {}", path.display());
            }
        }
    }
    if !flags.yes {
        println!("Nothing was removed yet: run `sampan uninstall --yes`.");
    }
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// Where the agent of a data directory keeps its pods' logs.
pub(super) fn pod_logs(data_dir: &Path) -> PathBuf {
    // A data directory of one's own keeps its logs to itself: several nodes on one machine.
    if data_dir == Path::new("/var/lib/sampan") { "/var/log/pods".into() } else { data_dir.join("agent/logs") }
}
