//! `/stats/summary` and the metrics that metrics-server and Prometheus read.
//! Rates are computed from the reading before; the runtime gives counters only.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Mutex;

use api::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::container_names;
use crate::kubelet::Shared;
use crate::kubelet::cri::{Error, v1};
use crate::kubelet::pods::Pods;

/// Readings of CPU counters: when (ns), counter (ns), and the rate then (nano-cores).
#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<HashMap<String, (i64, u64, u64)>>);

fn of_runtime(e: Error) -> Status {
    Status::internal(e)
}

fn number(v: Option<&v1::UInt64Value>) -> u64 {
    v.map_or(0, |v| v.value)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// CPU time of the whole machine without idling, ns.
fn node_cpu() -> u64 {
    let text = read("/proc/stat");
    let ticks: Vec<u64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    let busy: u64 = ticks.iter().take(8).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, t)| t).sum();
    // A hundred ticks a second on every Linux there is.
    busy * 10_000_000
}

struct Memory {
    available: u64,
    usage: u64,
    working_set: u64,
}

fn node_memory() -> Memory {
    let text = read("/proc/meminfo");
    let get = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let (total, free, available) = (get("MemTotal"), get("MemFree"), get("MemAvailable"));
    Memory { available, usage: total.saturating_sub(free), working_set: total.saturating_sub(available) }
}

fn filesystem(path: &std::path::Path) -> Value {
    let Ok(s) = nix::sys::statvfs::statvfs(path) else { return json!({}) };
    let size = s.fragment_size();
    json!({
        "time": Timestamp::now(),
        "availableBytes": s.blocks_available() * size,
        "capacityBytes": s.blocks() * size,
        "usedBytes": s.blocks().saturating_sub(s.blocks_free()) * size,
        "inodesFree": s.files_available(),
        "inodes": s.files(),
        "inodesUsed": s.files().saturating_sub(s.files_free()),
    })
}

impl Stats {
    fn rate(&self, id: &str, at: i64, counter: u64) -> u64 {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let rate = match kept.get(id) {
            Some((before, old, _)) if at > *before && counter >= *old => {
                let nanos = u128::from(counter - old) * 1_000_000_000;
                u64::try_from(nanos / u128::from((at - before).unsigned_abs())).unwrap_or(0)
            }
            Some((_, _, rate)) => *rate,
            None => 0,
        };
        if kept.get(id).is_none_or(|(before, ..)| at - before > 1_000_000_000) {
            kept.insert(id.to_owned(), (at, counter, rate));
        }
        if kept.len() > 10_000 {
            kept.clear();
        }
        rate
    }

    fn cpu(&self, id: &str, at: i64, counter: u64) -> Value {
        let rate = self.rate(id, at, counter);
        json!({"time": crate::kubelet::actions::time_of(at), "usageNanoCores": rate, "usageCoreNanoSeconds": counter})
    }

    fn memory(at: i64, m: Option<&v1::MemoryUsage>) -> Value {
        let Some(m) = m else { return json!({}) };
        json!({
            "time": crate::kubelet::actions::time_of(at),
            "availableBytes": number(m.available_bytes.as_ref()),
            "usageBytes": number(m.usage_bytes.as_ref()),
            "workingSetBytes": number(m.working_set_bytes.as_ref()),
            "rssBytes": number(m.rss_bytes.as_ref()),
            "pageFaults": number(m.page_faults.as_ref()),
            "majorPageFaults": number(m.major_page_faults.as_ref()),
        })
    }

    pub(super) async fn summary(&self, shared: &Shared, pods: &Pods) -> Result<Value, Status> {
        let containers = shared.runtime.container_stats().await.map_err(of_runtime)?;
        let sandboxes = shared.runtime.sandbox_stats().await.unwrap_or_default();
        let mut by_pod: HashMap<String, Vec<Value>> = HashMap::new();
        for c in &containers {
            let Some(a) = &c.attributes else { continue };
            let Some((_, _, uid, name)) = container_names(&a.labels) else { continue };
            let at = c.cpu.as_ref().map_or(0, |c| c.timestamp);
            let counter = number(c.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds.as_ref()));
            by_pod.entry(uid).or_default().push(json!({
                "name": name,
                "cpu": self.cpu(&a.id, at, counter),
                "memory": Self::memory(at, c.memory.as_ref()),
                "rootfs": {
                    "time": Timestamp::now(),
                    "usedBytes": number(c.writable_layer.as_ref().and_then(|w| w.used_bytes.as_ref())),
                    "inodesUsed": number(c.writable_layer.as_ref().and_then(|w| w.inodes_used.as_ref())),
                },
            }));
        }
        let mut list = Vec::new();
        for s in &sandboxes {
            let (Some(a), Some(l)) = (&s.attributes, &s.linux) else { continue };
            let Some(m) = &a.metadata else { continue };
            let at = l.cpu.as_ref().map_or(0, |c| c.timestamp);
            let counter = number(l.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds.as_ref()));
            let interface = l.network.as_ref().and_then(|n| n.default_interface.as_ref());
            list.push(json!({
                "podRef": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
                "startTime": pods.find(&m.namespace, &m.name).and_then(|(p, _)| p.status.clone()?.start_time),
                "containers": by_pod.remove(&m.uid).unwrap_or_default(),
                "cpu": self.cpu(&a.id, at, counter),
                "memory": Self::memory(at, l.memory.as_ref()),
                "network": interface.map(|i| json!({
                    "time": crate::kubelet::actions::time_of(at), "name": i.name,
                    "rxBytes": number(i.rx_bytes.as_ref()), "rxErrors": number(i.rx_errors.as_ref()),
                    "txBytes": number(i.tx_bytes.as_ref()), "txErrors": number(i.tx_errors.as_ref()),
                })),
                "process_stats": {"process_count": number(l.process.as_ref().and_then(|p| p.process_count.as_ref()))},
            }));
        }
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0);
        let memory = node_memory();
        Ok(json!({
            "node": {
                "nodeName": shared.config.node_name,
                "cpu": self.cpu("", now, node_cpu()),
                "memory": {
                    "time": Timestamp::now(), "availableBytes": memory.available,
                    "usageBytes": memory.usage, "workingSetBytes": memory.working_set,
                },
                "fs": filesystem(shared.paths.data()),
                "runtime": {"imageFs": filesystem(&shared.paths.containerd_root())},
            },
            "pods": list,
        }))
    }

    /// What metrics-server reads.
    pub(super) async fn resource(&self, shared: &Shared) -> Result<String, Status> {
        let containers = shared.runtime.container_stats().await.map_err(of_runtime)?;
        let sandboxes = shared.runtime.sandbox_stats().await.unwrap_or_default();
        let mut out = String::new();
        let now = Timestamp::now().as_millisecond();
        let seconds = |ns: u64| ns as f64 / 1e9;
        let memory = node_memory();
        let _ = writeln!(
            out,
            "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {} {now}",
            seconds(node_cpu())
        );
        let _ = writeln!(
            out,
            "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {} {now}",
            memory.working_set
        );
        let mut tables: [(&str, &str, String); 5] = [
            ("container_cpu_usage_seconds_total", "counter", String::new()),
            ("container_memory_working_set_bytes", "gauge", String::new()),
            ("container_start_time_seconds", "gauge", String::new()),
            ("pod_cpu_usage_seconds_total", "counter", String::new()),
            ("pod_memory_working_set_bytes", "gauge", String::new()),
        ];
        let started: HashMap<String, i64> = shared
            .runtime
            .list_containers(&[])
            .await
            .map_err(of_runtime)?
            .into_iter()
            .map(|c| (c.id, c.created_at))
            .collect();
        for c in &containers {
            let Some(a) = &c.attributes else { continue };
            let Some((namespace, pod, _, name)) = container_names(&a.labels) else { continue };
            let labels = format!("{{container=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\"}}");
            let (Some(cpu), Some(m)) = (&c.cpu, &c.memory) else { continue };
            let at = cpu.timestamp / 1_000_000;
            let _ = writeln!(
                tables[0].2,
                "{}{labels} {} {at}",
                tables[0].0,
                seconds(number(cpu.usage_core_nano_seconds.as_ref()))
            );
            let _ = writeln!(tables[1].2, "{}{labels} {} {at}", tables[1].0, number(m.working_set_bytes.as_ref()));
            if let Some(ns) = started.get(&a.id) {
                let _ = writeln!(tables[2].2, "{}{labels} {}", tables[2].0, *ns as f64 / 1e9);
            }
        }
        for s in &sandboxes {
            let (Some(m), Some(l)) = (s.attributes.as_ref().and_then(|a| a.metadata.as_ref()), &s.linux) else {
                continue;
            };
            let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", m.namespace, m.name);
            let (Some(cpu), Some(memory)) = (&l.cpu, &l.memory) else { continue };
            let at = cpu.timestamp / 1_000_000;
            let _ = writeln!(
                tables[3].2,
                "{}{labels} {} {at}",
                tables[3].0,
                seconds(number(cpu.usage_core_nano_seconds.as_ref()))
            );
            let _ = writeln!(tables[4].2, "{}{labels} {} {at}", tables[4].0, number(memory.working_set_bytes.as_ref()));
        }
        for (name, kind, lines) in tables {
            let _ = write!(out, "# TYPE {name} {kind}\n{lines}");
        }
        let _ = writeln!(out, "# TYPE resource_scrape_error gauge\nresource_scrape_error 0");
        Ok(out)
    }

    /// The basics of cAdvisor's metrics.
    pub(super) async fn cadvisor(&self, shared: &Shared) -> Result<String, Status> {
        let containers = shared.runtime.container_stats().await.map_err(of_runtime)?;
        let mut cpu = String::from("# TYPE container_cpu_usage_seconds_total counter\n");
        let mut working = String::from("# TYPE container_memory_working_set_bytes gauge\n");
        let mut usage = String::from("# TYPE container_memory_usage_bytes gauge\n");
        let mut rss = String::from("# TYPE container_memory_rss gauge\n");
        let mut disk = String::from("# TYPE container_fs_usage_bytes gauge\n");
        for c in &containers {
            let Some(a) = &c.attributes else { continue };
            let Some((namespace, pod, _, name)) = container_names(&a.labels) else { continue };
            let labels = format!(
                "{{container=\"{name}\",id=\"{}\",name=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}",
                a.id, a.id
            );
            let seconds = number(c.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds.as_ref())) as f64 / 1e9;
            let _ = writeln!(cpu, "container_cpu_usage_seconds_total{labels} {seconds}");
            if let Some(m) = &c.memory {
                let _ = writeln!(
                    working,
                    "container_memory_working_set_bytes{labels} {}",
                    number(m.working_set_bytes.as_ref())
                );
                let _ = writeln!(usage, "container_memory_usage_bytes{labels} {}", number(m.usage_bytes.as_ref()));
                let _ = writeln!(rss, "container_memory_rss{labels} {}", number(m.rss_bytes.as_ref()));
            }
            let used = number(c.writable_layer.as_ref().and_then(|w| w.used_bytes.as_ref()));
            let _ = writeln!(disk, "container_fs_usage_bytes{labels} {used}");
        }
        let machine = format!(
            "# TYPE machine_cpu_cores gauge\nmachine_cpu_cores {}\n# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {}\n",
            shared.machine.cpu_millis / 1000,
            shared.machine.memory_bytes
        );
        Ok(format!("{cpu}{working}{usage}{rss}{disk}{machine}"))
    }

    /// The kubelet's own.
    pub(super) fn own(&self, pods: &Pods) -> String {
        let list = pods.list();
        let running: usize = list.iter().map(|(_, s)| s.running().count()).sum();
        let with_sandbox = list.iter().filter(|(_, s)| s.ready_sandbox().is_some()).count();
        format!(
            "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {with_sandbox}\n\
             # TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n\
             # TYPE kubelet_active_pods gauge\nkubelet_active_pods {}\n\
             # TYPE kubernetes_build_info gauge\nkubernetes_build_info{{git_version=\"{}\"}} 1\n",
            list.len(),
            api::VERSION
        )
    }
}
