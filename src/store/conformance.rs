//! The contract suite: what every [`Store`] must do, named by the guarantee.
//!
//! Each function takes a fresh, empty store and panics when a guarantee does not
//! hold. [`run`] runs them all; [`run_restarts`] adds what only a store on disk can
//! promise. A new backend calls both from a test of its own.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Error, Event, Expect, Revision, Store, Watch};

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, key: &str, text: &str) -> Revision {
    store.put(key, value(text), Expect::Any).await.expect("put")
}

/// The next `count` events of a watch.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.len() < count {
        let batch = watch.events.recv().await.expect("an open watch").expect("events");
        events.extend(batch.iter().cloned());
    }
    events
}

/// Runs every check that needs no restart, each on a store of its own.
pub async fn run<F: Future<Output = Arc<dyn Store>>>(fresh: impl Fn() -> F) {
    gapless_revisions(fresh().await).await;
    compare_and_set(fresh().await).await;
    deletion_of_an_absent_key(fresh().await).await;
    read_your_writes(fresh().await).await;
    pages_are_complete(fresh().await).await;
    range_is_consistent(fresh().await).await;
    ordered_watch(fresh().await).await;
    watch_joins_history_and_live(fresh().await).await;
    lagging_watcher_is_closed(fresh().await).await;
    compacted_history_is_refused(fresh().await).await;
    too_large_a_value_is_refused(fresh().await).await;
    closed_store_refuses(fresh().await).await;
}

/// Runs every check that closes and reopens; `open` opens the same store again.
pub async fn run_restarts<F: Future<Output = Arc<dyn Store>>>(open: impl Fn() -> F) {
    let store = open().await;
    let start = store.revision();
    for index in 0..50 {
        put(&*store, &format!("restart/{:02}", index % 20), &index.to_string()).await;
    }
    store.delete("restart/03", Expect::Any).await.expect("delete");
    let before = store.range("", None, 0).await.expect("range");
    store.close().await.expect("close");
    drop(store);

    let store = open().await;
    let after = store.range("", None, 0).await.expect("range");
    assert_eq!(before.items, after.items, "Durable");
    assert_eq!(before.revision, after.revision, "Gapless");
    let mut watch = store.watch(start + 10).await.expect("HistoryAcrossRestart");
    let next = put(&*store, "restart/live", "x").await;
    assert_eq!(next, before.revision + 1, "Gapless");
    let count = (next - start - 10) as usize;
    let seen: Vec<Revision> = events(&mut watch, count).await.iter().map(|event| event.revision).collect();
    assert_eq!(seen, (start + 11..=next).collect::<Vec<_>>(), "HistoryAcrossRestart");

    store.compact(start + 20).await.expect("compact");
    store.close().await.expect("close");
    drop(store);
    let store = open().await;
    assert!(matches!(store.watch(start + 19).await, Err(Error::Compacted { .. })), "a compaction outlives a restart");
    store.close().await.expect("close");
}

/// Gapless: concurrent successful writes take consecutive revisions.
pub async fn gapless_revisions(store: Arc<dyn Store>) {
    let start = store.revision();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for index in 0..20 {
                    revisions.push(put(&*store, &format!("gapless/{task}/{index}"), "x").await);
                    let refused = store.put("gapless/0/0", value("y"), Expect::Revision(u64::MAX));
                    assert!(matches!(refused.await, Err(Error::Conflict { .. })));
                }
                revisions
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.extend(task.await.expect("task"));
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (start + 1..=start + 320).collect::<Vec<_>>());
    assert_eq!(store.revision(), start + 320);
}

/// CompareAndSet: a write whose expectation does not hold changes nothing; of
/// concurrent writers that expect the same, one wins.
pub async fn compare_and_set(store: Arc<dyn Store>) {
    let first = store.put("cas", value("a"), Expect::Absent).await.expect("absent");
    for expect in [Expect::Absent, Expect::Revision(first + 7)] {
        match store.put("cas", value("b"), expect).await {
            Err(Error::Conflict { key, current: Some(current) }) => {
                assert_eq!((key.as_str(), current.revision), ("cas", first));
                assert_eq!(current.value, value("a"));
            }
            other => panic!("expected a conflict, not {other:?}"),
        }
    }
    assert_eq!(store.revision(), first);
    assert!(matches!(
        store.put("none", value("b"), Expect::Revision(first)).await,
        Err(Error::Conflict { current: None, .. })
    ));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(
                async move { store.put("cas", value(&task.to_string()), Expect::Revision(first)).await.is_ok() },
            )
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(task.await.expect("task"));
    }
    assert_eq!(winners, 1);
    assert_eq!(store.revision(), first + 1);
    store.delete("cas", Expect::Revision(first + 1)).await.expect("delete");
    store.put("cas", value("again"), Expect::Absent).await.expect("absent again");
}

/// CompareAndSet: deleting what is not there is a conflict unless nothing is expected.
pub async fn deletion_of_an_absent_key(store: Arc<dyn Store>) {
    let revision = put(&*store, "a", "1").await;
    assert_eq!(store.delete("b", Expect::Any).await.expect("no change"), revision);
    for expect in [Expect::Absent, Expect::Revision(revision)] {
        assert!(matches!(store.delete("b", expect).await, Err(Error::Conflict { current: None, .. })));
    }
    assert!(matches!(store.delete("a", Expect::Absent).await, Err(Error::Conflict { current: Some(_), .. })));
    assert_eq!(store.revision(), revision);
}

/// ReadYourWrites: a read after an acknowledgement sees the write, from any task.
pub async fn read_your_writes(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("ryw/{task}");
                for index in 0..30 {
                    let revision = put(&*store, &key, &index.to_string()).await;
                    let read = store.get(&key).await.expect("get").expect("present");
                    assert_eq!((read.revision, read.value), (revision, value(&index.to_string())));
                    let range = store.range(&key, None, 0).await.expect("range");
                    assert!(range.revision >= revision && store.revision() >= revision);
                    assert_eq!(range.items[0].revision, revision);
                    if index % 7 == 0 {
                        store.delete(&key, Expect::Revision(revision)).await.expect("delete");
                        assert_eq!(store.get(&key).await.expect("get"), None);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
}

/// A paged read returns each entry once, in key order, and says when it is done.
pub async fn pages_are_complete(store: Arc<dyn Store>) {
    for index in 0..25 {
        put(&*store, &format!("page/{index:02}"), "x").await;
    }
    put(&*store, "pagf", "behind").await;
    put(&*store, "pag", "before").await;
    for limit in [1, 2, 5, 7, 24, 25, 26, 0] {
        let mut keys = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let range = store.range("page/", after.as_deref(), limit).await.expect("range");
            assert!(limit == 0 || range.items.len() <= limit);
            keys.extend(range.items.iter().map(|entry| entry.key.to_string()));
            if !range.more {
                break;
            }
            after = keys.last().cloned();
        }
        let all: Vec<String> = (0..25).map(|index| format!("page/{index:02}")).collect();
        assert_eq!(keys, all, "limit {limit}");
    }
    assert!(store.range("page/", Some("page/24"), 0).await.expect("range").items.is_empty());
    assert_eq!(store.range("page/", Some("a"), 0).await.expect("range").items.len(), 25);
    assert!(store.range("page/", Some("z"), 0).await.expect("range").items.is_empty());
}

/// A range is the state at exactly its revision, also while others write.
pub async fn range_is_consistent(store: Arc<dyn Store>) {
    let start = store.revision();
    let watch = store.watch(start).await.expect("watch");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for index in 0..600_u64 {
                let key = format!("c/{:02}", index * 7 % 40);
                if index % 3 == 2 {
                    store.delete(&key, Expect::Any).await.expect("delete");
                } else {
                    put(&*store, &key, &index.to_string()).await;
                }
            }
        })
    };
    let mut seen = Vec::new();
    while !writer.is_finished() {
        let limit = seen.len() % 12;
        seen.push((limit, store.range("c/", None, limit).await.expect("range")));
    }
    writer.await.expect("writer");
    let mut watch = watch;
    let history = events(&mut watch, (store.revision() - start) as usize).await;
    for (limit, range) in seen {
        let mut state = std::collections::BTreeMap::new();
        for event in history.iter().take_while(|event| event.revision <= range.revision) {
            match &event.value {
                Some(_) => state.insert(event.key.clone(), event.revision),
                None => state.remove(&event.key),
            };
        }
        let more = limit > 0 && state.len() > limit;
        let expected: Vec<_> = state.into_iter().take(if limit == 0 { usize::MAX } else { limit }).collect();
        let read: Vec<_> = range.items.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
        assert_eq!((read, range.more), (expected, more), "at revision {}", range.revision);
    }
}

/// OrderedWatch: every event once, in order, with what was written.
pub async fn ordered_watch(store: Arc<dyn Store>) {
    let start = store.revision();
    let mut watch = store.watch(start).await.expect("watch");
    let a = put(&*store, "w", "1").await;
    let b = put(&*store, "w", "2").await;
    let c = store.delete("w", Expect::Any).await.expect("delete");
    let expected = [(a, Some(value("1"))), (b, Some(value("2"))), (c, None)];
    let seen: Vec<_> = events(&mut watch, 3).await.into_iter().map(|event| (event.revision, event.value)).collect();
    assert_eq!(seen, expected);
    let mut later = store.watch(a).await.expect("watch");
    assert_eq!(events(&mut later, 2).await[0].revision, b);
    let mut future = store.watch(c + 1).await.expect("watch");
    put(&*store, "w", "3").await;
    put(&*store, "w", "4").await;
    assert_eq!(events(&mut future, 1).await[0].revision, c + 2);
}

/// OrderedWatch: watches that begin at any time during writes see no gap and no duplicate.
pub async fn watch_joins_history_and_live(store: Arc<dyn Store>) {
    const COUNT: u64 = 400;
    let start = store.revision();
    let watchers: Vec<_> = (0..8)
        .map(|watcher| {
            let store = store.clone();
            tokio::spawn(async move {
                let from = start + watcher * 10;
                while store.revision() < from + watcher * 20 {
                    tokio::task::yield_now().await;
                }
                let mut watch = store.watch(from).await.expect("watch");
                let seen = events(&mut watch, (start + COUNT - from) as usize).await;
                for (index, event) in seen.iter().enumerate() {
                    assert_eq!(event.revision, from + 1 + index as u64);
                }
            })
        })
        .collect();
    for index in 0..COUNT {
        put(&*store, &format!("j/{}", index % 5), &index.to_string()).await;
    }
    for watcher in watchers {
        watcher.await.expect("watcher");
    }
}

/// OrderedWatch: a watcher that does not read is told so and closed, behind a gapless prefix.
pub async fn lagging_watcher_is_closed(store: Arc<dyn Store>) {
    let start = store.revision();
    let mut watch = store.watch(start).await.expect("watch");
    // One writer alone commits one batch a time, so this many surely exceed any bound.
    for _ in 0..3_000 {
        put(&*store, "lag/alone", "x").await;
    }
    let mut last = start;
    loop {
        match watch.events.recv().await {
            Some(Ok(batch)) => {
                for event in batch.iter() {
                    assert_eq!(event.revision, last + 1);
                    last = event.revision;
                }
            }
            Some(Err(Error::WatchLagged { revision })) => {
                assert_eq!(revision, last);
                assert!(watch.events.recv().await.is_none(), "closed after the error");
                return;
            }
            other => panic!("expected WatchLagged, not {other:?}"),
        }
    }
}

/// A watch from before the compacted revision is refused; one from it is not.
pub async fn compacted_history_is_refused(store: Arc<dyn Store>) {
    let start = store.revision();
    for index in 0..10 {
        put(&*store, "compact", &index.to_string()).await;
    }
    store.compact(start + 5).await.expect("compact");
    match store.watch(start + 4).await {
        Err(Error::Compacted { requested, oldest }) => {
            assert_eq!((requested, oldest), (start + 4, start + 5));
        }
        other => panic!("expected Compacted, not {:?}", other.is_ok()),
    }
    let mut watch = store.watch(start + 5).await.expect("watch");
    assert_eq!(events(&mut watch, 5).await[0].revision, start + 6);
    assert_eq!(store.get("compact").await.expect("get").expect("kept").value, value("9"));
    store.compact(start + 1).await.expect("an older compaction changes nothing");
    store.compact(start + 1_000).await.expect("a compaction ends at the present");
    put(&*store, "compact", "later").await;
    store.watch(start + 10).await.expect("the present is never compacted");
}

/// What no record can hold is refused and changes nothing.
pub async fn too_large_a_value_is_refused(store: Arc<dyn Store>) {
    let large = Bytes::from(vec![7; 1_500_000]);
    store.put("large", large.clone(), Expect::Any).await.expect("etcd's limit fits");
    assert_eq!(store.get("large").await.expect("get").expect("present").value, large);
    let revision = store.revision();
    let huge = Bytes::from(vec![0; 16 << 20]);
    assert!(matches!(store.put("huge", huge, Expect::Any).await, Err(Error::TooLarge { .. })));
    assert_eq!(store.revision(), revision);
}

/// A closed store answers [`Error::Closed`] and ends its watches.
pub async fn closed_store_refuses(store: Arc<dyn Store>) {
    put(&*store, "k", "v").await;
    let mut watch = store.watch(store.revision()).await.expect("watch");
    store.close().await.expect("close");
    assert!(matches!(store.put("k", value("w"), Expect::Any).await, Err(Error::Closed)));
    assert!(matches!(store.get("k").await, Err(Error::Closed)));
    assert!(matches!(store.range("", None, 0).await, Err(Error::Closed)));
    assert!(matches!(store.watch(0).await, Err(Error::Closed)));
    assert!(watch.events.recv().await.is_none());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DurableStore, MemoryStore, Options};

    #[tokio::test(flavor = "multi_thread")]
    async fn memory_store_conforms() {
        run(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
    }

    fn small(directory: &std::path::Path) -> Options {
        Options { segment_bytes: 4 << 10, checkpoint_bytes: 16 << 10, ..Options::new(directory) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn durable_store_conforms() {
        let directory = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        run(|| async {
            count.set(count.get() + 1);
            let options = small(&directory.path().join(count.get().to_string()));
            Arc::new(DurableStore::open(options).unwrap()) as Arc<dyn Store>
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn durable_store_conforms_across_restarts() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            run_restarts(|| async { Arc::new(DurableStore::open(small(directory.path())).unwrap()) as Arc<dyn Store> })
                .await;
        }
    }
}
