//! `sampan completions <shell>`.

use anyhow::Result;
use clap::CommandFactory;

/// Flags of `sampan completions`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(flags: &Flags) -> Result<()> {
    clap_complete::generate(flags.shell, &mut super::Arguments::command(), "sampan", &mut std::io::stdout());
    Ok(())
}
