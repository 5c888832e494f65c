//! The materialized current state behind the log.
//!
//! An engine is fed in revision order with what is already durable in the log.
//! After a crash it may have lost or kept any of the changes since its last
//! [`Engine::checkpoint`]: the log is replayed from there, and every change says
//! all there is to say about its key, so replaying one twice does no harm.

mod sled;

use crate::{Error, Event, KeyValue, Revision};

pub(crate) use self::sled::SledEngine;

/// See the module.
pub(crate) trait Engine: Send + Sync + 'static {
    /// The last revision applied; after a crash, at least the last checkpoint's.
    fn revision(&self) -> Result<Revision, Error>;

    /// One entry.
    fn get(&self, key: &str) -> Result<Option<KeyValue>, Error>;

    /// At most `limit` (0 = all) entries under `prefix`, in key order, behind
    /// `after`. Not a snapshot: changes applied meanwhile may or may not be seen.
    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<KeyValue>, Error>;

    /// Makes the changes visible, not necessarily durable.
    fn apply(&self, events: &[Event]) -> Result<(), Error>;

    /// Makes everything applied before the call durable.
    fn checkpoint(&self) -> Result<(), Error>;
}
