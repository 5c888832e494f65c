//! The API over HTTPS, each client with a connection of its own: create and get, list, watch.
//! Each measurement takes `SAMPAN_BENCH_SECONDS` (3); the list has `SAMPAN_BENCH_PODS` (5000).
//! Reference: the disk's own durable write, and etcd's with as many clients. The clients run on
//! the same processors as the server.
#![allow(missing_docs)]

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use lab::https::Endpoint;
use lab::{Server, Target, figure, heading, percentile, raw_writes};
use serde_json::json;

const CLIENTS: usize = 32;
const WATCHERS: usize = 100;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config_map(name: &str) -> String {
    let data = json!({"text": "x".repeat(1500)});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).to_string()
}

/// A pod as a deployment would make it; it fits on no node, so that the scheduler adds nothing.
fn pod(name: &str) -> String {
    let container = json!({"name": "c", "image": "registry.example/team/application:1.2.3",
        "args": ["--listen=0.0.0.0:8080", "--log=info"],
        "env": [{"name": "A", "value": "one"}, {"name": "B", "value": "two"}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "application", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"automountServiceAccountToken": false, "schedulerName": "none", "containers": [container]}})
    .to_string()
}

/// How often each client's call succeeded, and how long each took.
struct Load {
    latencies: Vec<Duration>,
    took: Duration,
}

impl Load {
    fn report(mut self, name: &str, target: Target) {
        let rate = self.latencies.len() as f64 / self.took.as_secs_f64();
        figure(name, rate, "/s", target);
        let [p50, p99] = [0.5, 0.99].map(|p| percentile(&mut self.latencies, p));
        println!("{:<46}{:>16}", "", format!("p50 {p50:.2} ms, p99 {p99:.2} ms"));
    }
}

/// Calls `request` again and again, from each client, with numbers that never repeat.
async fn load<F>(endpoint: &Endpoint, clients: usize, enough: Enough, request: F) -> Load
where
    F: Fn(u64) -> (Method, String, String) + Send + Sync + 'static,
{
    let (request, next) = (Arc::new(request), Arc::new(AtomicU64::new(0)));
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(endpoint.connect().await.expect("a connection"));
    }
    let begun = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|mut api| {
            let (request, next) = (request.clone(), next.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if enough.reached(number, begun) {
                        return latencies;
                    }
                    let (method, path, body) = request(number);
                    let start = Instant::now();
                    api.send(method, &path, body).await.expect("an answer");
                    latencies.push(start.elapsed());
                }
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    Load { latencies, took: begun.elapsed() }
}

#[derive(Clone, Copy)]
enum Enough {
    Time(Duration),
    Calls(u64),
}

impl Enough {
    fn reached(self, calls: u64, begun: Instant) -> bool {
        match self {
            Enough::Time(time) => begun.elapsed() >= time,
            Enough::Calls(enough) => calls >= enough,
        }
    }
}

async fn lists(endpoint: &Endpoint, pods: u64) {
    let mut api = endpoint.connect().await.expect("a connection");
    let mut took = Vec::new();
    let mut bytes = 0;
    for _ in 0..20 {
        let start = Instant::now();
        bytes = api.send(Method::GET, PODS, "").await.expect("a list").len();
        took.push(start.elapsed());
    }
    let milliseconds = percentile(&mut took, 0.5);
    figure(
        &format!("list of {pods} pods, {:.1} MB", bytes as f64 / 1e6),
        milliseconds,
        "ms",
        Target::AtMost(707.0 / 20.0),
    );
    figure("the same, bytes", bytes as f64 / 1e3 / milliseconds, "MB/s", Target::None);
}

/// Events per second that reach all watchers together while config maps are written.
async fn fan_out(endpoint: &Endpoint, time: Duration) {
    let mut begin = endpoint.connect().await.expect("a connection");
    let list = begin.json(Method::GET, &format!("{CONFIG_MAPS}?limit=1"), "").await.expect("a list");
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let received = Arc::new(AtomicU64::new(0));
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}");
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watch = endpoint.connect().await.expect("a connection").watch(&path).await.expect("a watch");
        let received = received.clone();
        watchers.push(tokio::spawn(async move {
            while watch.line().await.is_some() {
                received.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let small = |n: u64| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("watched-{n}")}});
        (Method::POST, CONFIG_MAPS.to_owned(), body.to_string())
    };
    let begun = Instant::now();
    let written = load(endpoint, CLIENTS, Enough::Time(time), small).await.latencies.len() as u64;
    let all = written * WATCHERS as u64;
    while received.load(Ordering::Relaxed) < all && begun.elapsed() < time * 10 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = received.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    figure(&format!("watch fan-out, {WATCHERS} watchers, {written} writes"), rate, "/s", Target::AtLeast(216_000.0));
    let lost = all.saturating_sub(received.load(Ordering::Relaxed));
    if lost > 0 {
        println!("  {lost} events were not delivered: watchers that fell behind were closed");
    }
    watchers.iter().for_each(|w| w.abort());
}

async fn etcd(time: Duration) {
    let Some(etcd) = lab::etcd::Etcd::start() else {
        return println!("reference: etcd is not installed");
    };
    drop(etcd.answers().await);
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let mut connection = etcd.connect().await.expect("a connection");
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < time {
                let start = Instant::now();
                connection.put(&format!("/{client}/{}", latencies.len()), vec![7; 2048]).await.expect("a put");
                latencies.push(start.elapsed());
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    Load { latencies, took: begun.elapsed() }
        .report(&format!("reference: etcd put of 2 KiB, {CLIENTS} clients"), Target::None);
}

#[tokio::main]
async fn main() {
    let time = Duration::from_secs(lab::setting("SAMPAN_BENCH_SECONDS", 3));
    let pods = lab::setting("SAMPAN_BENCH_PODS", 5000);
    let server = Server::start(false);
    let (endpoint, _) = server.answers().await;
    heading("API over HTTPS");
    let made = |n: u64| (Method::POST, PODS.to_owned(), pod(&format!("pod-{n}")));
    load(&endpoint, CLIENTS, Enough::Calls(pods), made)
        .await
        .report(&format!("pods created, {CLIENTS} clients"), Target::AtLeast(4670.0));
    figure(&format!("memory (PSS) with {pods} pods"), lab::pss_mib(server.pid()), "MiB", Target::AtMost(120.0));
    lists(&endpoint, pods).await;
    let create = |prefix: &'static str| {
        move |n: u64| {
            let name = format!("{prefix}-{n}");
            (Method::POST, CONFIG_MAPS.to_owned(), config_map(&name))
        }
    };
    let alone = load(&endpoint, 1, Enough::Time(time), create("alone")).await;
    alone.report("config maps created, 1 client", Target::None);
    let together = load(&endpoint, CLIENTS, Enough::Time(time), create("many")).await;
    together.report(&format!("config maps created, {CLIENTS} clients"), Target::None);
    let one = |_| (Method::GET, format!("{CONFIG_MAPS}/alone-0"), String::new());
    load(&endpoint, CLIENTS, Enough::Time(time), one)
        .await
        .report(&format!("config map read, {CLIENTS} clients"), Target::None);
    fan_out(&endpoint, time).await;
    let mut raw = raw_writes(2048, time);
    figure("reference: write + fdatasync of 2 KiB, 1 writer", 1000.0 / percentile(&mut raw, 0.5), "/s", Target::None);
    etcd(time).await;
}
