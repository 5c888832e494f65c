//! The behaviour of each built-in kind: defaults, validation, cells. One file per kind or family.

use std::sync::Arc;

use crate::resource::{Plain, Strategy};

/// The behaviour of a built-in kind. Kinds that are not named here have none of their own.
pub fn strategy(group: &str, kind: &str) -> Arc<dyn Strategy> {
    // One line for each kind with behaviour of its own, above the last.
    #[allow(clippy::match_single_binding)]
    match (group, kind) {
        _ => Arc::new(Plain),
    }
}
