//! What was acknowledged is there after `kill -9`, and watches go on as if nothing had happened.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::https::{Connection, Endpoint};
use crate::lab::{Cluster, PATIENCE};

const WRITERS: usize = 32;
const ROUNDS: usize = 3;
/// Acknowledged writes of a round after which the server is killed.
const ENOUGH: usize = 600;
const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// One change of one object: `ADDED`, `MODIFIED` or `DELETED`, and whose.
type Event = (String, String);

#[derive(Default)]
struct Watcher {
    /// How often each event was seen.
    seen: HashMap<Event, usize>,
    /// What there is by what was seen: names with their revisions.
    objects: BTreeMap<String, u64>,
    revision: u64,
}

impl Watcher {
    /// Watches from the last revision seen until the stream ends, or `enough` is reached.
    async fn follow(&mut self, endpoint: &Endpoint, enough: u64) {
        let path = format!("{PATH}?watch=true&resourceVersion={}", self.revision);
        let mut watch = endpoint.connect().await.unwrap().watch(&path, "application/json").await.unwrap();
        while self.revision < enough
            && let Some(line) = watch.line().await
        {
            let event: Value = serde_json::from_slice(&line).unwrap();
            let kind = event["type"].as_str().unwrap().to_owned();
            let metadata = &event["object"]["metadata"];
            assert_ne!(kind, "ERROR", "{event}");
            let name = metadata["name"].as_str().unwrap().to_owned();
            let revision: u64 = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
            assert!(revision > self.revision, "{revision} follows {}", self.revision);
            self.revision = revision;
            match kind.as_str() {
                "DELETED" => self.objects.remove(&name),
                _ => self.objects.insert(name.clone(), revision),
            };
            *self.seen.entry((kind, name)).or_default() += 1;
        }
    }
}

fn config_map(name: &str, revision: Option<&str>) -> String {
    let metadata = json!({"name": name, "resourceVersion": revision});
    let data = json!({"text": "x".repeat(200), "replaces": revision.unwrap_or_default()});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string()
}

/// Creates objects, and changes or deletes some, until the server is gone.
async fn write(mut api: Connection, prefix: String, acknowledged: Arc<Mutex<Vec<Event>>>) {
    let acknowledge = |kind: &str, name: &str| acknowledged.lock().unwrap().push((kind.to_owned(), name.to_owned()));
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        let own = format!("{PATH}/{name}");
        let Some(made) = unless_gone(api.json(Method::POST, PATH, config_map(&name, None)).await) else { return };
        acknowledge("ADDED", &name);
        let (kind, method, body) = match n % 3 {
            0 => continue,
            1 => ("MODIFIED", Method::PUT, config_map(&name, made["metadata"]["resourceVersion"].as_str())),
            _ => ("DELETED", Method::DELETE, String::new()),
        };
        if unless_gone(api.send(method, &own, body).await).is_none() {
            return;
        }
        acknowledge(kind, &name);
    }
}

/// An answer; `None` when the server was killed before it answered.
fn unless_gone<T>(answer: anyhow::Result<T>) -> Option<T> {
    match answer {
        Err(e) if e.is::<hyper::Error>() => None,
        answer => Some(answer.unwrap()),
    }
}

/// The objects there are, and the list's revision.
async fn list(endpoint: &Endpoint) -> (BTreeMap<String, u64>, u64) {
    let list = endpoint.connect().await.unwrap().json(Method::GET, PATH, "").await.unwrap();
    let revision = |v: &Value| v["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let items = list["items"].as_array().unwrap().iter();
    let names = items.map(|o| (o["metadata"]["name"].as_str().unwrap().to_owned(), revision(o))).collect();
    (names, revision(&list))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_under_32_writers_loses_nothing_acknowledged_and_watches_go_on() {
    let mut cluster = Cluster::start();
    let mut endpoint = Endpoint::of(&cluster.kubeconfig()).unwrap();
    let acknowledged: Arc<Mutex<Vec<Event>>> = Arc::default();
    let mut watcher = Watcher::default();
    (watcher.objects, watcher.revision) = list(&endpoint).await;
    for round in 0..ROUNDS {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let api = endpoint.connect().await.unwrap();
            writers.push(tokio::spawn(write(api, format!("r{round}-w{writer}"), acknowledged.clone())));
        }
        let enough = async {
            while acknowledged.lock().unwrap().len() < ENOUGH * (round + 1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The writers are in the middle of their next calls.
            kill(&cluster);
        };
        let all = async { tokio::join!(watcher.follow(&endpoint, u64::MAX), enough) };
        tokio::time::timeout(PATIENCE, all).await.expect("the writers and the watch end with the server");
        for writer in writers {
            writer.await.unwrap();
        }

        cluster.kill();
        cluster.run();
        endpoint = Endpoint::of(&cluster.kubeconfig()).unwrap();
        let (objects, _) = list(&endpoint).await;
        settle(&mut watcher, &endpoint, round).await;
        assert_eq!(watcher.objects, objects, "round {round}: the watch and the list tell the same");
        for event in acknowledged.lock().unwrap().iter() {
            assert_eq!(watcher.seen.get(event), Some(&1), "round {round}: {event:?} was acknowledged");
        }
        assert!(watcher.seen.values().all(|times| *times == 1), "round {round}: nothing is told twice");
    }
}

/// Reads on to a mark that is written now, so that nothing from before it is left unread.
async fn settle(watcher: &mut Watcher, endpoint: &Endpoint, round: usize) {
    let name = format!("mark-{round}");
    let body = config_map(&name, None);
    let mark = endpoint.connect().await.unwrap().json(Method::POST, PATH, body).await.unwrap();
    let revision = mark["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    tokio::time::timeout(PATIENCE, watcher.follow(endpoint, revision)).await.expect("the watch shows the mark");
    watcher.objects.remove(&name);
    endpoint.connect().await.unwrap().send(Method::DELETE, &format!("{PATH}/{name}"), "").await.unwrap();
    // The deletion of the mark is the next event: the watch of the next round begins with it.
    watcher.seen.remove(&("ADDED".to_owned(), name));
}

/// Kills the server while its handle is borrowed.
fn kill(cluster: &Cluster) {
    let pid = nix::unistd::Pid::from_raw(cluster.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
