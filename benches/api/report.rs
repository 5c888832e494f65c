//! The table of what was measured, with the targets of DESIGN.md.

use super::lab::percentile;
use super::load::Measured;
use super::operations::Operation;
use super::subject::Subject;
use super::workload::{CLIENTS, Kind, Plan};

/// What is promised: so many times the reference, and what that is where none is at hand, from what upstream's was once seen to do.
struct Promise {
    times: f64,
    alone: f64,
}

fn promise(operation: Operation, kind: Kind) -> Option<Promise> {
    match (operation, kind) {
        (Operation::Create, Kind::Pods) => Some(Promise { times: 10.0, alone: 4670.0 }),
        (Operation::List, Kind::Pods) => Some(Promise { times: 20.0, alone: 20.0 / 0.707 }),
        (Operation::FanOut, Kind::ConfigMaps) => Some(Promise { times: 20.0, alone: 216_000.0 }),
        _ => None,
    }
}

/// The most memory that 5000 stored pods may make.
const MEMORY_MIB: f64 = 120.0;

pub struct Report;

impl Report {
    pub fn new(plan: &Plan, kind: Kind, subjects: &[Subject]) -> Report {
        println!("\n{} {}, {CLIENTS} clients, {}", plan.objects, kind.plural(), plan.encoding.name());
        let columns = format!("{:>10}{:>9}{:>9}{:>9}{:>8}", "per s", "p50 ms", "p99 ms", "cpu us", "MB/s");
        print!("{:<24}", "");
        subjects.iter().for_each(|s| print!("{:>45}", s.name));
        print!("\n{:<24}", "");
        subjects.iter().for_each(|_| print!("{columns}"));
        println!("{:>9}  target", if subjects.len() > 1 { "times" } else { "" });
        Report
    }

    /// One operation, as each of the subjects did it.
    pub fn row(&mut self, operation: Operation, kind: Kind, measured: &[Measured]) {
        print!("{:<24}", operation.name());
        for m in measured {
            let mut latencies = m.latencies.clone();
            let [p50, p99] = [0.5, 0.99].map(|p| percentile(&mut latencies, p));
            let cpu = m.cpu.as_secs_f64() * 1e6 / m.count.max(1) as f64;
            let megabytes = m.bytes as f64 / 1e6 / m.took.as_secs_f64();
            print!("{:>10.1}{p50:>9.2}{p99:>9.2}{cpu:>9.0}{megabytes:>8.1}", m.per_second());
        }
        let promise = promise(operation, kind);
        match measured {
            [ours, reference] => {
                let times = ours.per_second() / reference.per_second();
                print!("{times:>8.1}x");
                verdict(promise.map(|p| p.times), times, "x");
            }
            _ => {
                print!("{:>9}", "");
                verdict(promise.map(|p| p.alone), measured[0].per_second(), "/s");
            }
        }
    }

    /// What the subjects hold in memory.
    pub fn memory(&mut self, name: &str, kind: Kind, subjects: &[Subject]) {
        let figures: Vec<f64> = subjects.iter().map(Subject::memory_mib).collect();
        print!("{name:<24}");
        figures.iter().for_each(|f| print!("{f:>10.1}{:>35}", ""));
        match figures.as_slice() {
            [ours, reference] => print!("{:>8.1}x", reference / ours),
            _ => print!("{:>9}", ""),
        }
        let missed = figures[0] > MEMORY_MIB;
        match kind {
            Kind::Pods => println!("  <= {MEMORY_MIB} MiB{}", if missed { "  missed" } else { "" }),
            Kind::ConfigMaps => println!(),
        }
    }
}

fn verdict(target: Option<f64>, value: f64, unit: &str) {
    match target {
        Some(t) => println!("  >= {t:.0}{unit}{}", if value < t { "  missed" } else { "" }),
        None => println!(),
    }
}
