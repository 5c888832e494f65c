//! The whole way: definitions whose versions a webhook of the test converts.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;
use crate::testing::Testing;
use crate::testing::webhook::{Webhook as Server, webhook};

const V1: &str = "/apis/example.org/v1/namespaces/default/widgets";
const V2: &str = "/apis/example.org/v2/namespaces/default/widgets";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";

/// `hostPort` of v1 is `host` and `port` of v2.
fn split(object: &Value, to: &str) -> Value {
    let mut new = object.clone();
    new["apiVersion"] = to.into();
    let map = new.as_object_mut().unwrap();
    match map.remove("hostPort") {
        Some(both) => {
            let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
            map.insert("host".into(), host.into());
            map.insert("port".into(), port.into());
        }
        None if to.ends_with("v1") => {
            let (host, port) = (map.remove("host").unwrap(), map.remove("port").unwrap());
            let both = format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
            map.insert("hostPort".into(), both.into());
        }
        None => {}
    }
    new
}

fn convert(request: &Value) -> Value {
    let to = request["desiredAPIVersion"].as_str().unwrap();
    let objects = request["objects"].as_array().unwrap();
    if objects.iter().any(|o| o["metadata"]["name"] == "cursed") {
        return json!({"result": {"status": "Failure", "message": "it is cursed"}});
    }
    json!({"result": {"status": "Success"}, "convertedObjects": objects.iter().map(|o| split(o, to)).collect::<Vec<_>>()})
}

fn definition(hook: &Server) -> Value {
    let properties = |names: &[&str]| {
        let all: serde_json::Map<String, Value> =
            names.iter().map(|n| ((*n).to_owned(), json!({"type": "string"}))).collect();
        json!({"openAPIV3Schema": {"type": "object", "properties": all}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.org"},
    "spec": {
        "group": "example.org", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": properties(&["hostPort"])},
            {"name": "v2", "served": true, "storage": false, "schema": properties(&["host", "port"])},
        ],
        "conversion": {"strategy": "Webhook", "webhook": {
            "conversionReviewVersions": ["v1", "v1beta1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", hook.port), "caBundle": hook.authority},
        }},
    }})
}

async fn start() -> (Testing, Server) {
    let t = Testing::start().await;
    let hook = webhook(&["127.0.0.1"], convert).await;
    let (code, made) = t.http("POST", DEFINITIONS, JSON, &definition(&hook)).await;
    assert_eq!(code, 201, "{made}");
    t.get_until(V1, |list| list["kind"] == "WidgetList").await;
    (t, hook)
}

fn widget(version: &str, name: &str, fields: Value) -> Value {
    let mut object =
        json!({"apiVersion": format!("example.org/{version}"), "kind": "Widget", "metadata": {"name": name}});
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

#[tokio::test]
async fn an_object_is_written_and_read_in_every_version() {
    let (t, hook) = start().await;
    let (code, made) = t.http("POST", V1, JSON, &widget("v1", "a", json!({"hostPort": "h:1"}))).await;
    assert_eq!((code, &made["hostPort"]), (201, &json!("h:1")));
    assert_eq!(hook.calls.load(Ordering::Relaxed), 0, "what is stored as it is sent is not converted");
    let (_, read) = t.http("GET", &format!("{V2}/a"), "", &Value::Null).await;
    assert_eq!(
        (&read["apiVersion"], &read["host"], &read["port"]),
        (&json!("example.org/v2"), &json!("h"), &json!("1"))
    );
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);

    let (code, made) = t.http("POST", V2, JSON, &widget("v2", "b", json!({"host": "i", "port": "2"}))).await;
    assert_eq!((code, &made["host"]), (201, &json!("i")), "{made}");
    let (_, read) = t.http("GET", &format!("{V1}/b"), "", &Value::Null).await;
    assert_eq!(read["hostPort"], "i:2");

    let patch = json!({"port": "3"});
    let (code, patched) = t.http("PATCH", &format!("{V2}/a"), "application/merge-patch+json", &patch).await;
    assert_eq!((code, &patched["host"], &patched["port"]), (200, &json!("h"), &json!("3")), "{patched}");
    let (_, read) = t.http("GET", &format!("{V1}/a"), "", &Value::Null).await;
    assert_eq!(read["hostPort"], "h:3");

    let applied = widget("v2", "c", json!({"host": "k", "port": "4"}));
    let path = format!("{V2}/c?fieldManager=m");
    let (code, made) = t.http("PATCH", &path, "application/apply-patch+yaml", &applied).await;
    assert_eq!((code, &made["host"]), (201, &json!("k")), "{made}");
    let applied = widget("v2", "c", json!({"host": "k", "port": "5"}));
    let (code, made) = t.http("PATCH", &path, "application/apply-patch+yaml", &applied).await;
    assert_eq!((code, &made["port"]), (200, &json!("5")), "{made}");

    let (code, _) = t.http("DELETE", &format!("{V2}/a"), JSON, &Value::Null).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn a_mixed_list_is_converted_by_one_call() {
    let (t, hook) = start().await;
    t.http("POST", V1, JSON, &widget("v1", "a", json!({"hostPort": "h:1"}))).await;
    t.http("POST", V1, JSON, &widget("v1", "b", json!({"hostPort": "h:2"}))).await;
    let versions = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let path = format!("{DEFINITIONS}/widgets.example.org");
    let (_, changed) = t.http("PATCH", &path, "application/json-patch+json", &versions).await;
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    // The table follows; from then on what is sent in v2 is stored so.
    for n in 0.. {
        assert!(n < 500, "the storage version never changed");
        let before = hook.calls.load(Ordering::Relaxed);
        t.http("POST", V2, JSON, &widget("v2", &format!("c{n}"), json!({"host": "h", "port": "3"}))).await;
        if hook.calls.load(Ordering::Relaxed) == before {
            break;
        }
    }
    for (path, field) in [(V1, "hostPort"), (V2, "host")] {
        let before = hook.calls.load(Ordering::Relaxed);
        let (_, list) = t.http("GET", path, "", &Value::Null).await;
        let items = list["items"].as_array().unwrap();
        assert!(items.len() >= 3 && items.iter().all(|i| i[field].is_string()), "{list}");
        assert_eq!(hook.calls.load(Ordering::Relaxed), before + 1);
        t.http("GET", path, "", &Value::Null).await;
        assert_eq!(hook.calls.load(Ordering::Relaxed), before + 1, "it is remembered");
    }
    let (_, events) = t.http("GET", &format!("{V1}?watch=1&timeoutSeconds=1"), "", &Value::Null).await;
    let events: Vec<Value> = events.as_str().unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(events.len() >= 3 && events.iter().all(|e| e["object"]["hostPort"].is_string()), "{events:?}");
}

#[tokio::test]
async fn a_conversion_that_fails_fails_what_needs_it() {
    let (t, _hook) = start().await;
    let (code, _) = t.http("POST", V1, JSON, &widget("v1", "cursed", json!({"hostPort": "h:1"}))).await;
    assert_eq!(code, 201);
    let wanted = "conversion webhook for example.org/v1, Kind=Widget failed: it is cursed";
    for path in [format!("{V2}/cursed"), V2.to_owned()] {
        let (code, status) = t.http("GET", &path, "", &Value::Null).await;
        assert_eq!((code, &status["message"]), (500, &json!(wanted)));
        assert_eq!(status.get("reason"), None, "{status}");
    }
    let (code, event) = t.http("GET", &format!("{V2}?watch=1&timeoutSeconds=5"), "", &Value::Null).await;
    assert_eq!((code, &event["type"], &event["object"]["message"]), (200, &json!("ERROR"), &json!(wanted)), "{event}");
    let (code, status) = t.http("POST", V2, JSON, &widget("v2", "cursed", json!({"host": "h", "port": "1"}))).await;
    assert_eq!((code, status["message"].as_str().unwrap()), (500, &*wanted.replace("/v1", "/v2")));
    // Its own version needs no webhook.
    assert_eq!(t.http("GET", &format!("{V1}/cursed"), "", &Value::Null).await.0, 200);
    assert_eq!(t.http("DELETE", &format!("{V1}/cursed"), JSON, &Value::Null).await.0, 200);
}
