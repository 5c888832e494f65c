//! What only the store on disk does: its lock, its recovery, its upkeep.

use super::*;

async fn put(store: &DurableStore, key: &str, text: &'static str) -> Revision {
    store.put(key, Bytes::from_static(text.as_bytes()), Expect::Any).await.unwrap()
}

fn files(directory: &Path, suffix: &str) -> usize {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains(suffix)).count()
}

#[tokio::test]
async fn second_open_of_a_directory_is_locked_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = DurableStore::open(Options::new(directory.path())).unwrap();
    let second = DurableStore::open(Options::new(directory.path()));
    assert!(matches!(second, Err(Error::Locked(_))));
    drop(store);
    DurableStore::open(Options::new(directory.path())).unwrap();
}

#[tokio::test]
async fn damaged_state_is_rebuilt_from_a_whole_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = DurableStore::open(Options::new(directory.path())).unwrap();
    for _ in 0..20 {
        put(&store, "a", "1").await;
        put(&store, "b", "2").await;
    }
    store.close().await.unwrap();
    drop(store);
    fs::remove_dir_all(directory.path().join(STATE)).unwrap();
    fs::create_dir(directory.path().join(STATE)).unwrap();
    let store = DurableStore::open(Options::new(directory.path())).unwrap();
    assert_eq!(store.range("", None, 0).await.unwrap().items.len(), 2);
    assert_eq!(put(&store, "c", "3").await, 41);
    assert_eq!(files(directory.path(), "damaged"), 1, "nothing is thrown away");
}

#[tokio::test]
async fn damaged_state_behind_a_trimmed_log_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64, ..Options::new(directory.path()) };
    let store = DurableStore::open(options.clone()).unwrap();
    for _ in 0..20 {
        put(&store, "a", "1").await;
    }
    store.compact(15).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    fs::remove_dir_all(directory.path().join(STATE)).unwrap();
    for _ in 0..2 {
        match DurableStore::open(options.clone()) {
            Err(Error::Corrupt { advice, .. }) => assert!(advice.contains("snapshot")),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("lost data went unnoticed"),
        }
    }
}

#[tokio::test]
async fn checkpoint_drops_the_log_that_nothing_needs() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 10,
        checkpoint_bytes: 8 << 10,
        history_window: Duration::ZERO,
        ..Options::new(directory.path())
    };
    let store = DurableStore::open(options).unwrap();
    let mut dropped = false;
    for _ in 0..100_000 {
        put(&store, "a", "some text that fills the log").await;
        dropped = store.watch(0).await.is_err();
        if dropped {
            break;
        }
    }
    assert!(dropped, "history is trimmed");
    store.close().await.unwrap();
    assert!(files(directory.path(), ".log") < 5);
}

#[tokio::test]
async fn nearly_full_disk_refuses_writes_and_serves_reads() {
    let directory = tempfile::tempdir().unwrap();
    let store = DurableStore::open(Options::new(directory.path())).unwrap();
    put(&store, "a", "1").await;
    drop(store);
    let options = Options { reserve_bytes: u64::MAX, ..Options::new(directory.path()) };
    let store = DurableStore::open(options).unwrap();
    let refused = store.put("a", Bytes::new(), Expect::Any).await;
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert_eq!(store.get("a").await.unwrap().unwrap().revision, 1);
}
