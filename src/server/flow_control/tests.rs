//! Flow control on a whole server.

use std::time::Duration;

use api::Object;
use client::api::{Gvr, Verb};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http::RequestBody;
use crate::testing::{Testing, admin};

fn gvr(plural: &'static str) -> Gvr {
    Gvr::dynamic("flowcontrol.apiserver.k8s.io", "v1", plural)
}

async fn started() -> (Testing, CancellationToken) {
    begun(Testing::start().await)
}

fn begun(t: Testing) -> (Testing, CancellationToken) {
    let cancel = CancellationToken::new();
    tokio::spawn(configuration::run(t.server.clone(), cancel.clone()));
    (t, cancel)
}

/// The schema, once it says so.
async fn told(t: &Testing, name: &str, status: &str) -> Arc<Object> {
    for _ in 0..500 {
        let o = t.call(&admin(), Verb::Get, &gvr("flowschemas"), &format!("-/{name}"), &Value::Null).await.unwrap();
        let conditions = o.to_value()["status"]["conditions"].clone();
        if conditions.as_array().into_iter().flatten().any(|c| c["type"] == "Dangling" && c["status"] == status) {
            return o;
        }
        t.server.registry().caches().reached(o.revision() + 1).await.ok();
        tokio::task::yield_now().await;
    }
    panic!("{name} is not told of its level");
}

async fn admit(t: &Testing, user: &User) -> Result<Option<Admitted>, Reply> {
    let query = Query::parse("");
    let info = RequestInfo::new(&http::Method::GET, "/version", &query);
    t.server.flow_control().admit(&t.server, user, &info, &query).await
}

fn level(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
        "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}})
}

#[tokio::test]
async fn a_schema_classifies_by_its_level_and_dangles_without_it() {
    let (t, _cancel) = started().await;
    let schema = json!({"metadata": {"name": "mine"}, "spec": {"priorityLevelConfiguration": {"name": "none-left"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "noxu"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    let schema = t.create(&gvr("flowschemas"), "", &schema).await;
    let told_so = told(&t, "mine", "True").await.to_value();
    assert_eq!(
        told_so["status"]["conditions"][0]["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"none-left\" but there is no such object"
    );
    let noxu = User::authenticated("noxu", &[]);
    let other = admit(&t, &noxu).await.unwrap().unwrap();
    assert_eq!(&*other.schema.name, "global-default");
    let level = t.create(&gvr("prioritylevelconfigurations"), "", &level("none-left")).await;
    told(&t, "mine", "False").await;
    // No shares, no seats: one request at a time.
    let _first = admit(&t, &noxu).await.unwrap();
    let refused = admit(&t, &noxu).await.unwrap_err();
    assert_eq!((refused.status().as_u16(), &refused.headers()[RETRY_AFTER]), (429, &HeaderValue::from_static("1")));
    assert_eq!(refused.headers()[&SCHEMA_UID], schema.meta().uid);
    assert_eq!(refused.headers()[&LEVEL_UID], level.meta().uid);
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    let mut metrics = String::new();
    t.server.flow_control().write_metrics(&mut metrics);
    let line = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"mine\",priority_level=\"none-left\",reason=\"concurrency-limit\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"none-left\"} 0"));
}

#[tokio::test]
async fn what_every_cluster_has_comes_back() {
    let (t, _cancel) = started().await;
    told(&t, "probes", "False").await;
    t.call(&admin(), Verb::Delete, &gvr("flowschemas"), "-/probes", &Value::Null).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while t.call(&admin(), Verb::Get, &gvr("flowschemas"), "-/probes", &Value::Null).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let owned = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
        "spec": {"matchingPrecedence": 77}});
    let patch = Verb::Patch(client::api::PatchKind::Merge);
    t.call(&admin(), patch, &gvr("flowschemas"), "-/probes", &owned).await.unwrap();
    configuration::keep(&t.server).await.unwrap();
    let kept = t.call(&admin(), Verb::Get, &gvr("flowschemas"), "-/probes", &Value::Null).await.unwrap();
    assert_eq!(kept.to_value()["spec"]["matchingPrecedence"], 77);
}

#[tokio::test]
async fn callers_over_http_are_told_their_schema() {
    let (t, _cancel) = started().await;
    let probes = told(&t, "probes", "False").await;
    let mut request = http::Request::new(RequestBody::empty());
    *request.uri_mut() = "/healthz".parse().unwrap();
    let reply = t.server.serve(request).await;
    assert_eq!(reply.headers()[&SCHEMA_UID], probes.meta().uid);
}

#[tokio::test]
async fn who_is_refused_is_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    std::fs::write(&policy, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}").unwrap();
    let config = crate::audit::Config { policy_file: Some(policy), log_path: Some(log.clone()), ..Default::default() };
    let (t, cancel) = begun(Testing::auditing(config).await);
    t.create(&gvr("prioritylevelconfigurations"), "", &level("none-left")).await;
    let schema = json!({"metadata": {"name": "mine"}, "spec": {"priorityLevelConfiguration": {"name": "none-left"},
        "matchingPrecedence": 2, "rules": [{"subjects": [{"kind": "User", "user": {"name": "system:anonymous"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    t.create(&gvr("flowschemas"), "", &schema).await;
    told(&t, "mine", "False").await;
    let _first = admit(&t, &User::authenticated("system:anonymous", &["system:unauthenticated"])).await.unwrap();
    let request = http::Request::builder().uri("/version").body(RequestBody::empty()).unwrap();
    assert_eq!(t.server.serve(request).await.status().as_u16(), 429);
    cancel.cancel();
    t.end().await;
    let text = std::fs::read_to_string(log).unwrap();
    let ends = |line: &&str| line.contains("ResponseComplete") && line.contains("\"/version\"");
    let line: Value = serde_json::from_str(text.lines().find(ends).unwrap()).unwrap();
    assert_eq!(line["responseStatus"]["code"], 429, "{line}");
}
