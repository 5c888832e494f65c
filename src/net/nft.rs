//! Handing rules to the kernel through the `nft` program.
//!
//! Rules travel as text: named verdict maps and `typeof` maps, which the proxy is made of, have no
//! form in the `nftables` crate's types. Whole tables have, and are taken away through it.

use crate::proxy::Stale;
use async_trait::async_trait;
use nftables::batch::Batch;
use nftables::helper::{DEFAULT_ARGS, DEFAULT_NFT, NftablesError, apply_ruleset_with_args_async};
use nftables::schema::{NfListObject, Table};
use nftables::types::NfFamily;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why a script was not applied.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program could not be run.
    #[error("run nft: {0}")]
    Run(#[from] io::Error),
    /// The kernel or the program refused the script; nothing of it took effect.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// A place rules are applied to.
#[async_trait]
pub trait Nft: Send + Sync {
    /// Applies a script as one transaction: all of it or nothing.
    async fn apply(&self, script: &str) -> Result<(), NftError>;

    /// Takes the tables of a name away; none is fine too.
    async fn remove_tables(&self, name: &str) -> Result<(), NftError>;

    /// Forgets tracked connections that would keep going to an endpoint that
    /// is gone. Best effort: a machine without the `conntrack` program waits
    /// for the kernel's own timeout.
    async fn forget(&self, stale: &Stale);
}

/// The machine's own `nft`.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    netns: Option<PathBuf>,
}

impl Kernel {
    /// Rules of the network namespace this process is in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rules of the network namespace at a path such as `/run/netns/NAME`.
    pub fn in_netns(path: impl Into<PathBuf>) -> Self {
        Self { netns: Some(path.into()) }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = match &self.netns {
            None => Command::new(program),
            Some(path) => {
                let mut enter = Command::new("nsenter");
                enter.arg(format!("--net={}", path.display())).arg(program);
                enter
            }
        };
        command.kill_on_drop(true);
        command
    }
}

#[async_trait]
impl Nft for Kernel {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        let mut child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that stops reading early says why on its error output.
            if let Err(error) = stdin.write_all(script.as_bytes()).await {
                tracing::debug!(%error, "nft stopped reading");
            }
        }
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(NftError::Refused(said.chars().take(2000).collect()))
    }

    async fn remove_tables(&self, name: &str) -> Result<(), NftError> {
        let mut batch = Batch::new();
        for family in [NfFamily::IP, NfFamily::IP6] {
            let table = || NfListObject::Table(Table { family, name: name.into(), handle: None });
            // Naming it first makes the deletion succeed when there is none.
            batch.add(table());
            batch.delete(table());
        }
        let batch = batch.to_nftables();
        let done = match &self.netns {
            None => apply_ruleset_with_args_async(&batch, DEFAULT_NFT, DEFAULT_ARGS).await,
            Some(path) => {
                let arguments = [format!("--net={}", path.display()), "nft".to_owned()];
                apply_ruleset_with_args_async(&batch, Some("nsenter"), &arguments).await
            }
        };
        done.map_err(|e| match e {
            NftablesError::NftExecution { inner, .. } => NftError::Run(inner),
            NftablesError::NftFailed { stderr, .. } => NftError::Refused(stderr),
            other => NftError::Refused(other.to_string()),
        })
    }

    async fn forget(&self, stale: &Stale) {
        let mut command = self.command("conntrack");
        command.args(["-D", "-p", stale.front.protocol.as_str()]);
        command.args(["--orig-dst", &stale.front.addr.to_string()]);
        command.args(["--orig-port-dst", &stale.front.port.to_string()]);
        if let Some(endpoint) = stale.endpoint {
            command.args(["--reply-src", &endpoint.addr.to_string()]);
        }
        // The program fails when no connection matched, which is as good.
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Err(error) = done.await {
            tracing::debug!(%error, "conntrack did not run");
        }
    }
}

/// Remembers what it was told instead of doing it.
#[derive(Debug, Default)]
pub struct Fake {
    scripts: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<Stale>>,
    refusals: Mutex<usize>,
}

impl Fake {
    /// Refuses the next `count` scripts.
    pub fn refuse(&self, count: usize) {
        *lock(&self.refusals) = count;
    }

    /// The scripts applied since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.scripts))
    }

    /// The connections forgotten since the last call.
    pub fn take_forgotten(&self) -> Vec<Stale> {
        std::mem::take(&mut *lock(&self.forgotten))
    }
}

#[async_trait]
impl Nft for Fake {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        let mut refusals = lock(&self.refusals);
        if *refusals > 0 {
            *refusals -= 1;
            return Err(NftError::Refused("told to".into()));
        }
        lock(&self.scripts).push(script.to_owned());
        Ok(())
    }

    async fn remove_tables(&self, name: &str) -> Result<(), NftError> {
        lock(&self.scripts).push(format!("remove {name}"));
        Ok(())
    }

    async fn forget(&self, stale: &Stale) {
        lock(&self.forgotten).push(stale.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
