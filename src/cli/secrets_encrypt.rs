//! `sampan secrets-encrypt`: the keys that stored secrets are encrypted with, asked for and
//! changed over the API with the administrator's kubeconfig while the server runs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use client::Api;
use client::encryption::{CONFIG_PATH, Change, STATUS_PATH, Status};
use tokio_util::task::TaskTracker;

use super::kubeconfig;

/// Flags of `sampan secrets-encrypt`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
    /// The administrator's kubeconfig.
    #[arg(long, env = "KUBECONFIG", default_value = "/etc/sampan/sampan.yaml", global = true)]
    kubeconfig: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Command {
    /// Show whether stored secrets are encrypted, and with which key.
    Status,
    /// Make a new key, encrypt everything with it and drop the old one.
    #[command(visible_alias = "rotate")]
    RotateKeys,
    /// Encrypt stored secrets.
    Enable,
    /// Store secrets as they are.
    Disable,
}

/// Runs `sampan secrets-encrypt`.
pub fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let https = kubeconfig::Access::read(&flags.kubeconfig)?.https(&TaskTracker::new())?;
        let change = match flags.command {
            Command::Status => None,
            Command::RotateKeys => Some(Change::RotateKeys),
            Command::Enable => Some(Change::Enable),
            Command::Disable => Some(Change::Disable),
        };
        let answer = match change {
            None => https.raw_get(STATUS_PATH).await?,
            Some(c) => https.post(CONFIG_PATH, serde_json::to_vec(&c)?.into()).await?,
        };
        let status: Status = serde_json::from_slice(&answer).context("the server sent no status of the encryption")?;
        print!("{}", shown(&status));
        Ok(())
    })
}

fn shown(status: &Status) -> String {
    let mut text = format!(
        "Encryption Status: {}\nEncrypted Resources: {}\nRotation: {}\n\nActive  Key Type  Name\n------  --------  ----\n",
        if status.enabled { "Enabled" } else { "Disabled" },
        status.resources.join(", "),
        if status.changing { "in progress" } else { "finished" },
    );
    for key in &status.keys {
        text += &format!("{:<8}AES-GCM   {}\n", if key.active { " *" } else { "" }, key.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use client::encryption::KeyStatus;

    use super::*;

    #[test]
    fn the_active_key_is_marked() {
        let keys = [("new", true), ("old", false)].map(|(n, active)| KeyStatus { name: n.into(), active }).to_vec();
        let status = Status { enabled: true, changing: true, resources: vec!["secrets".into()], keys };
        let text = shown(&status);
        assert!(text.contains("Encryption Status: Enabled\n") && text.contains("Rotation: in progress"), "{text}");
        assert!(text.contains(" *      AES-GCM   new\n        AES-GCM   old\n"), "{text}");
    }
}
