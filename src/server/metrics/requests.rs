//! Requests: how many, how long, how large; streams that are open; watch events
//! (upstream: `apiserver/pkg/endpoints/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use api::Resource;
use client::histogram::Histogram;
use http::request::Parts;
use http_body::Body;

use super::{Family, escaped, head};
use crate::Server;
use crate::http::deadline;
use crate::http::respond::Reply;
use crate::request::{Query, RequestInfo};
use crate::subresources;

const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_SIZES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
/// Paths that are told apart; all others are one.
const PATHS: [&str; 5] = ["/healthz", "/livez", "/metrics", "/readyz", "/version"];

/// See the module.
#[derive(Debug, Default)]
pub struct Requests {
    served: Family<Mutex<Served>>,
    streams: Family<AtomicI64>,
    events: Family<Events>,
    /// Requests at work that read, and that write.
    inflight: [Arc<AtomicI64>; 2],
    terminated: Family<AtomicU64>,
}

/// Requests of one kind.
#[derive(Debug)]
struct Served {
    codes: BTreeMap<u16, u64>,
    times: Histogram,
    sizes: Option<Histogram>,
}

impl Default for Served {
    fn default() -> Served {
        Served { codes: BTreeMap::new(), times: Histogram::new(DURATIONS), sizes: None }
    }
}

/// The watch events of one resource.
#[derive(Debug)]
pub struct Events {
    count: AtomicU64,
    sizes: Mutex<Histogram>,
}

impl Default for Events {
    fn default() -> Events {
        Events { count: AtomicU64::new(0), sizes: Mutex::new(Histogram::new(EVENT_SIZES)) }
    }
}

impl Events {
    /// Counts one.
    pub fn sent(&self, bytes: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sizes.lock().unwrap_or_else(|e| e.into_inner()).observe(bytes as f64);
    }
}

/// Counts for as long as it lives.
#[derive(Debug)]
pub struct Open(Arc<AtomicI64>);

impl Open {
    fn new(counter: Arc<AtomicI64>) -> Open {
        counter.fetch_add(1, Ordering::Relaxed);
        Open(counter)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request while it is served.
#[derive(Debug)]
pub struct Observed {
    labels: String,
    dry_run: bool,
    verb: &'static str,
    long: bool,
    since: Instant,
    _open: Option<Open>,
}

fn verb(info: &RequestInfo, parts: &Parts) -> &'static str {
    if info.is_resource && info.subresource != "log" && subresources::is_connect(&info.subresource) {
        return "CONNECT";
    }
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if crate::http::negotiate::media_type(&parts.headers) == "application/apply-patch+yaml" => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        _ => "OTHER",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info.is_resource {
        true if !info.name.is_empty() || info.verb == "create" => "resource",
        true if !info.namespace.is_empty() => "namespace",
        true => "cluster",
        false => "",
    }
}

/// Without `dry_run` and `code`, which not all metrics have.
fn labels(verb: &str, scope: &str, info: [&str; 4]) -> String {
    let [group, version, resource, subresource] = info;
    format!(
        "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{}\",verb=\"{verb}\",version=\"{version}\"",
        escaped(subresource)
    )
}

impl Requests {
    /// Begins to observe a request.
    pub fn begin(&self, server: &Server, parts: &Parts, info: &RequestInfo, query: &Query) -> Observed {
        let (verb, scope) = (verb(info, parts), scope(info));
        let path = if PATHS.contains(&info.path.as_str()) { info.path.as_str() } else { "" };
        let own = [&*info.group, &*info.version, &*info.resource, &*info.subresource];
        let mut text = labels(verb, scope, if info.is_resource { own } else { ["", "", "", path] });
        // What nobody serves must not make series without end.
        if info.is_resource && self.served.get(&text).is_none() && !is_served(server, info) {
            text = labels(verb, scope, [""; 4]);
        }
        let long = deadline::is_long_running(info);
        let writes = !matches!(verb, "GET" | "LIST" | "WATCH" | "HEAD");
        // A watch counts for as long as its stream is open, which it sees to itself.
        let open = match (long, verb) {
            (false, _) => Some(self.inflight[usize::from(writes)].clone()),
            (true, "WATCH") => None,
            (true, _) => Some(self.streams.of(text.clone())),
        };
        let dry_run = query.all("dryRun").any(|v| v == "All");
        Observed { labels: text, dry_run, verb, long, since: Instant::now(), _open: open.map(Open::new) }
    }

    /// Counts it.
    pub fn end(&self, observed: &Observed, reply: &Reply) {
        let code = reply.status().as_u16();
        let dry_run = if observed.dry_run { "All" } else { "" };
        let series = self.served.of(format!("dry_run=\"{dry_run}\",{}", observed.labels));
        let mut s = series.lock().unwrap_or_else(|e| e.into_inner());
        *s.codes.entry(code).or_default() += 1;
        if !observed.long {
            s.times.observe(observed.since.elapsed().as_secs_f64());
        }
        if matches!(observed.verb, "GET" | "LIST")
            && let Some(size) = reply.body().size_hint().exact()
        {
            s.sizes.get_or_insert_with(|| Histogram::new(SIZES)).observe(size as f64);
        }
        drop(s);
        if matches!(code, 429 | 504) {
            let labels = format!("code=\"{code}\",{}", observed.labels);
            self.terminated.of(labels).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A watch that is open: counted until it is dropped, and what counts its events.
    pub fn watch(&self, resource: &Resource, info: &RequestInfo) -> (Open, Arc<Events>) {
        let own = [&*resource.group, &*resource.version, &*resource.plural, ""];
        let open = Open::new(self.streams.of(labels("WATCH", scope(info), own)));
        let [group, version, plural, _] = own;
        let events = format!("group=\"{group}\",resource=\"{plural}\",version=\"{version}\"");
        (open, self.events.of(events))
    }

    /// The metrics.
    pub fn write(&self, out: &mut String) {
        let served = self.served.all();
        const TOTAL: &str = "apiserver_request_total";
        head(
            out,
            TOTAL,
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for (labels, s) in &served {
            for (code, count) in &s.lock().unwrap_or_else(|e| e.into_inner()).codes {
                let _ = writeln!(out, "{TOTAL}{{code=\"{code}\",{labels}}} {count}");
            }
        }
        const TIMES: &str = "apiserver_request_duration_seconds";
        head(
            out,
            TIMES,
            "histogram",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for (labels, s) in served.iter().filter(|(l, _)| !l.contains("verb=\"WATCH\"")) {
            s.lock().unwrap_or_else(|e| e.into_inner()).times.write(out, TIMES, labels);
        }
        const LARGE: &str = "apiserver_response_sizes";
        head(
            out,
            LARGE,
            "histogram",
            "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        );
        for (labels, s) in &served {
            let labels = labels.split_once(',').map_or("", |(_, rest)| rest);
            if let Some(sizes) = &s.lock().unwrap_or_else(|e| e.into_inner()).sizes {
                sizes.write(out, LARGE, labels);
            }
        }
        self.write_streams(out);
    }

    fn write_streams(&self, out: &mut String) {
        const STREAMS: &str = "apiserver_longrunning_requests";
        const HELP: &str = "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
        head(out, STREAMS, "gauge", HELP);
        for (labels, open) in self.streams.all() {
            let _ = writeln!(out, "{STREAMS}{{{labels}}} {}", open.load(Ordering::Relaxed));
        }
        const INFLIGHT: &str = "apiserver_current_inflight_requests";
        const NOW: &str = "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.";
        head(out, INFLIGHT, "gauge", NOW);
        for (kind, count) in ["readOnly", "mutating"].iter().zip(&self.inflight) {
            let _ = writeln!(out, "{INFLIGHT}{{request_kind={kind:?}}} {}", count.load(Ordering::Relaxed));
        }
        const ENDED: &str = "apiserver_request_terminations_total";
        head(out, ENDED, "counter", "Number of requests which apiserver terminated in self-defense.");
        for (labels, count) in self.terminated.all() {
            let _ = writeln!(out, "{ENDED}{{{labels}}} {}", count.load(Ordering::Relaxed));
        }
        const EVENTS: &str = "apiserver_watch_events_total";
        head(out, EVENTS, "counter", "Number of events sent in watch clients");
        for (labels, events) in self.events.all() {
            let _ = writeln!(out, "{EVENTS}{{{labels}}} {}", events.count.load(Ordering::Relaxed));
        }
        const LARGE: &str = "apiserver_watch_events_sizes";
        head(out, LARGE, "histogram", "Watch event size distribution in bytes");
        for (labels, events) in self.events.all() {
            events.sizes.lock().unwrap_or_else(|e| e.into_inner()).write(out, LARGE, &labels);
        }
    }
}

fn is_served(server: &Server, info: &RequestInfo) -> bool {
    let resource = server.resource(&info.group, &info.version, &info.resource);
    resource.is_ok_and(|r| info.subresource.is_empty() || r.subresource(&info.subresource).is_some())
}
