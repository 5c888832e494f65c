//! From an empty directory to an API that answers and a node that is ready, and the same again
//! on the directory that was left. Medians of `SAMPAN_BENCH_RUNS` (5). Reference: the disk's own
//! durable write, and etcd from its start to its first durable write.
#![allow(missing_docs)]

mod lab;

use std::time::Duration;

use hyper::Method;
use lab::https::{Connection, Endpoint};
use lab::{Server, Target, figure, heading, percentile, raw_writes};
use serde_json::Value;

const NODES: &str = "/api/v1/nodes";

/// Waits until the node is ready. A watch, so that the answer is not late.
async fn node_is_ready(endpoint: &Endpoint, mut api: Connection) {
    let ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let list = api.json(Method::GET, NODES, "").await.expect("a list of nodes");
    if list["items"].as_array().into_iter().flatten().any(ready) {
        return;
    }
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("{NODES}?watch=true&resourceVersion={revision}");
    let connection = endpoint.connect().await.expect("a connection");
    let mut watch = connection.watch(&path, "application/json").await.expect("a watch of nodes");
    while let Some(line) = watch.line().await {
        let event: Value = serde_json::from_slice(&line).expect("an event");
        if ready(&event["object"]) {
            return;
        }
    }
    panic!("the watch ended before the node was ready");
}

#[tokio::main]
async fn main() {
    lab::on_own_host();
    let agent = lab::can_run_a_node();
    let (mut fresh, mut again, mut node) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lab::setting("SAMPAN_BENCH_RUNS", 5) {
        let mut server = Server::start(agent);
        let (endpoint, api) = server.answers().await;
        fresh.push(server.started().elapsed());
        if agent {
            node_is_ready(&endpoint, api).await;
            node.push(server.started().elapsed());
        }
        server.restart();
        server.answers().await;
        again.push(server.started().elapsed());
    }
    heading("start");
    figure("empty directory to API answers", percentile(&mut fresh, 0.5), "ms", Target::AtMost(500.0));
    if agent {
        figure("empty directory to node ready", percentile(&mut node, 0.5), "ms", Target::AtMost(2000.0));
    } else {
        println!("empty directory to node ready: skipped, needs root, containerd, runc, nft and ip");
    }
    figure("the same directory again to API answers", percentile(&mut again, 0.5), "ms", Target::AtMost(500.0));
    let mut raw = raw_writes(2048, Duration::from_secs(1));
    figure("reference: write + fdatasync, 2 KiB", percentile(&mut raw, 0.5), "ms", Target::None);
    match lab::etcd::Etcd::start() {
        Some(etcd) => {
            let (_, took) = etcd.answers().await;
            figure("reference: etcd to its first write", took.as_secs_f64() * 1000.0, "ms", Target::None);
        }
        None => println!("reference: etcd is not installed"),
    }
}
