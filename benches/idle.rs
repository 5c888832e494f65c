//! What a server with an agent costs that does nothing: memory, processor, disk. After
//! `SAMPAN_BENCH_SETTLE` (20) seconds, over `SAMPAN_BENCH_SECONDS` (60). Reference: an idle etcd
//! in the same time, and the bytes that the kernel counts for one small durable append.
#![allow(missing_docs)]

mod lab;

use std::io::Write;
use std::time::Duration;

use lab::{Server, Target, figure, heading, number, pss_mib};

/// What a process has used so far.
#[derive(Clone, Copy)]
struct Usage {
    processor: Duration,
    written: u64,
    appended: u64,
}

fn usage(pid: u32) -> Usage {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // Nanoseconds on the processor; ticks would be too coarse for a process that idles.
    let nanoseconds = tasks.filter_map(|t| {
        std::fs::read_to_string(t.path().join("schedstat")).ok()?.split_whitespace().next()?.parse::<u64>().ok()
    });
    let io = format!("/proc/{pid}/io");
    Usage {
        processor: Duration::from_nanos(nanoseconds.sum()),
        written: number(&io, "write_bytes"),
        appended: number(&io, "wchar"),
    }
}

fn report(name: &str, pid: u32, before: Usage, seconds: f64, targets: [Target; 3]) {
    let now = usage(pid);
    let processor = (now.processor - before.processor).as_secs_f64() / seconds * 100.0;
    let rate = |now: u64, before: u64| (now - before) as f64 / seconds / 1024.0;
    figure(&format!("{name}: memory (PSS)"), pss_mib(pid), "MiB", targets[0]);
    figure(&format!("{name}: processor, of one core"), processor, "%", targets[1]);
    figure(&format!("{name}: to the disk"), rate(now.written, before.written), "kB/s", targets[2]);
    figure(
        &format!("{name}: by write(2), sockets included"),
        rate(now.appended, before.appended),
        "kB/s",
        Target::None,
    );
}

/// What the kernel counts for a durable append of a lease's size.
fn append_kib() -> f64 {
    const APPENDS: u64 = 50;
    let directory = lab::directory();
    let mut file = std::fs::File::create(directory.path().join("raw")).expect("a file");
    let own = std::process::id();
    let before = usage(own).written;
    for _ in 0..APPENDS {
        file.write_all(&[7; 600]).and_then(|()| file.sync_data()).expect("a durable write");
    }
    (usage(own).written - before) as f64 / APPENDS as f64 / 1024.0
}

#[tokio::main]
async fn main() {
    lab::on_own_host();
    let agent = lab::can_run_a_node();
    let server = Server::start(agent);
    drop(server.answers().await);
    let etcd = lab::etcd::Etcd::start();
    if let Some(etcd) = &etcd {
        drop(etcd.answers().await);
    }
    tokio::time::sleep(Duration::from_secs(lab::setting("SAMPAN_BENCH_SETTLE", 20))).await;
    let seconds = lab::setting("SAMPAN_BENCH_SECONDS", 60);
    let before = usage(server.pid());
    let etcd_before = etcd.as_ref().map(|e| usage(e.pid()));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    heading(if agent { "idle, server and agent" } else { "idle, server alone (no rights to run an agent)" });
    let targets = [Target::AtMost(40.0), Target::AtMost(0.5), Target::AtMost(1.0)];
    report("sampan", server.pid(), before, seconds as f64, targets);
    figure("reference: one durable append of 600 bytes", append_kib(), "kB", Target::None);
    match (&etcd, etcd_before) {
        (Some(etcd), Some(before)) => report("etcd", etcd.pid(), before, seconds as f64, [Target::None; 3]),
        _ => println!("reference: etcd is not installed"),
    }
}
