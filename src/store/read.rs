//! Consistent reads over an engine that changes meanwhile.
//!
//! A reader notes how far the engine is (`applied`), reads without a lock, and
//! then takes from the hub every event since: it holds all that the read may have
//! half seen, and the batches that are durable but not yet in the engine. The
//! last event of a key overrides what was read of it, so the answer is exact at
//! the hub's revision. Only when the ring has moved on too far, or deletions left
//! a page short, the read is repeated, then with the writer held off the engine.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::commit::Shared;
use crate::{Error, Event, KeyValue, Range, Revision};

/// One entry at the latest revision.
pub(crate) fn get(shared: &Shared, key: &str) -> Result<Option<KeyValue>, Error> {
    let engine = shared.engine()?;
    let mut gate = None;
    loop {
        let applied = shared.applied.load(Ordering::Acquire);
        let stored = engine.get(key)?;
        if let Some((batches, _)) = shared.hub.since(applied) {
            let newest = batches.iter().flat_map(|batch| batch.iter()).rfind(|event| *event.key == *key);
            return Ok(newest.map_or(stored, Event::entry));
        }
        gate.get_or_insert_with(|| shared.gate.read().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Entries under a prefix at one revision.
pub(crate) fn range(shared: &Shared, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
    let engine = shared.engine()?;
    let mut gate = None;
    let mut asked = if limit == 0 { 0 } else { limit.saturating_add(1) };
    loop {
        let applied = shared.applied.load(Ordering::Acquire);
        let scanned = engine.scan(prefix, after, asked)?;
        let cut = asked > 0 && scanned.len() >= asked;
        if let Some((batches, revision)) = shared.hub.since(applied) {
            let items = correct(scanned, &batches, prefix, after, cut);
            if let Some(range) = page(items, revision, limit, cut) {
                return Ok(range);
            }
        }
        gate.get_or_insert_with(|| shared.gate.read().unwrap_or_else(PoisonError::into_inner));
        asked = asked.saturating_mul(2);
    }
}

/// Overrides what was scanned by the events since; beyond the last scanned key of
/// a scan that was cut off, nothing is known.
fn correct(
    scanned: Vec<KeyValue>,
    batches: &[Arc<[Event]>],
    prefix: &str,
    after: Option<&str>,
    cut: bool,
) -> Vec<KeyValue> {
    let horizon = scanned.last().filter(|_| cut).map(|entry| entry.key.clone());
    let newer: BTreeMap<Arc<str>, &Event> = batches
        .iter()
        .flat_map(|batch| batch.iter())
        .filter(|event| {
            event.key.starts_with(prefix)
                && after.is_none_or(|after| *event.key > *after)
                && horizon.as_ref().is_none_or(|horizon| event.key <= *horizon)
        })
        .map(|event| (event.key.clone(), event))
        .collect();
    if newer.is_empty() {
        return scanned;
    }
    let mut items: BTreeMap<Arc<str>, KeyValue> = scanned.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for (key, event) in newer {
        match event.entry() {
            Some(entry) => items.insert(key, entry),
            None => items.remove(&key),
        };
    }
    items.into_values().collect()
}

/// The answer, unless too few entries are left to tell whether there are more.
fn page(mut items: Vec<KeyValue>, revision: Revision, limit: usize, cut: bool) -> Option<Range> {
    if cut && items.len() <= limit {
        return None;
    }
    let more = limit > 0 && items.len() > limit;
    if more {
        items.truncate(limit);
    }
    Some(Range { items, revision, more })
}
