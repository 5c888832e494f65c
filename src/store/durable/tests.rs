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
            Err(Error::Corrupt { advice, .. }) => assert_eq!(advice, RESTORE_ADVICE),
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

/// Files below `directory`, in a fixed order.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(tree(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in tree(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

#[tokio::test]
async fn flipped_byte_in_the_state_is_noticed_and_made_good() {
    let original = tempfile::tempdir().unwrap();
    let store = DurableStore::open(Options::new(original.path())).unwrap();
    for index in 0..500_usize {
        // Much, and some of it large: pages that no start needs, and blobs.
        let length = if index % 200 == 0 { 100_000 } else { 1000 };
        let value: Vec<u8> = (0..length).map(|at: usize| (at * at + index) as u8).collect();
        store.put(&format!("key/{}", index % 400), value.into(), Expect::Any).await.unwrap();
    }
    let all = store.range("", None, 0).await.unwrap().items;
    store.close().await.unwrap();
    drop(store);
    let state = original.path().join(STATE);
    let mut rebuilt = 0;
    for file in tree(&state) {
        let whole = fs::read(&file).unwrap();
        // Behind the last byte that is in use there is nothing to damage.
        let used = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for offset in (0..used).step_by((used / 12).max(1)) {
            let directory = tempfile::tempdir().unwrap();
            copy(original.path(), directory.path());
            let damaged = directory.path().join(file.strip_prefix(original.path()).unwrap());
            let mut bytes = whole.clone();
            bytes[offset] ^= 0xff;
            fs::write(&damaged, bytes).unwrap();
            let store = DurableStore::open(Options::new(directory.path())).unwrap();
            let found = store.range("", None, 0).await.unwrap().items;
            assert!(found == all, "{} at {offset}", file.display());
            put(&store, "key/5", "it goes on").await;
            rebuilt += files(directory.path(), "damaged");
        }
    }
    assert!(rebuilt > 12, "{rebuilt} flips were noticed");
}

/// How many commits the next `count` events of a watch took.
async fn commits(watch: &mut Watch, count: usize) -> usize {
    let (mut events, mut commits) = (0, 0);
    while events < count {
        events += watch.events.recv().await.unwrap().unwrap().len();
        commits += 1;
    }
    commits
}

#[tokio::test]
async fn a_storm_of_unhurried_writes_shares_few_syncs() {
    const WRITES: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(DurableStore::open(Options::new(directory.path())).unwrap());
    let mut watch = store.watch(0).await.unwrap();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..WRITES)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put_unhurried(&format!("k{n}"), Bytes::new(), Expect::Absent).await })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.push(task.await.unwrap().unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=WRITES as u64).collect::<Vec<_>>());
    let commits = commits(&mut watch, WRITES).await;
    let allowed = 10 + begun.elapsed().as_millis() / 500 + 1;
    assert!(commits as u128 <= allowed, "{commits} commits in {:?}", begun.elapsed());
    drop(store);
    let store = DurableStore::open(Options::new(directory.path())).unwrap();
    assert_eq!(store.range("", None, 0).await.unwrap().items.len(), WRITES);
}

#[tokio::test]
async fn a_hurried_write_takes_those_along_that_wait() {
    let directory = tempfile::tempdir().unwrap();
    let store = DurableStore::open(Options::new(directory.path())).unwrap();
    for n in 0..11 {
        store.put_unhurried(&format!("k{n}"), Bytes::new(), Expect::Any).await.unwrap();
    }
    let mut watch = store.watch(11).await.unwrap();
    let both =
        async { tokio::join!(store.put_unhurried("waits", Bytes::new(), Expect::Any), put(&store, "hurries", "")) };
    let (waited, hurried) = both.await;
    assert_eq!((waited.unwrap(), hurried), (12, 13), "in the order in which they came");
    assert_eq!(commits(&mut watch, 2).await, 1);
}
