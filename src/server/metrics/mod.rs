//! What the server counts, in the text format of Prometheus, by upstream's names.
//!
//! * [`requests`] – requests, streams, watch events.  [`admission`] – plugins and webhooks.
//! * [`process`] – the process and the build.  [`queues`] – what the controllers work off.
//!
//! Label texts are made when a series is first seen or read, so that counting costs little.

pub mod admission;
mod process;
mod queues;
pub mod requests;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use crate::Server;
use crate::storage;

/// Everything that is counted, but for flow control, which counts for itself.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests over HTTP.
    pub requests: requests::Requests,
    /// Admission.
    pub admission: Arc<admission::Times>,
    /// Health checks by name, endpoint and outcome.
    pub checks: Family<std::sync::atomic::AtomicU64>,
}

/// The series of one metric by their labels.
#[derive(Debug)]
pub struct Family<T>(Mutex<BTreeMap<String, Arc<T>>>);

impl<T> Default for Family<T> {
    fn default() -> Family<T> {
        Family(Mutex::default())
    }
}

impl<T: Default> Family<T> {
    /// The series of these labels, such as `verb="GET"`, if it was seen before.
    pub fn get(&self, labels: &str) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).get(labels).cloned()
    }

    /// The series of these labels.
    pub fn of(&self, labels: String) -> Arc<T> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).entry(labels).or_default().clone()
    }

    fn all(&self) -> Vec<(String, Arc<T>)> {
        let all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.iter().map(|(l, t)| (l.clone(), t.clone())).collect()
    }
}

/// Writes the two lines that stand before the samples of a metric.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value, as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Server {
    /// All metrics in the text exposition format.
    pub fn metrics_text(&self) -> String {
        let mut out = String::new();
        self.metrics().requests.write(&mut out);
        self.metrics().admission.write(&mut out);
        self.flow_control().write_metrics(&mut out);
        self.audit().write_metrics(&mut out);
        self.write_objects(&mut out);
        queues::write(&mut out, &self.config().queues);
        process::write(&mut out);
        out
    }

    fn write_objects(&self, out: &mut String) {
        let caches = self.registry().caches();
        let mut counted: BTreeMap<(String, String), usize> = BTreeMap::new();
        for r in self.resources().iter().filter(|r| r.stored && r.is_storage()) {
            if let Some(cache) = caches.get(&storage::prefix(r)) {
                counted.insert((r.group.clone(), r.plural.clone()), cache.len());
            }
        }
        const STORED: &str = "apiserver_storage_objects";
        head(out, STORED, "gauge", "Number of stored objects at the time of last check split by kind.");
        for ((group, plural), n) in &counted {
            let _ = writeln!(out, "{STORED}{{resource={:?}}} {n}", api::status::qualified(group, plural));
        }
        const OBJECTS: &str = "apiserver_resource_objects";
        head(out, OBJECTS, "gauge", "Number of stored objects at the time of last check split by kind.");
        for ((group, plural), n) in &counted {
            let _ = writeln!(out, "{OBJECTS}{{group={group:?},resource={plural:?}}} {n}");
        }
        const REVISION: &str = "sampan_store_revision";
        head(out, REVISION, "gauge", "The revision of the latest write that the watch cache shows.");
        let _ = writeln!(out, "{REVISION} {}", caches.applied());
    }

    /// The indicators of `/metrics/slis`: the outcome of each health check.
    pub async fn slis_text(&self) -> String {
        const NOW: &str = "kubernetes_healthcheck";
        let mut out = String::new();
        head(&mut out, NOW, "gauge", "This metric records the result of a single healthcheck.");
        for endpoint in ["healthz", "livez", "readyz"] {
            for check in self.health_checks(endpoint).await {
                let ok = u8::from(check.passed());
                let _ = writeln!(out, "{NOW}{{name={:?},type={endpoint:?}}} {ok}", check.name);
            }
        }
        const TOTAL: &str = "kubernetes_healthchecks_total";
        head(&mut out, TOTAL, "counter", "This metric records the results of all healthcheck.");
        for (labels, count) in self.metrics().checks.all() {
            let _ = writeln!(out, "{TOTAL}{{{labels}}} {}", count.load(std::sync::atomic::Ordering::Relaxed));
        }
        out
    }
}
