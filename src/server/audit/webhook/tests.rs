//! The webhook as a backend of the audit log, against a server that takes what is posted.

use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::api::Verb;
use serde_json::{Value, json};

use super::*;
use crate::audit::Config;
use crate::testing::webhook::https;
use crate::testing::{Testing, admin, core};

#[test]
fn lists_keep_a_pace_after_a_burst() {
    let (mut pace, now) = (Pace::new(10.0, 2), Instant::now());
    let waits: Vec<u128> = (0..4).map(|_| pace.take(now).as_millis()).collect();
    assert_eq!(waits, [0, 0, 100, 200]);
    assert_eq!(pace.take(now + Duration::from_secs(1)), Duration::ZERO);
}

/// A server whose events go to a service at `port`, and nowhere else.
async fn telling(directory: &std::path::Path, port: u16, authority: &str, mode: Mode, batch: Batch) -> Testing {
    let (kubeconfig, policy) = (directory.join("kubeconfig"), directory.join("policy"));
    let cluster =
        json!({"server": format!("https://127.0.0.1:{port}/events"), "certificate-authority-data": authority});
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}], "clusters": [{"name": "c", "cluster": cluster}]});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let rules = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [
        {"level": "Request", "users": ["admin"], "resources": [{"resources": ["configmaps"]}]}]});
    std::fs::write(&policy, rules.to_string()).unwrap();
    let webhook =
        Settings { config_file: kubeconfig, mode, initial_backoff: Duration::from_millis(1), batch, truncate: None };
    Testing::auditing(Config { policy_file: Some(policy), webhook: Some(webhook), ..Config::default() }).await
}

fn batch(max_size: usize, max_wait: u64) -> Batch {
    Batch { buffer_size: 100, max_size, max_wait: Duration::from_secs(max_wait), throttle: Some((10.0, 15)) }
}

async fn create(t: &Testing, name: &str) -> Result<(), Status> {
    let body = json!({"metadata": {"name": name}});
    t.call(&admin(), Verb::Create, &core("configmaps"), "default", &body).await.map(drop)
}

type Told = Arc<Mutex<Vec<Value>>>;

fn told() -> (Told, impl Fn(&str, &Value) -> Value + Send + Sync + 'static) {
    let told = Told::default();
    let own = told.clone();
    (told, move |path: &str, list: &Value| {
        assert_eq!(path, "/events");
        own.lock().unwrap().push(list.clone());
        json!({})
    })
}

fn sizes(told: &Mutex<Vec<Value>>) -> Vec<usize> {
    told.lock().unwrap().iter().map(|l| l["items"].as_array().unwrap().len()).collect()
}

#[tokio::test]
async fn events_are_posted_in_lists_and_the_rest_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (told, service) = told();
    let service = https(&["127.0.0.1"], service).await;
    let t = telling(directory.path(), service.port, &service.authority, Mode::Batch, batch(4, 3600)).await;
    for name in ["a", "b", "c"] {
        create(&t, name).await.unwrap();
    }
    t.end().await;
    assert_eq!(sizes(&told).iter().sum::<usize>(), 6);
    assert!(sizes(&told).contains(&4), "{:?}", sizes(&told));
    let told = told.lock().unwrap();
    let list = &told[0];
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    let event = told.iter().flat_map(|l| l["items"].as_array().unwrap()).find(|e| e["stage"] == "ResponseComplete");
    let event = event.unwrap();
    assert_eq!((event.get("kind"), &event["requestObject"]["metadata"]["name"]), (None, &json!("a")));
}

#[tokio::test]
async fn a_list_does_not_wait_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (told, service) = told();
    let service = https(&["127.0.0.1"], service).await;
    let t = telling(directory.path(), service.port, &service.authority, Mode::Batch, batch(400, 0)).await;
    create(&t, "a").await.unwrap();
    t.get_until("/metrics", |_| !told.lock().unwrap().is_empty()).await;
}

#[tokio::test]
async fn blocked_requests_wait_for_their_events() {
    let directory = tempfile::tempdir().unwrap();
    let (told, service) = told();
    let service = https(&["127.0.0.1"], service).await;
    let t = telling(directory.path(), service.port, &service.authority, Mode::Blocking, batch(400, 3600)).await;
    create(&t, "a").await.unwrap();
    assert_eq!(sizes(&told), [1, 1]);
}

#[tokio::test]
async fn strictly_nothing_is_done_that_cannot_be_told() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = BASE64_STANDARD.encode(rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem());
    let t = telling(directory.path(), 1, &nobody, Mode::BlockingStrict, batch(400, 3600)).await;
    let refused = create(&t, "a").await.unwrap_err();
    let path = "/api/v1/namespaces/default/configmaps";
    let why = format!("Internal Server Error: {path:?}: failed to store audit event");
    assert_eq!((refused.code, refused.message), (500, why));
    let (_, counted) = t.http("GET", "/metrics", "", &Value::Null).await;
    let counted = counted.as_str().unwrap();
    for line in ["audit_error_total{plugin=\"webhook\"} 1", "audit_requests_rejected_total 1"] {
        assert!(counted.contains(line), "{line}");
    }
    // When it need not be told, it is done.
    let other = tempfile::tempdir().unwrap();
    let t = telling(other.path(), 1, &nobody, Mode::Blocking, batch(400, 3600)).await;
    create(&t, "a").await.unwrap();
}

#[tokio::test]
async fn a_full_queue_drops_events_and_counts_them() {
    let directory = tempfile::tempdir().unwrap();
    let (told, service) = told();
    let service = https(&["127.0.0.1"], service).await;
    let batch = Batch { buffer_size: 1, ..batch(1000, 3600) };
    let t = telling(directory.path(), service.port, &service.authority, Mode::Batch, batch).await;
    let webhook = t.server.audit().webhook.as_ref().unwrap();
    // Nothing runs between these: the second finds the queue full.
    assert!(webhook.take(b"{}").is_none() && webhook.take(b"{}").is_none());
    let mut counted = String::new();
    t.server.audit().write_metrics(&mut counted);
    assert!(counted.contains("audit_error_total{plugin=\"buffered\"} 1"), "{counted}");
    t.end().await;
    assert_eq!(sizes(&told), [1]);
}
