//! An API server that is measured, and figures of two of them beside each other.

use std::path::Path;
use std::time::Duration;

use crate::lab::https::Endpoint;
use crate::lab::{self, Target};

/// See the module.
pub struct Subject {
    pub endpoint: Endpoint,
    /// The processes that it is.
    pub processes: Vec<u32>,
}

impl Subject {
    /// The server to compare with, where there is one.
    pub fn reference() -> anyhow::Result<Option<Subject>> {
        let Some(path) = std::env::var_os("SAMPAN_BENCH_REFERENCE_KUBECONFIG") else { return Ok(None) };
        let pids = std::env::var("SAMPAN_BENCH_REFERENCE_PIDS").unwrap_or_default();
        let processes = pids.split(',').filter_map(|p| p.parse().ok()).collect();
        Ok(Some(Subject { endpoint: Endpoint::of(Path::new(&path))?, processes }))
    }

    /// Its memory (PSS) in MiB once `SAMPAN_BENCH_SETTLE` (10) seconds have gone.
    pub async fn settled_memory(&self) -> f64 {
        tokio::time::sleep(Duration::from_secs(lab::setting("SAMPAN_BENCH_SETTLE", 10))).await;
        self.processes.iter().map(|p| lab::pss_mib(*p)).sum()
    }
}

/// What was measured, in order.
#[derive(Default)]
pub struct Figures(Vec<(String, f64, &'static str, Target)>);

impl Figures {
    pub fn add(&mut self, name: String, value: f64, unit: &'static str, target: Target) {
        self.0.push((name, value, unit, target));
    }

    /// Prints them, each with the reference's figure of the same name below it.
    pub fn print(&self, subject: &str, reference: Option<&Figures>) {
        lab::heading(subject);
        for (name, value, unit, target) in &self.0 {
            lab::figure(name, *value, unit, *target);
            let other = reference.and_then(|r| r.0.iter().find(|(n, ..)| n == name));
            if let Some((_, other, ..)) = other {
                println!(
                    "{:<46}{:>16}{:>16}",
                    "  reference",
                    format!("{other:.1} {unit}"),
                    format!("ratio {:.2}", other / value)
                );
            }
        }
    }
}
