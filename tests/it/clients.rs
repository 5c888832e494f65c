//! Clients that others wrote, as `tests/clients` brought them to the machine.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::lab::skipped;

/// Helm with its own minor, by the minor of the kubectl that it came with.
pub const MINORS: [&str; 2] = ["36", "37"];

/// One of the clients; tells that a test is skipped where there is none.
pub fn client(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(name);
    if !path.exists() {
        skipped(&format!("{name} is not in target/clients; tests/clients fetches it"));
        return None;
    }
    Some(path)
}

/// Python with the official client; `program` is in `tests/python`.
pub fn python(program: &str) -> Option<Command> {
    let packages = client("python")?;
    let mut command = Command::new("python3");
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(program));
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// What a command printed, all of it; it must succeed.
pub fn well(command: &mut Command) -> String {
    let (ended_well, text) = said(command);
    assert!(ended_well, "{command:?}:\n{text}");
    text
}

/// Whether a command ended well, and what it printed.
pub fn said(command: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}
