//! Random histories of writes by concurrent clients, and what lists, watches and informers make of
//! them while they reconnect and the server is started again: the guarantees that clients build on
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).
//!
//! * [`world`] – a server that can be started again; [`writers`], [`watchers`], [`pages`], [`informers`] – its clients.
//!
//! `PROPTEST_CASES` says how many histories there are; a failure names its seed.

mod informers;
mod pages;
mod watchers;
mod world;
mod writers;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::watchers::Watcher;
use self::world::World;

/// What is written and watched.
const KINDS: [&str; 3] = ["api/v1/%/configmaps", "api/v1/%/secrets", "apis/coordination.k8s.io/v1/%/leases"];
const NAMESPACES: [&str; 2] = ["red", "blue"];
const SELECTORS: [&str; 3] = ["", "labelSelector=side%3Dleft", "fieldSelector=metadata.name%3Dn1"];
const WRITES: usize = 60;

async fn history(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::start(seed).await;
    let mut watchers: Vec<Watcher> = Vec::new();
    for kind in 0..KINDS.len() {
        for _ in 0..3 {
            let (place, selector) =
                (random.random_range(0..=NAMESPACES.len()), random.random_range(0..SELECTORS.len()));
            watchers.push(Watcher::new(
                &world,
                kind,
                NAMESPACES.get(place).copied(),
                SELECTORS[selector],
                random.random(),
            ));
        }
        // One of each kind sees everything.
        watchers.push(Watcher::new(&world, kind, None, "", random.random()));
    }
    let watching: Vec<_> = watchers.into_iter().map(|w| tokio::spawn(w.run())).collect();
    let informing = informers::start(&world, random.random());
    for round in 0..3 {
        if round > 0 {
            world.start_again().await;
        }
        let writing: Vec<_> = (0..3).map(|_| tokio::spawn(writers::run(world.clone(), random.random()))).collect();
        let paging = tokio::spawn(pages::run(world.clone(), random.random()));
        for task in writing {
            task.await.unwrap();
        }
        paging.await.unwrap();
    }
    let end = world.finish();
    for task in watching {
        let seen = in_time("a watch", task).await.unwrap();
        seen.check(&world, end).await;
    }
    in_time("an informer", informing.settle(&world)).await;
    drop(informing);
    world.end().await;
}

async fn in_time<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), done).await;
    done.unwrap_or_else(|_| panic!("{what} did not come to the end of the history"))
}

#[test]
fn no_event_is_lost_or_doubled_across_reconnects_and_restarts() {
    fuzzing::decoder::check(2, proptest::prelude::any::<u64>(), |seed| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(history(seed));
    });
}
