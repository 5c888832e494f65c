//! Node networking, given the desired state.
//!
//! Nothing here knows an API client or fetches anything: the agent hands in
//! typed Services, EndpointSlices and peers, and this room makes the kernel
//! agree with them.
//!
//! * [`proxy`] turns services into one nftables table of our own;
//! * [`dns`] answers cluster DNS on the node from the same objects;
//! * [`overlay`] joins the node to the others, over [`links`];
//! * [`cni`] gives pods their links and addresses.
//!
//! The rules are made by pure functions (what the table should hold, and the
//! difference to what it holds now); only [`nft`] touches the machine, so that
//! everything else is tested without root.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cni;
mod config;
pub mod dns;
pub mod links;
pub mod nft;
pub mod overlay;
pub mod proxy;
#[cfg(test)]
mod testing;

pub use config::Config;
