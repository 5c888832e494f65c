//! Secrets in the store: sealed, opened, rotated.

use api::Status;
use serde_json::json;
use store::{Expect, MemoryStore, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::storage::{self, Storage};
use crate::watch_cache::Caches;

const SECRETS: &str = "/registry/core/secrets/";
const OTHERS: &str = "/registry/core/configmaps/";
const HIDDEN: &str = "what nobody may read";

/// A store with the keys of a file, opened as a server does.
struct Opened {
    storage: Arc<Storage>,
    caches: Arc<Caches>,
    cancel: CancellationToken,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn opened(store: &Arc<dyn Store>, file: &Path) -> Result<Opened, Status> {
    let keys = Arc::new(Keyring::load(file).unwrap());
    let storage = Arc::new(Storage::new(store.clone(), keys.clone()));
    let caches = Caches::load(storage.clone(), &[SECRETS.to_owned(), OTHERS.to_owned()]).await?;
    keys.keep().unwrap();
    let cancel = CancellationToken::new();
    let (following, ended) = (caches.clone(), cancel.clone());
    TaskTracker::new().spawn(async move { following.run(ended).await });
    settle(&storage, &caches).await?;
    Ok(Opened { storage, caches, cancel })
}

impl Opened {
    async fn put(&self, prefix: &str, name: &str, expect: Expect) -> u64 {
        let value = json!({"metadata": {"name": name, "namespace": "n"}, "data": {"text": HIDDEN}});
        storage::write(&self.storage, prefix, &format!("n/{name}"), value, expect).await.unwrap().revision()
    }

    async fn rotate(&self) -> Result<(), Status> {
        rewrite::change(&self.storage, &self.caches, Config::with_new_key).await
    }

    async fn enable(&self, enabled: bool) {
        rewrite::change(&self.storage, &self.caches, |c| Config { enabled, ..c }).await.unwrap();
    }

    /// The name of the only key, which everything is sealed with.
    async fn only_key(&self) -> String {
        let config = self.storage.keys().config();
        assert_eq!(config.keys.len(), 1);
        let name = config.keys[0].name.clone();
        for item in stored(self.storage.store(), SECRETS).await {
            assert_eq!(storage::sealed_part(&item).and_then(key::name_of), Some(name.as_str()));
        }
        name
    }
}

async fn stored(store: &dyn Store, prefix: &str) -> Vec<bytes::Bytes> {
    store.range(prefix, None, 0).await.unwrap().items.into_iter().map(|i| i.value).collect()
}

async fn readable(store: &dyn Store, prefix: &str) -> bool {
    stored(store, prefix).await.iter().any(|v| memchr::memmem::find(v, HIDDEN.as_bytes()).is_some())
}

fn new_store() -> (Arc<dyn Store>, tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cred").join(config::FILE);
    (Arc::new(MemoryStore::new()), directory, file)
}

#[tokio::test]
async fn secrets_are_sealed_and_others_are_not() {
    let (store, _directory, file) = new_store();
    let own = opened(&store, &file).await.unwrap();
    let revision = own.put(SECRETS, "s", Expect::Absent).await;
    own.put(OTHERS, "c", Expect::Absent).await;
    assert!(!readable(&*store, SECRETS).await && readable(&*store, OTHERS).await);
    own.caches.fresh().await.unwrap();
    let cached = own.caches.get(SECRETS).unwrap().objects();
    assert_eq!(cached["n/s"].to_value()["data"]["text"], HIDDEN);
    assert_eq!(cached["n/s"].revision(), revision);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_sealed_value_passes_for_no_other() {
    let (store, _directory, file) = new_store();
    let own = opened(&store, &file).await.unwrap();
    own.put(SECRETS, "s", Expect::Absent).await;
    let value = stored(&*store, SECRETS).await.remove(0);
    let path = format!("{SECRETS}n/s");
    assert!(own.storage.decode(&path, &value, 1).is_ok());
    let moved = own.storage.decode(&format!("{SECRETS}n/other"), &value, 1).unwrap_err();
    assert!(moved.message.contains(config::FILE), "{moved}");
    let mut changed = value.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    assert!(own.storage.decode(&path, &changed, 1).is_err());
    for length in 0..value.len() {
        assert!(own.storage.decode(&path, &value[..length], 1).is_err());
    }
}

#[tokio::test]
async fn the_same_value_never_looks_the_same() {
    let (store, _directory, file) = new_store();
    let own = opened(&store, &file).await.unwrap();
    let first = own.put(SECRETS, "s", Expect::Absent).await;
    let before = stored(&*store, SECRETS).await;
    own.put(SECRETS, "s", Expect::Revision(first)).await;
    assert_ne!(before, stored(&*store, SECRETS).await);
}

#[tokio::test]
async fn a_missing_key_and_a_wrong_one_are_errors_that_name_the_file() {
    let (store, _directory, file) = new_store();
    opened(&store, &file).await.unwrap().put(SECRETS, "s", Expect::Absent).await;
    let kept = std::fs::read_to_string(&file).unwrap();
    let complaint = async || opened(&store, &file).await.err().unwrap().message;

    std::fs::remove_file(&file).unwrap();
    let message = complaint().await;
    assert!(message.contains(&file.display().to_string()) && message.contains("aesgcmkey-"), "{message}");
    assert!(!file.exists(), "no new key takes the place of the one that is missed");

    let mut config = Config::fresh();
    config.keys[0].name =
        serde_json::from_str::<serde_json::Value>(&kept).unwrap()["resources"][0]["providers"][0]["aesgcm"]["keys"][0]
            ["name"]
            .as_str()
            .unwrap()
            .to_owned();
    config.write(&file).unwrap();
    let message = complaint().await;
    assert!(message.contains("cannot be opened") && message.contains(&file.display().to_string()), "{message}");

    std::fs::write(&file, kept).unwrap();
    opened(&store, &file).await.unwrap();
}

#[tokio::test]
async fn what_was_plain_is_sealed_at_the_next_start() {
    let (store, _directory, file) = new_store();
    let before = Storage::new(store.clone(), Arc::new(Keyring::none()));
    for name in ["a", "b"] {
        let value = json!({"metadata": {"name": name, "namespace": "n"}, "data": {"text": HIDDEN}});
        storage::write(&before, SECRETS, &format!("n/{name}"), value, Expect::Absent).await.unwrap();
    }
    assert!(readable(&*store, SECRETS).await);
    let own = opened(&store, &file).await.unwrap();
    assert!(!readable(&*store, SECRETS).await);
    own.caches.fresh().await.unwrap();
    let objects = own.caches.get(SECRETS).unwrap().objects();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects["n/a"].to_value()["data"]["text"], HIDDEN);
    assert!(store.watch(0).await.is_err(), "history does not keep what was plain");
}

#[tokio::test]
async fn what_is_no_longer_named_in_the_file_becomes_plain() {
    let (store, _directory, file) = new_store();
    let mut config = Config::fresh();
    config.resources.push("configmaps".to_owned());
    config.write(&file).unwrap();
    opened(&store, &file).await.unwrap().put(OTHERS, "c", Expect::Absent).await;
    assert!(!readable(&*store, OTHERS).await);
    config.resources.pop();
    config.write(&file).unwrap();
    let own = opened(&store, &file).await.unwrap();
    assert!(readable(&*store, OTHERS).await);
    own.put(SECRETS, "s", Expect::Absent).await;
    own.enable(false).await;
    assert!(readable(&*store, SECRETS).await);
    own.enable(true).await;
    assert!(!readable(&*store, SECRETS).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_while_others_write() {
    const WRITERS: usize = 8;
    let (store, _directory, file) = new_store();
    let own = Arc::new(opened(&store, &file).await.unwrap());
    for n in 0..300 {
        own.put(SECRETS, &format!("kept-{n}"), Expect::Absent).await;
    }
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (own, stop) = (own.clone(), stop.clone());
            tokio::spawn(async move {
                let mut written = 0;
                while !stop.is_cancelled() || written == 0 {
                    let revision = own.put(SECRETS, &format!("w{w}-{written}"), Expect::Absent).await;
                    own.caches.reached(revision).await.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    let first = own.storage.keys().config().keys[0].name.clone();
    for _ in 0..3 {
        own.rotate().await.unwrap();
    }
    stop.cancel();
    let mut expected = 300;
    for w in writers {
        expected += w.await.unwrap();
    }
    let only = own.only_key().await;
    assert_ne!(only, first);
    own.caches.fresh().await.unwrap();
    assert_eq!(own.caches.get(SECRETS).unwrap().objects().len(), expected);
    // And so it is found by the next start, which reads everything.
    let again = opened(&store, &file).await.unwrap();
    assert_eq!(again.caches.get(SECRETS).unwrap().objects().len(), expected);
    assert_eq!(again.only_key().await, only);
}

#[tokio::test]
async fn a_rotation_that_was_cut_off_is_finished_at_the_next_start() {
    let (store, _directory, file) = new_store();
    {
        let own = opened(&store, &file).await.unwrap();
        for n in 0..10 {
            own.put(SECRETS, &format!("s-{n}"), Expect::Absent).await;
        }
        let keys = own.storage.keys();
        // The steps of a rotation up to where the process was killed: all keys, some values.
        keys.change(keys.config().with_new_key()).await.unwrap();
        let some = store.range(SECRETS, None, 4).await.unwrap();
        for item in &some.items {
            own.storage.rewrite(SECRETS, item).await.unwrap();
        }
        assert_eq!(keys.config().keys.len(), 2);
    }
    let own = opened(&store, &file).await.unwrap();
    own.only_key().await;
    own.caches.fresh().await.unwrap();
    assert_eq!(own.caches.get(SECRETS).unwrap().objects().len(), 10);
}

/// A measurement, not a test: `cargo test -p server -- --ignored --nocapture sealing`.
#[test]
#[ignore = "a measurement"]
fn what_sealing_and_opening_cost() {
    const TIMES: u32 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let keys = Keyring::load(&directory.path().join(config::FILE)).unwrap();
    for size in [200, 2_000, 20_000] {
        let plain = vec![b'x'; size];
        let begun = std::time::Instant::now();
        for _ in 0..TIMES {
            keys.seal(SECRETS, "/registry/core/secrets/n/s", &plain).unwrap();
        }
        let sealing = begun.elapsed() / TIMES;
        let sealed = keys.seal(SECRETS, "/registry/core/secrets/n/s", &plain).unwrap().unwrap();
        let begun = std::time::Instant::now();
        for _ in 0..TIMES {
            keys.open("/registry/core/secrets/n/s", &sealed).unwrap();
        }
        println!("{size} bytes: sealed in {sealing:?}, opened in {:?}", begun.elapsed() / TIMES);
    }
}
