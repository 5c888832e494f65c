//! `sampan uninstall`: takes everything back that this version puts on a machine.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::lock::Lock;

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
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Only tell what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// Ends server or agent, pods and containerd, then removes links, rules, directories and kubeconfig.
pub fn run(flags: &Flags) -> Result<()> {
    let logs = pod_logs(&flags.data_dir);
    let paths = agent::Paths::new(&flags.data_dir, &flags.run_dir, &logs);
    let agent = paths.data().exists();
    let mut targets: Vec<&Path> = vec![&flags.data_dir, &flags.run_dir, &flags.write_kubeconfig];
    if agent {
        targets.push(&logs);
    }
    targets.retain(|p| p.exists());
    if targets.is_empty() {
        println!("Nothing to remove.");
        return Ok(());
    }
    if flags.dry_run || !(flags.yes || confirmed(&targets)?) {
        targets.iter().for_each(|p| println!("would remove {}", p.display()));
        return Ok(());
    }
    let _lock = flags.data_dir.exists().then(|| Lock::take_over(&flags.data_dir)).transpose()?;
    if agent {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(agent::containerd::stop_all(&paths, &flags.cgroup_root));
        println!("ended pods and containerd");
        let removed = runtime.block_on(agent::network::remove_all());
        removed.map_err(anyhow::Error::msg).context("the network was not removed")?;
        println!("removed links and rules");
    }
    for path in targets {
        if !path.exists() {
            // It was inside another one.
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
    // Made with the kubeconfig; stays when there is configuration in it.
    let _ = std::fs::remove_dir("/etc/sampan");
    Ok(())
}

/// Asks a person; where there is none, the command itself was the answer.
fn confirmed(targets: &[&Path]) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    let list: Vec<String> = targets.iter().map(|p| p.display().to_string()).collect();
    eprint!("This ends all pods of this machine and removes {}. Go on? [y/N] ", list.join(", "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// Where the agent of a data directory keeps its pods' logs.
pub(super) fn pod_logs(data_dir: &Path) -> PathBuf {
    // A data directory of one's own keeps its logs to itself: several nodes on one machine.
    if data_dir == Path::new("/var/lib/sampan") { "/var/log/pods".into() } else { data_dir.join("agent/logs") }
}
