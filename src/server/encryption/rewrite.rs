//! Values that are stored otherwise than the keys' file says are written again.

use api::Status;
use futures::{StreamExt, TryStreamExt};
use store::KeyValue;

use super::{Config, Error};
use crate::storage::{self, Storage};
use crate::watch_cache::Caches;

/// How many values are rewritten at a time; they share the syncs of the disk.
const AT_ONCE: usize = 64;
/// How many values are read at a time.
const PAGE: usize = 256;

fn failed(e: Error) -> Status {
    tracing::error!(error = %e, "encryption");
    Status::internal_plain(e.to_string())
}

/// Brings everything that is stored into the form that the file asks for, then drops the keys
/// that nothing is sealed with any more. Also finishes what was interrupted.
///
/// # Errors
/// A store error, or one of the keys' file.
pub async fn settle(storage: &Storage, caches: &Caches) -> Result<(), Status> {
    let _alone = storage.keys().rotating.lock().await;
    finish(storage, caches).await
}

/// Changes the configuration and rewrites what it concerns.
///
/// # Errors
/// 409 while another change is under way, and as [`settle`].
pub(super) async fn change(
    storage: &Storage,
    caches: &Caches,
    change: impl FnOnce(Config) -> Config,
) -> Result<(), Status> {
    let keys = storage.keys();
    let Ok(_alone) = keys.rotating.try_lock() else {
        return Err(Status::new(409, "Conflict", "another change of the encryption is under way"));
    };
    keys.change(change(keys.config())).await.map_err(failed)?;
    finish(storage, caches).await
}

async fn finish(storage: &Storage, caches: &Caches) -> Result<(), Status> {
    let keys = storage.keys();
    let mut rewritten = Rewritten::default();
    for prefix in keys.prefixes() {
        rewrite(storage, &prefix, &mut rewritten).await?;
    }
    let mut config = keys.config();
    let dropped = config.keys.split_off(1);
    if rewritten.values > 0 || !dropped.is_empty() {
        // What the cache has yet to read may be sealed with the keys that go, or be history soon.
        let seen = caches.caught_up().await;
        if !dropped.is_empty() {
            keys.change(config).await.map_err(failed)?;
        }
        if rewritten.plain > 0 {
            // The log must not keep for long what was plain in it.
            storage.store().compact(seen).await.map_err(storage::status_of)?;
        }
        tracing::info!(
            values = rewritten.values,
            dropped_keys = dropped.len(),
            "the encryption of stored values changed"
        );
    }
    Ok(())
}

#[derive(Default)]
struct Rewritten {
    values: usize,
    /// How many of them had been plain.
    plain: usize,
}

async fn rewrite(storage: &Storage, prefix: &str, count: &mut Rewritten) -> Result<(), Status> {
    let mut after: Option<String> = None;
    loop {
        let page = storage.store().range(prefix, after.as_deref(), PAGE).await.map_err(storage::status_of)?;
        after = page.items.last().map(|item| item.key.to_string());
        let is_stale = |item: &KeyValue| storage.keys().is_stale(prefix, storage::sealed_part(&item.value));
        let stale: Vec<KeyValue> = page.items.into_iter().filter(is_stale).collect();
        count.values += stale.len();
        count.plain += stale.iter().filter(|item| storage::sealed_part(&item.value).is_none()).count();
        futures::stream::iter(stale)
            .map(|item| async move { storage.rewrite(prefix, &item).await })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        if !page.more {
            return Ok(());
        }
    }
}
