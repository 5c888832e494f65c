//! `kill -9` while 32 tasks write: the test runs itself as a child process, kills
//! it at a random moment, reopens the directory and checks it against every
//! acknowledgement that the child printed and everything earlier rounds saw.
//!
//! `STORE_KILLS=1000` sets the number of rounds. A kill leaves the page cache, so
//! this proves recovery of a real log, sled and checkpoint together; what a power
//! cut adds is proven by the simulated disk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use store::{DurableStore, Event, Expect, Options, Revision, Store};

const CHILD: &str = "STORE_KILL_CHILD";
const TASKS: usize = 32;
const KEYS_PER_TASK: usize = 8;

fn options(directory: &Path) -> Options {
    Options {
        // Small, so that a round of a second crosses many segments and checkpoints.
        segment_bytes: 64 << 10,
        checkpoint_bytes: 256 << 10,
        history_bytes: 4 << 20,
        history_window: Duration::from_millis(500),
        reserve_bytes: 0,
        ..Options::new(directory)
    }
}

/// The child: writes until it is killed and prints what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let store = Arc::new(DurableStore::open(options(Path::new(&directory))).unwrap());
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(write(store.clone(), task))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn write(store: Arc<DurableStore>, task: usize) {
    for index in 0.. {
        let key = format!("{task}/{}", index % KEYS_PER_TASK);
        let (revision, what) = if index % 11 == 10 {
            (store.delete(&key, Expect::Any).await.unwrap(), "deleted".to_owned())
        } else {
            let text = format!("{task}-{index}-{}", "x".repeat(index * 37 % 3000));
            let value = Bytes::from(text.clone());
            (store.put(&key, value, Expect::Any).await.unwrap(), text)
        };
        let line = format!("ack {revision} {key} {what}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

#[derive(Default)]
struct Known {
    /// The state at `revision`, folded from every event so far.
    state: BTreeMap<Arc<str>, (Revision, Bytes)>,
    revision: Revision,
    /// Rounds whose every event was seen.
    whole_rounds: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_loses_nothing_acknowledged() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let rounds = std::env::var("STORE_KILLS").map_or(20, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    let mut acknowledged = 0;
    for round in 0..rounds {
        let acks = run_and_kill(directory.path(), rand::rng().random_range(1..1500));
        acknowledged += acks.len();
        verify(directory.path(), &acks, &mut known, round).await;
    }
    assert!(known.whole_rounds > 0, "no round was checked event by event");
    println!(
        "{rounds} kills, {acknowledged} acknowledged writes, 0 lost; in {} rounds every event seen",
        known.whole_rounds
    );
}

/// Runs the child until it has printed `count` acknowledgements and kills it.
fn run_and_kill(directory: &Path, count: usize) -> Vec<(Revision, String, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acks = Vec::new();
    let mut killed = false;
    loop {
        let mut line = String::new();
        // What it printed before it died counts; a line that was cut short does not.
        if lines.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
            break;
        }
        // The test runner's own words share the first line.
        if let Some(at) = line.find("ack ") {
            let mut words = line[at..].split_whitespace().skip(1).map(str::to_owned);
            let mut word = || words.next().unwrap();
            acks.push((word().parse().unwrap(), word(), word()));
        }
        if acks.len() >= count && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself after {} acknowledgements", acks.len());
    acks
}

async fn verify(directory: &Path, acks: &[(Revision, String, String)], known: &mut Known, round: usize) {
    let store = DurableStore::open(options(directory)).unwrap();
    let end = store.revision();
    let newest = acks.iter().map(|ack| ack.0).max().unwrap_or(0);
    assert!(end >= newest, "round {round}: Durable: {newest} was acknowledged, {end} is the end");

    let range = store.range("", None, 0).await.unwrap();
    let state: BTreeMap<_, _> =
        range.items.into_iter().map(|entry| (entry.key, (entry.revision, entry.value))).collect();

    let mut history: BTreeMap<Revision, Event> = BTreeMap::new();
    match store.watch(known.revision).await {
        Ok(mut watch) => {
            let mut next = known.revision + 1;
            while next <= end {
                for event in watch.events.recv().await.unwrap().unwrap().iter() {
                    assert_eq!(event.revision, next, "round {round}: Gapless");
                    next += 1;
                    match &event.value {
                        Some(value) => {
                            known.state.insert(event.key.clone(), (event.revision, value.clone()));
                        }
                        None => {
                            known.state.remove(&event.key);
                        }
                    }
                    history.insert(event.revision, event.clone());
                }
            }
            known.whole_rounds += 1;
            assert_eq!(state, known.state, "round {round}: the state is the fold of the events");
        }
        // A long round outlives the short window; the state then stands for itself.
        Err(store::Error::Compacted { .. }) => known.state = state.clone(),
        Err(other) => panic!("round {round}: {other}"),
    }
    known.revision = end;

    for (revision, key, what) in acks {
        if let Some(event) = history.get(revision) {
            let value = event.value.as_deref().unwrap_or(b"deleted");
            // A deletion of what is not there is acknowledged at another write's revision.
            if what != "deleted" || event.value.is_none() {
                assert_eq!((&*event.key, value), (key.as_str(), what.as_bytes()), "round {round}");
            }
        }
        // Each key has one writer: it holds this write or a later one.
        if what != "deleted"
            && let Some((held, value)) = state.get(key.as_str())
        {
            assert!(held >= revision, "round {round}: Durable: {key} went back to {held}");
            assert!(held > revision || value == what.as_bytes(), "round {round}: {key}");
        }
    }
    drop(store);
}
