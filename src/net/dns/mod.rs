//! Cluster DNS, answered on every node from memory.
//!
//! [`Records`] is what is known of the cluster; whoever watches it replaces
//! the [`View`] whole, and queries read the last one. Names outside the
//! cluster's domain go to the machine's own resolvers.

mod records;
mod server;
#[cfg(test)]
mod tests;

pub use records::{Answer, Data, Records};
pub use server::{Dns, DnsError, upstreams};

use std::sync::{Arc, PoisonError, RwLock};

/// The records that queries are answered from, shared and replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<RwLock<Arc<Records>>>);

impl View {
    /// A view of these records.
    pub fn new(records: Records) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(records))))
    }

    /// Answers from these from now on.
    pub fn replace(&self, records: Records) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(records);
    }

    /// The records of this moment.
    pub fn load(&self) -> Arc<Records> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
