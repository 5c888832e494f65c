//! A load on the API over HTTPS, as upstream's and ours answer it: create, get, update, patch,
//! list, paged list, watch fan-out and delete of `SAMPAN_BENCH_OBJECTS` (5000) pods and as many
//! config maps, 32 clients with a connection each. The server is one of its own with default
//! flags, without an agent.
//!
//! With `SAMPAN_BENCH_REFERENCE_KUBECONFIG` every operation is then done to that server as well,
//! such as upstream's kube-apiserver, and the targets of DESIGN.md are measured against it;
//! without, against what it was once seen to do. `SAMPAN_BENCH_REFERENCE_PIDS` (with commas) are
//! the processes whose processor time and memory count as its own, its store among them.
//! `SAMPAN_BENCH_ENCODING=protobuf` sends and asks for protobuf where a kind has it.
//! `SAMPAN_BENCH_WRITES` (2000) is how much is written while 100 watchers look on.
//!
//! The clients run on the same processors as the servers, which take turns, one operation each:
//! what else loads the machine loads both.
#![allow(missing_docs)]

mod encoding;
#[path = "../lab/mod.rs"]
mod lab;
mod load;
mod operations;
mod report;
mod subject;
mod workload;

use std::time::Duration;

use encoding::Encoding;
use lab::{Target, figure, percentile, raw_writes, setting};
use operations::Operation;
use report::Report;
use subject::Subject;
use workload::{Kind, Plan};

#[tokio::main]
async fn main() {
    let plan = Plan {
        objects: setting("SAMPAN_BENCH_OBJECTS", 5000),
        writes: setting("SAMPAN_BENCH_WRITES", 2000),
        encoding: Encoding::of_environment(),
    };
    let mut subjects = vec![Subject::ours().await];
    subjects.extend(Subject::reference().await);
    for subject in &subjects {
        subject.prepare().await;
    }
    for kind in [Kind::Pods, Kind::ConfigMaps] {
        let mut report = Report::new(&plan, kind, &subjects);
        for operation in Operation::ALL {
            let mut measured = Vec::new();
            for subject in &subjects {
                measured.push(operation.run(subject, kind, &plan).await);
            }
            report.row(operation, kind, &measured);
            if operation == Operation::Create {
                report.memory("memory then, MiB", kind, &subjects);
            }
        }
        report.memory("memory at the end, MiB", kind, &subjects);
    }
    for subject in &subjects {
        subject.clean_up().await;
    }
    println!();
    let mut raw = raw_writes(2048, Duration::from_secs(setting("SAMPAN_BENCH_SECONDS", 3)));
    figure("the disk: write + fdatasync of 2 KiB, 1 writer", 1000.0 / percentile(&mut raw, 0.5), "/s", Target::None);
}
