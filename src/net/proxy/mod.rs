//! The service proxy: services and their endpoints as one nftables table.
//!
//! [`table`] says what should be there, [`render`] says it in nft's words
//! (whole, or as the difference between two tables), [`sync`] keeps the kernel
//! at it.
//!
//! A packet's cost does not grow with the number of services: its destination
//! is looked up once in a map keyed by address, protocol and port, and its
//! endpoint once more in a map keyed by that and a random index. A service is
//! therefore a handful of map elements, and a change of endpoints a few
//! elements too; chains exist per *number* of endpoints, not per service. Only
//! a service with session affinity has chains and sets of its own, since it
//! has to remember its clients.

pub mod render;
pub mod sync;
pub mod table;

pub use sync::Syncer;
pub use table::{Endpoint, Front, Frontend, Protocol, Refusal, Stale, Table, Target};

#[cfg(test)]
mod tests;
