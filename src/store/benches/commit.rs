//! Commit throughput and latency beside the disk's own.
//!
//! For 1, 32 and 256 writers of 2 KiB values: operations per second, median and
//! 99th percentile. Next to it, in the same run and on the same disk, a bare
//! `write` + `fdatasync` of the same size in a loop: what one durable write costs
//! without a store. `STORE_BENCH_DIR` chooses the disk, `STORE_BENCH_SECONDS` the
//! time of each measurement (3).
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{DurableStore, Expect, Options, Store};

const VALUE_BYTES: usize = 2048;

fn main() {
    let seconds = std::env::var("STORE_BENCH_SECONDS").map_or(3.0, |text| text.parse().unwrap());
    let time = Duration::from_secs_f64(seconds);
    let directory = match std::env::var_os("STORE_BENCH_DIR") {
        Some(base) => tempfile::tempdir_in(base).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    println!("{:<28}{:>10}{:>12}{:>12}", "2 KiB values", "ops/s", "p50", "p99");
    report("write + fdatasync, 1 writer", raw(directory.path(), time), time);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for writers in [1, 32, 256] {
        let latencies = runtime.block_on(store(directory.path(), writers, time));
        report(&format!("store, {writers} writers"), latencies, time);
    }
    report("write + fdatasync, again", raw(directory.path(), time), time);
}

fn raw(directory: &Path, time: Duration) -> Vec<Duration> {
    let mut file = std::fs::File::create(directory.join("raw")).unwrap();
    let value = vec![7; VALUE_BYTES];
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        file.write_all(&value).unwrap();
        file.sync_data().unwrap();
        latencies.push(start.elapsed());
    }
    latencies
}

async fn store(directory: &Path, writers: usize, time: Duration) -> Vec<Duration> {
    let directory = directory.join(format!("store-{writers}"));
    let store = Arc::new(DurableStore::open(Options::new(&directory)).unwrap());
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let value = Bytes::from(vec![writer as u8; VALUE_BYTES]);
                let mut latencies = Vec::new();
                while begun.elapsed() < time {
                    let key = format!("/registry/pods/{writer}/{}", latencies.len() % 1000);
                    let start = Instant::now();
                    store.put(&key, value.clone(), Expect::Any).await.unwrap();
                    latencies.push(start.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    store.close().await.unwrap();
    latencies
}

fn report(name: &str, mut latencies: Vec<Duration>, time: Duration) {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let rate = latencies.len() as f64 / time.as_secs_f64();
    println!("{name:<28}{rate:>10.0}{:>12.2?}{:>12.2?}", at(0.5), at(0.99));
}
