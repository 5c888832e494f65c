//! Pods' links: the CNI plugin and the agent's side of it.
//!
//! The runtime runs the plugin, which is this executable under another name;
//! [`plugin_main`] passes the runtime's wish to the agent over a unix socket, one
//! line of JSON each way, and [`CniServer`] does it. So the plugin starts fast
//! and everything that is kept is kept in one place.

mod ipam;
mod loopback;
mod plugin;
mod server;
#[cfg(test)]
mod tests;

pub use ipam::Ipam;
pub use loopback::{LOOPBACK, loopback_main};
pub use plugin::plugin_main;
pub use server::CniServer;

use serde::{Deserialize, Serialize};

/// Versions of the CNI specification that are spoken.
pub const VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];
/// Where the agent listens, unless the configuration names another `socket`.
pub const SOCKET: &str = "/run/sampan/cni.sock";

/// What the runtime wants.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// `ADD`, `DEL` or `CHECK`.
    pub command: String,
    /// The sandbox.
    pub container_id: String,
    /// Path of the sandbox's network namespace; may be empty with `DEL`.
    #[serde(default)]
    pub netns: String,
    /// Name of the link inside.
    pub ifname: String,
    /// Version of the specification the answer is in.
    pub version: String,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// It is done; with `ADD`, the result to print.
    Done(Option<serde_json::Value>),
    /// It is not, for this reason.
    Failed(Failure),
}

/// Why a wish was not fulfilled, in CNI's terms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// CNI's number: 4 a bad environment, 5 input or output, 6 undecodable, 11 try again later, above 99 our own.
    pub code: u32,
    /// For people.
    pub msg: String,
}

impl Failure {
    fn new(code: u32, msg: impl std::fmt::Display) -> Self {
        Self { code, msg: msg.to_string() }
    }
}
