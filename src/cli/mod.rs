//! The command line: one file per command. Flags, `SAMPAN_*` variables and the configuration
//! file say the same things; the command line wins over the environment, that over the file.

mod agent;
mod audit;
mod auth;
mod check;
mod completions;
mod config_file;
mod kubeconfig;
mod lock;
mod node;
mod process;
mod secrets_encrypt;
mod server;
mod token;
mod uninstall;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Kubernetes in one executable, for edge boxes, homelabs and small VMs.
#[derive(Debug, Parser)]
#[command(name = "sampan", version = version::text(), args_override_self = true, propagate_version = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane.
    Server(Box<server::Flags>),
    /// Join this machine to a cluster and run workloads on it.
    Agent(Box<agent::Flags>),
    /// Make, list and delete the tokens that machines join with.
    Token(token::Flags),
    /// Show and change how stored secrets are encrypted.
    SecretsEncrypt(secrets_encrypt::Flags),
    /// Tell what this machine lacks to run sampan, and how to get it.
    Check(check::Flags),
    /// Take everything that sampan put on this machine back.
    Uninstall(uninstall::Flags),
    /// Print the version.
    Version(version::Flags),
    /// Print a completion script for a shell.
    Completions(completions::Flags),
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let arguments = match config_file::arguments(std::env::args().collect()) {
        Ok(a) => Arguments::parse_from(a),
        Err(e) => return failed(&e),
    };
    let result = match arguments.command {
        Command::Server(f) => server::run(&f),
        Command::Agent(f) => agent::run(&f),
        Command::Token(f) => token::run(&f),
        Command::SecretsEncrypt(f) => secrets_encrypt::run(&f),
        Command::Check(f) => return check::run(&f),
        Command::Uninstall(f) => uninstall::run(&f),
        Command::Version(f) => version::run(&f),
        Command::Completions(f) => completions::run(&f),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

/// A path that stays the same for containerd, for mounts and for a later uninstall, which may be
/// started from somewhere else.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

fn failed(e: &anyhow::Error) -> ExitCode {
    eprintln!("sampan: {e:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn directories_are_the_same_from_wherever_a_command_is_started() -> anyhow::Result<()> {
        let command = ["sampan", "uninstall", "--data-dir", "here", "--run-dir", "./run"];
        let said = format!("{:?}", super::Arguments::try_parse_from(command)?);
        let own = std::env::current_dir()?;
        assert!(said.contains(&format!("data_dir: {:?}", own.join("here"))), "{said}");
        assert!(said.contains(&format!("run_dir: {:?}", own.join("run"))), "{said}");
        Ok(())
    }
}
