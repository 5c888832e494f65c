//! A cache over a store that was opened again, as after a restart.

use std::path::Path;

use serde_json::json;
use store::{DurableStore, Expect, Options};
use tokio_util::sync::CancellationToken;

use super::super::{Caches, Subscription};
use super::*;
use crate::encryption::Keyring;

const PREFIX: &str = "/registry/core/configmaps/";
const OTHERS: &str = "/registry/core/secrets/";

fn open(directory: &Path) -> Arc<Storage> {
    let store = DurableStore::open(Options::new(directory)).unwrap();
    Arc::new(Storage::new(Arc::new(store), Arc::new(Keyring::none())))
}

async fn caches(directory: &Path) -> (Arc<Storage>, Arc<Caches>) {
    let store = open(directory);
    let caches = Caches::load(store.clone(), &[PREFIX.to_owned(), OTHERS.to_owned()]).await.unwrap();
    (store, caches)
}

async fn write(store: &Storage, prefix: &str, name: &str, text: &str, expect: Expect) -> Revision {
    let value = json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}, "data": {"text": text}});
    storage::write(store, prefix, &format!("n/{name}"), value, expect).await.unwrap().revision()
}

async fn create(store: &Storage, name: &str) -> Revision {
    write(store, PREFIX, name, "created", Expect::Absent).await
}

async fn update(store: &Storage, name: &str, revision: Revision) -> Revision {
    write(store, PREFIX, name, "updated", Expect::Revision(revision)).await
}

async fn delete(store: &Storage, name: &str, revision: Revision) -> Revision {
    storage::remove(store, PREFIX, &format!("n/{name}"), revision).await.unwrap()
}

fn watch(caches: &Caches, after: Revision) -> Result<Subscription, Status> {
    caches.get(PREFIX).unwrap().subscribe("n/", after, caches.applied(), Box::new(|_| true))
}

/// Change, name and revision of each past event.
fn told(caches: &Caches, after: Revision) -> Vec<(Change, String, Revision)> {
    let past = watch(caches, after).unwrap().past;
    past.into_iter().map(|(change, e)| (change, e.object.meta().name.to_owned(), e.object.revision())).collect()
}

fn names(objects: &Objects) -> Vec<(String, Revision)> {
    objects.values().map(|o| (o.meta().name.to_owned(), o.revision())).collect()
}

#[tokio::test]
async fn a_watch_from_before_a_restart_is_told_every_event_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let start = create(&store, "kept").await;
    let a = create(&store, "gone").await;
    let b = update(&store, "gone", a).await;
    write(&store, OTHERS, "other", "", Expect::Absent).await;
    let c = update(&store, "kept", start).await;
    let d = delete(&store, "gone", b).await;
    drop(store);

    let (store, caches) = caches(directory.path()).await;
    let gone = |change, revision| (change, "gone".to_owned(), revision);
    let all = [
        gone(Change::Added, a),
        gone(Change::Modified, b),
        (Change::Modified, "kept".to_owned(), c),
        gone(Change::Deleted, d),
    ];
    assert_eq!(told(&caches, start), all);
    assert_eq!(told(&caches, b), all[2..]);
    assert_eq!(told(&caches, d), []);
    let deleted = watch(&caches, c).unwrap().past.remove(0).1;
    assert!(std::str::from_utf8(&deleted.object.json()).unwrap().contains("updated"), "the last state");

    let cache = caches.get(PREFIX).unwrap();
    let at = |revision| names(&cache.objects_at(revision).unwrap());
    assert_eq!(at(0), []);
    assert_eq!(at(b), [("gone".to_owned(), b), ("kept".to_owned(), start)]);
    assert_eq!(at(c), [("gone".to_owned(), b), ("kept".to_owned(), c)]);
    assert_eq!(at(d), [("kept".to_owned(), c)]);

    // And it goes on with what happens next.
    let mut subscription = watch(&caches, d).unwrap();
    let cancel = CancellationToken::new();
    let (following, ended) = (caches.clone(), cancel.clone());
    let task = tokio::spawn(async move { following.run(ended).await });
    let e = create(&store, "later").await;
    let (change, event) = subscription.live.recv().await.unwrap();
    assert_eq!((change, event.event.revision), (Change::Added, e));
    cancel.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_watch_from_before_compaction_is_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let a = create(&store, "a").await;
    let b = update(&store, "a", a).await;
    let c = update(&store, "a", b).await;
    store.store().compact(b).await.unwrap();
    drop(store);
    let (_store, caches) = caches(directory.path()).await;
    assert!(watch(&caches, a).err().unwrap().is_gone());
    assert_eq!(told(&caches, b), [(Change::Modified, "a".to_owned(), c)]);
    let cache = caches.get(PREFIX).unwrap();
    assert!(cache.objects_at(b).err().unwrap().is_gone(), "what the update replaced is not known");
    assert_eq!(names(&cache.objects_at(c).unwrap()), [("a".to_owned(), c)]);
}

#[tokio::test]
async fn history_begins_behind_a_deletion_of_what_is_not_known() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let a = create(&store, "a").await;
    store.store().compact(a).await.unwrap();
    let b = create(&store, "b").await;
    let deleted = delete(&store, "a", a).await;
    let c = create(&store, "c").await;
    drop(store);
    let (_store, caches) = caches(directory.path()).await;
    assert!(watch(&caches, b).err().unwrap().is_gone());
    assert_eq!(told(&caches, deleted), [(Change::Added, "c".to_owned(), c)]);
}

#[tokio::test]
async fn no_more_events_are_kept_than_before_the_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = create(&store, "a").await;
    let mut revision = first;
    for _ in 0..HISTORY {
        revision = update(&store, "a", revision).await;
    }
    drop(store);
    {
        let (store, caches) = caches(directory.path()).await;
        assert_eq!(told(&caches, first).len(), HISTORY);
        update(&store, "a", revision).await;
    }
    let (_store, caches) = caches(directory.path()).await;
    assert!(watch(&caches, first).err().unwrap().is_gone());
    assert_eq!(told(&caches, first + 1).len(), HISTORY);
}
