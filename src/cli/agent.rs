//! `sampan agent`: this machine as a node of a cluster whose server is elsewhere.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use agent::identity::{Identity, Invitation};
use anyhow::{Context, Result, bail};
use client::https::Server;
use client::join::JoinToken;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lock::Lock;
use super::{node, process};

/// Flags of `sampan agent`. Names and meanings are k3s's where k3s has the flag.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Configuration file; flags by their names.
    #[arg(long, short, env = "SAMPAN_CONFIG", default_value = super::config_file::DEFAULT)]
    config: PathBuf,
    /// Where everything is kept.
    #[arg(long, short, env = "SAMPAN_DATA_DIR", default_value = "/var/lib/sampan", value_parser = super::absolute)]
    data_dir: PathBuf,
    /// A server of the cluster, as https://<host>:6443. Needed until this machine has joined.
    #[arg(long, alias = "server", short = 'j', env = "SAMPAN_JOIN", value_parser = server)]
    join: Option<Server>,
    /// The join token. Needed until this machine has joined.
    #[arg(long, short, env = "SAMPAN_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the join token.
    #[arg(long, env = "SAMPAN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    node: node::Flags,
    /// Log more.
    #[arg(long, env = "SAMPAN_DEBUG")]
    debug: bool,
}

fn server(text: &str) -> Result<Server, String> {
    text.parse()
}

impl Flags {
    fn invitation(&self) -> Result<Option<Invitation>> {
        let token = match (&self.token, &self.token_file) {
            (Some(t), _) => Some(t.clone()),
            (None, Some(f)) => {
                Some(std::fs::read_to_string(f).with_context(|| format!("cannot read --token-file {}", f.display()))?)
            }
            (None, None) => None,
        };
        // Checked in any case: a mistyped token should not wait for the day it is needed.
        let token = token.map(|t| t.parse::<JoinToken>()).transpose()?;
        Ok(self.join.clone().zip(token).map(|(server, token)| Invitation { server, token }))
    }
}

/// Runs the agent until it is told to end.
pub fn run(flags: &Flags) -> Result<()> {
    if flags.data_dir.join("server/db").exists() {
        bail!(
            "{} belongs to a server, which runs its own agent; choose another place with --data-dir",
            flags.data_dir.display()
        );
    }
    process::start(flags.debug)?.block_on(serve(flags))
}

async fn serve(flags: &Flags) -> Result<()> {
    let invitation = flags.invitation()?;
    super::check::require(flags.node.own_runtime())?;
    let _lock = Lock::take(&flags.data_dir)?;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let peer: Option<SocketAddr> =
        flags.join.as_ref().and_then(|s| (s.host(), s.port()).to_socket_addrs().ok()?.next());
    let machine = node::Machine::new(&flags.node, process::own_address(peer, None))?;
    let own = flags.data_dir.join("agent");
    let addresses = [machine.ip];
    let obtain = Identity::obtain(&own, &machine.name, &addresses, invitation.as_ref(), &tasks, &cancel);
    let identity = tokio::select! {
        identity = obtain => identity?,
        end = process::ended(&cancel) => return end,
    };
    let identity = std::sync::Arc::new(identity);
    let more: Vec<Server> = flags.join.iter().cloned().collect();
    let https = identity.connect(&more, &tasks)?;
    tasks.spawn(identity.clone().keep(https.clone(), cancel.clone()));
    let settings = identity.cluster();
    let cluster = node::Cluster {
        cluster_cidr: settings.cluster_cidr,
        service_cidr: settings.service_cidr,
        domain: settings.cluster_domain,
    };
    let node = node::Node::new(&flags.node, &flags.data_dir, &cluster, machine);
    tracing::info!(node = node.name(), address = %node.ip(), "this machine is a node of the cluster");
    node.start(client::Client::new(https), identity.listener()?, &settings.kubelet_client, &tasks, &cancel);
    process::ended(&cancel).await?;
    process::shut_down(&tasks, &cancel).await;
    Ok(())
}
