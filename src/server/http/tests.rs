//! Lists and watches as clients see them: encodings, pages, streams.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::RequestBody;
use super::respond::Reply;
use crate::testing::{Testing, admin, core};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn get(t: &Testing, uri: &str, accept: &str) -> Reply {
    let mut request = http::Request::new(RequestBody::empty());
    *request.uri_mut() = uri.parse().unwrap();
    request.headers_mut().insert(ACCEPT, accept.parse().unwrap());
    t.server.serve_as(admin(), request).await
}

async fn body(reply: Reply) -> Bytes {
    reply.into_body().collect().await.unwrap().to_bytes()
}

async fn json_of(t: &Testing, uri: &str) -> Value {
    serde_json::from_slice(&body(get(t, uri, "application/json").await).await).unwrap()
}

async fn with_config_maps(count: usize) -> Testing {
    let t = Testing::start().await;
    for i in 0..count {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i}"),
            "labels": {"odd": (i % 2 == 1).to_string()}}, "data": {"k": "v"}});
        t.create(&core("configmaps"), "default", &map).await;
    }
    t
}

/// The events of a protobuf stream.
fn events(mut stream: &[u8]) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let (event, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        // The event itself has no envelope; one is put around it for the decoder.
        let mut envelope = b"k8s\0\x0a\x10\x0a\x02v1\x12\x0aWatchEvent\x12".to_vec();
        let mut n = event.len();
        while n >= 0x80 {
            envelope.push(n as u8 | 0x80);
            n >>= 7;
        }
        envelope.push(n as u8);
        envelope.extend(event);
        let decoded = api::protobuf::decode(&envelope).unwrap();
        all.push((decoded["type"].as_str().unwrap().to_owned(), decoded["object"].clone()));
        stream = rest;
    }
    all
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn objects_and_lists_are_given_in_protobuf() {
    let t = with_config_maps(2).await;
    let reply = get(&t, &format!("{MAPS}/m0"), &format!("{PROTOBUF},application/json")).await;
    assert_eq!(reply.headers()[CONTENT_TYPE], PROTOBUF);
    let object = api::protobuf::decode(&body(reply).await).unwrap();
    assert_eq!(object, json_of(&t, &format!("{MAPS}/m0")).await);
    let list = api::protobuf::decode(&body(get(&t, &format!("{MAPS}?limit=1"), PROTOBUF).await).await).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!((list["items"].as_array().unwrap().len(), &list["metadata"]["remainingItemCount"]), (1, &json!(1)));
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let list = api::protobuf::decode(&body(get(&t, MAPS, &metadata).await).await).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][1]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("m1"))
    );
    assert!(list["items"][1].get("data").is_none());
    assert_eq!(get(&t, MAPS, &format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1")).await.status(), 406);
}

#[tokio::test]
async fn a_watch_in_protobuf_ends_its_initial_events_with_a_bookmark() {
    let t = with_config_maps(2).await;
    let uri = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1&timeoutSeconds=1&labelSelector=odd"
    );
    let reply = get(&t, &uri, PROTOBUF).await;
    assert_eq!(reply.headers()[CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
    let seen = events(&body(reply).await);
    let kinds: Vec<&str> = seen.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(kinds[..3], ["ADDED", "ADDED", "BOOKMARK"]);
    assert_eq!(seen[0].1["data"], json!({"k": "v"}));
    assert_eq!(seen[2].1["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(seen[2].1["kind"], "ConfigMap");
}

#[tokio::test]
async fn what_is_wrong_with_a_watch_is_told_in_its_stream() {
    let t = with_config_maps(1).await;
    let ahead =
        format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=99999");
    let reply = get(&t, &ahead, "application/json").await;
    assert_eq!(reply.status(), 200);
    let event: Value = serde_json::from_slice(&body(reply).await).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(504)));
    assert_eq!(event["object"]["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(event["object"]["details"]["retryAfterSeconds"], 1);
    let yaml = get(&t, &format!("{MAPS}?watch=1"), "application/yaml").await;
    assert_eq!(yaml.status(), 406);
    let bad = json_of(&t, &format!("{MAPS}?watch=1&resourceVersion=x")).await;
    assert_eq!(
        bad["message"],
        "configmaps \"\" is invalid: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
    );
}

#[tokio::test]
async fn a_list_is_paged_at_one_revision_also_under_selectors() {
    let t = with_config_maps(5).await;
    let first = json_of(&t, &format!("{MAPS}?limit=2&labelSelector=odd%3Dfalse")).await;
    assert!(first["metadata"].get("remainingItemCount").is_none());
    t.create(&core("configmaps"), "default", &json!({"metadata": {"name": "m9", "labels": {"odd": "false"}}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = json_of(&t, &format!("{MAPS}?limit=2&labelSelector=odd%3Dfalse&continue={token}")).await;
    let names = |l: &Value| -> Vec<String> {
        l["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((names(&first), names(&rest)), (vec!["m0".to_owned(), "m2".into()], vec!["m4".to_owned()]));
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn one_name_is_watched_by_the_old_path_and_by_a_selector() {
    let t = with_config_maps(3).await;
    for uri in [
        "/api/v1/watch/namespaces/default/configmaps/m1?timeoutSeconds=1".to_owned(),
        format!("{MAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dm1"),
    ] {
        let stream = body(get(&t, &uri, "application/json").await).await;
        let events: Vec<Value> = stream
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(events.len(), 1, "{uri}");
        assert_eq!(events[0]["object"]["metadata"]["name"], "m1");
    }
}

#[tokio::test]
async fn requests_and_watch_events_are_counted_by_upstreams_names() {
    let t = with_config_maps(2).await;
    let ask = async |uri: &str| {
        let mut request = http::Request::new(RequestBody::empty());
        *request.uri_mut() = uri.parse().unwrap();
        t.server.serve(request).await.status().as_u16()
    };
    assert_eq!(ask("/healthz").await, 200);
    assert_eq!(ask("/api/v1/pods?limit=1").await, 403);
    assert_eq!(ask("/api/v1/made-up-17").await, 403);
    body(get(&t, &format!("{MAPS}?watch=1&timeoutSeconds=1"), "application/json").await).await;
    let text = t.server.metrics_text();
    for line in [
        "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",group=\"\",resource=\"\",scope=\"\",subresource=\"/healthz\",verb=\"GET\",version=\"\"} 1",
        "apiserver_request_total{code=\"403\",dry_run=\"\",component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0",
        "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 0",
        "apiserver_watch_events_total{group=\"\",resource=\"configmaps\",version=\"v1\"} 2",
        // One is what aggregated servers read.
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 3",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.contains(
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"ServiceAccount\",operation=\"CREATE\""
    ));
    assert!(text.contains("kubernetes_build_info{") && text.contains("process_resident_memory_bytes "));
    assert!(!text.contains("made-up-17"));
    let slis = t.server.slis_text().await;
    assert!(slis.contains("kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1"));
    assert!(slis.contains("kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 2"));
}
