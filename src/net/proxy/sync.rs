//! Keeping the kernel's table at the desired one.

use super::render::{self, Shape};
use super::table::Table;
use crate::Config;
use crate::nft::{Nft, NftError};
use std::collections::BTreeSet;

/// What a call of [`Syncer::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel had it already.
    Unchanged,
    /// The difference was applied.
    Changed,
    /// The whole table was made anew.
    Rebuilt,
}

/// Owns the table: the one writer of it on this machine.
///
/// Every application is one transaction, so that packets see the old table or
/// the new one. It remembers what it applied last and applies differences; when
/// the kernel refuses one (somebody else touched the table), or at the first
/// call, the whole table is made anew. A rebuild forgets session affinity, not
/// connections.
pub struct Syncer<N> {
    config: Config,
    nft: N,
    applied: Option<Applied>,
}

struct Applied {
    table: Table,
    shapes: BTreeSet<Shape>,
}

impl<N: Nft> Syncer<N> {
    /// Nothing applied yet.
    pub fn new(config: Config, nft: N) -> Self {
        Self { config, nft, applied: None }
    }

    /// Where the rules go to.
    pub fn nft(&self) -> &N {
        &self.nft
    }

    /// Makes the kernel hold this table. After an error the next call rebuilds.
    pub async fn sync(&mut self, desired: Table) -> Result<Outcome, NftError> {
        // Taken out: should this call be cut off, what the kernel holds is not known.
        let applied = self.applied.take();
        let families = render::families(&self.config, &desired);
        if let Some(before) = applied.filter(|a| render::families(&self.config, &a.table) == families) {
            let script = render::difference(&self.config, &before.table, &desired, &before.shapes);
            if script.is_empty() {
                self.applied = Some(before);
                return Ok(Outcome::Unchanged);
            }
            match self.nft.apply(&script).await {
                Ok(()) => {
                    let stale = desired.stale_after(&before.table);
                    let mut shapes = before.shapes;
                    shapes.extend(render::shapes(&desired));
                    self.applied = Some(Applied { table: desired, shapes });
                    for stale in &stale {
                        self.nft.forget(stale).await;
                    }
                    return Ok(Outcome::Changed);
                }
                Err(error) => tracing::warn!(%error, "service rules are rebuilt"),
            }
        }
        self.nft.apply(&render::whole(&self.config, &desired)).await?;
        let shapes = render::shapes(&desired);
        self.applied = Some(Applied { table: desired, shapes });
        Ok(Outcome::Rebuilt)
    }

    /// Has the next call rebuild the table, whatever is believed to be there.
    pub fn distrust(&mut self) {
        self.applied = None;
    }

    /// Takes every rule back.
    pub async fn remove(&mut self) -> Result<(), NftError> {
        self.applied = None;
        self.nft.remove_tables(&self.config.table).await
    }
}
