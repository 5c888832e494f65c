//! Caches over a store in memory, whose events are many, large or old.

use serde_json::json;
use store::{Expect, MemoryStore};

use super::super::{Caches, Change};
use super::*;
use crate::encryption::Keyring;
use crate::storage::{self, Storage};

const BUSY: &str = "/registry/core/configmaps/";
const QUIET: &str = "/registry/core/secrets/";

struct Lab {
    storage: Arc<Storage>,
    caches: Arc<Caches>,
    cancel: tokio_util::sync::CancellationToken,
}

impl Lab {
    async fn start() -> Lab {
        let storage = Arc::new(Storage::new(Arc::new(MemoryStore::default()), Arc::new(Keyring::none())));
        let caches = Caches::load(storage.clone(), &[BUSY.to_owned(), QUIET.to_owned()]).await.unwrap();
        let cancel = tokio_util::sync::CancellationToken::new();
        let (following, ended) = (caches.clone(), cancel.clone());
        tokio::spawn(async move { following.run(ended).await });
        Lab { storage, caches, cancel }
    }

    async fn put(&self, prefix: &str, name: &str, bytes: usize) -> Revision {
        let value = json!({"metadata": {"name": name, "namespace": "n"}, "data": {"text": "x".repeat(bytes)}});
        let written = storage::write(&self.storage, prefix, &format!("n/{name}"), value, Expect::Any).await;
        let revision = written.unwrap().revision();
        self.caches.reached(revision).await.unwrap();
        revision
    }

    fn past(&self, prefix: &str, after: Revision) -> Option<Vec<Change>> {
        let cache = self.caches.get(prefix).unwrap();
        let s = cache.subscribe("n/", after, self.caches.applied(), Box::new(|_| true)).ok()?;
        Some(s.past.iter().map(|(change, _)| *change).collect())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test]
async fn what_was_replaced_is_forgotten_when_it_is_too_much() {
    let lab = Lab::start().await;
    let quiet = lab.put(QUIET, "a", 10).await;
    let first = lab.put(BUSY, "a", 1 << 20).await;
    for _ in 0..4 {
        lab.put(BUSY, "a", 1 << 20).await;
    }
    assert_eq!(lab.past(BUSY, first).unwrap().len(), 4);
    for _ in 0..8 {
        lab.put(BUSY, "a", 1 << 20).await;
    }
    assert_eq!(lab.past(BUSY, first), None, "it is too old");
    assert_eq!(lab.past(QUIET, quiet).unwrap(), [], "nothing happened since, whatever happened to others");
}

#[tokio::test]
async fn objects_are_told_as_they_were_at_a_revision() {
    let lab = Lab::start().await;
    let a = lab.put(BUSY, "a", 10).await;
    let b = lab.put(BUSY, "b", 10).await;
    let again = lab.put(BUSY, "a", 20).await;
    let removed = storage::remove(&lab.storage, BUSY, "n/b", b).await.unwrap();
    lab.caches.reached(removed).await.unwrap();
    let cache = lab.caches.get(BUSY).unwrap();
    let at = |revision| cache.objects_at(revision).unwrap().values().map(|o| o.revision()).collect::<Vec<_>>();
    assert_eq!(
        [at(0), at(a), at(b), at(again), at(removed)],
        [vec![], vec![a], vec![a, b], vec![again, b], vec![again]]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_old_is_forgotten() {
    let lab = Lab::start().await;
    let a = lab.put(BUSY, "a", 10).await;
    let b = lab.put(BUSY, "a", 10).await;
    tokio::time::advance(AGE * 2).await;
    let c = lab.put(BUSY, "a", 10).await;
    assert_eq!(
        (lab.past(BUSY, a), lab.past(BUSY, b).map(|p| p.len()), lab.past(BUSY, c).map(|p| p.len())),
        (None, Some(1), Some(0))
    );
}

#[tokio::test]
async fn what_a_resource_kept_that_is_gone_counts_no_more() {
    let lab = Lab::start().await;
    for _ in 0..8 {
        lab.put(BUSY, "a", 1 << 20).await;
    }
    lab.caches.remove(BUSY);
    let first = lab.put(QUIET, "a", 1 << 20).await;
    for _ in 0..4 {
        lab.put(QUIET, "a", 1 << 20).await;
    }
    assert_eq!(lab.past(QUIET, first).map(|p| p.len()), Some(4));
}
