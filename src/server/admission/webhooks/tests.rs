//! The whole way: a server whose webhooks are served over TLS by the test.

use std::sync::atomic::Ordering;

use ::client::api::{Gvr, Verb};
use api::status::Status;
use serde_json::json;

use super::*;
use crate::testing::webhook::{patch, webhook};
use crate::testing::{Testing, admin, core};

async fn configure(t: &Testing, kind: &str, name: &str, webhooks: Value) {
    let gvr = Gvr::dynamic("admissionregistration.k8s.io", "v1", &format!("{}s", kind.to_lowercase()));
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "webhooks": webhooks});
    t.create(&gvr, "-", &body).await;
}

async fn config_map(t: &Testing, name: &str, data: Value) -> Result<Value, Status> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    let made = t.call(&admin(), Verb::Create, &core("configmaps"), "default", &body).await?;
    Ok(made.to_value())
}

const VALIDATING: &str = "ValidatingWebhookConfiguration";
const MUTATING: &str = "MutatingWebhookConfiguration";

#[tokio::test]
async fn a_validating_webhook_sees_a_write_and_refuses_it() {
    let t = Testing::start().await;
    let hook = webhook(&["127.0.0.1"], |r| {
        assert_eq!(r["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
        assert_eq!(r["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
        assert_eq!(r["userInfo"]["username"], "admin");
        let bad = r["object"]["data"]["a"] == "bad" || r["oldObject"]["data"]["a"] == "kept";
        let mut answer = json!({"allowed": !bad, "warnings": ["look out"]});
        if bad {
            let why = format!("{} of {}", r["operation"].as_str().unwrap(), r["name"].as_str().unwrap());
            answer["status"] = json!({"message": why, "reason": "Odd", "code": 418});
        }
        answer
    })
    .await;
    configure(&t, VALIDATING, "v", json!([hook.entry("v.example.org", json!({}))])).await;
    config_map(&t, "good", json!({"a": "good"})).await.unwrap();
    let s = config_map(&t, "bad", json!({"a": "bad"})).await.unwrap_err();
    assert_eq!((s.code, s.reason.as_str()), (418, "Odd"));
    assert_eq!(s.message, "admission webhook \"v.example.org\" denied the request: CREATE of bad");
    config_map(&t, "kept", json!({"a": "kept"})).await.unwrap();
    let s = t.call(&admin(), Verb::Delete, &core("configmaps"), "default/kept", &Value::Null).await.unwrap_err();
    assert_eq!(s.message, "admission webhook \"v.example.org\" denied the request: DELETE of kept");
    assert_eq!(hook.connections.load(Ordering::Relaxed), 1, "a connection serves many calls");
    // Others are not asked about.
    let before = hook.calls.load(Ordering::Relaxed);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    t.create(&core("secrets"), "default", &secret).await;
    assert_eq!(hook.calls.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn mutating_webhooks_follow_each_other_and_are_called_again_when_they_wish() {
    let t = Testing::start().await;
    let first = webhook(&["127.0.0.1"], |r| {
        let seen = r["object"]["data"].as_object().map_or(0, serde_json::Map::len).to_string();
        patch(&json!([{"op": "add", "path": "/data/first", "value": seen}]))
    })
    .await;
    let second =
        webhook(&["127.0.0.1"], |_| patch(&json!([{"op": "add", "path": "/data/second", "value": "x"}]))).await;
    let more = json!({"reinvocationPolicy": "IfNeeded"});
    configure(&t, MUTATING, "a", json!([first.entry("a.example.org", more)])).await;
    configure(&t, MUTATING, "b", json!([second.entry("b.example.org", json!({}))])).await;
    let made = config_map(&t, "a", json!({"own": "y"})).await.unwrap();
    assert_eq!(made["data"], json!({"own": "y", "first": "3", "second": "x"}));
    assert_eq!((first.calls.load(Ordering::Relaxed), second.calls.load(Ordering::Relaxed)), (2, 1));
}

#[tokio::test]
async fn what_a_patch_makes_must_be_an_object_of_the_kind() {
    let t = Testing::start().await;
    let hook = webhook(&["127.0.0.1"], |r| {
        let value = &r["object"]["data"]["patch"];
        patch(&serde_json::from_str(value.as_str().unwrap()).unwrap())
    })
    .await;
    configure(&t, MUTATING, "m", json!([hook.entry("m.example.org", json!({}))])).await;
    for (operation, wrong) in [
        (json!({"op": "remove", "path": "/data/absent"}), "absent"),
        (json!({"op": "replace", "path": "/data", "value": 3}), "ConfigMap"),
        (json!({"op": "replace", "path": "/kind", "value": "Secret"}), "no object of the same kind"),
    ] {
        let s = config_map(&t, "a", json!({"patch": json!([operation]).to_string()})).await.unwrap_err();
        assert_eq!(s.code, 500, "{s}");
        assert!(s.message.contains(wrong), "{s}");
    }
    let rename = json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]).to_string();
    assert_eq!(config_map(&t, "a", json!({"patch": rename})).await.unwrap_err().code, 400);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_called_fails_writes_unless_that_is_ignored() {
    let t = Testing::start().await;
    let hook = webhook(&["elsewhere.example.org"], |_| json!({"allowed": true})).await;
    let gone = hook.entry("gone.example.org", json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}}));
    let wrong = hook.entry("wrong.example.org", json!({}));
    let selects = |value: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": value}});
    let with = |mut entry: Value, namespace: &str, policy: &str| {
        entry["failurePolicy"] = policy.into();
        entry["namespaceSelector"] = selects(namespace);
        entry
    };
    configure(&t, VALIDATING, "ignored", json!([with(gone.clone(), "default", "Ignore")])).await;
    config_map(&t, "a", json!({})).await.unwrap();
    configure(&t, VALIDATING, "elsewhere", json!([with(gone.clone(), "kube-system", "Fail")])).await;
    config_map(&t, "b", json!({})).await.unwrap();
    configure(&t, VALIDATING, "wrong", json!([with(wrong, "default", "Fail")])).await;
    let s = config_map(&t, "c", json!({})).await.unwrap_err();
    assert_eq!(s.code, 500);
    assert_eq!(
        s.message,
        format!(
            "Internal error occurred: failed calling webhook \"wrong.example.org\": failed to call webhook: \
             Post \"https://127.0.0.1:{}/x?timeout=10s\": tls: failed to verify certificate: \
             x509: certificate is not valid for 127.0.0.1",
            hook.port
        )
    );
}

#[tokio::test]
async fn a_service_is_dialled_at_its_endpoints_by_the_name_in_its_certificate() {
    let t = Testing::start().await;
    let hook = webhook(&["hook.default.svc"], |_| json!({"allowed": false})).await;
    let client = json!({"service": {"name": "hook", "namespace": "default", "path": "/x"}, "caBundle": hook.authority});
    configure(&t, VALIDATING, "v", json!([hook.entry("v.example.org", json!({"clientConfig": client}))])).await;
    let s = config_map(&t, "a", json!({})).await.unwrap_err();
    assert!(s.message.ends_with("https://hook.default.svc:443/x?timeout=10s\": service \"hook\" not found"), "{s}");
    let ports = json!([{"port": 443, "targetPort": hook.port}]);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": {"ports": ports}});
    t.create(&core("services"), "default", &service).await;
    let s = config_map(&t, "a", json!({})).await.unwrap_err();
    assert!(s.message.ends_with("no endpoints available for service \"hook\""), "{s}");
    t.endpoints_here("hook", hook.port).await;
    let s = config_map(&t, "a", json!({})).await.unwrap_err();
    assert_eq!(s.message, "admission webhook \"v.example.org\" denied the request without explanation");
}

#[tokio::test]
async fn match_conditions_and_dry_runs_decide_before_the_call() {
    let t = Testing::start().await;
    let hook = webhook(&["127.0.0.1"], |_| json!({"allowed": false, "status": {"message": "no"}})).await;
    let condition = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    let other = "object.metadata.name != 'spared' && request.operation == 'CREATE'";
    configure(&t, VALIDATING, "v", json!([hook.entry("v.example.org", condition(other))])).await;
    config_map(&t, "spared", json!({})).await.unwrap();
    assert!(config_map(&t, "a", json!({})).await.unwrap_err().message.ends_with("denied the request: no"));
    let broken = json!([hook.entry("w.example.org", condition("object.absent == 1"))]);
    configure(&t, VALIDATING, "w", broken).await;
    let s = config_map(&t, "spared-too", json!({})).await.unwrap_err();
    assert_eq!(s.code, 403);
    assert!(s.message.contains("no such key: absent"), "{s}");
    // Configurations themselves are never subject to webhooks.
    let gvr = Gvr::dynamic("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations");
    t.call(&admin(), Verb::Delete, &gvr, "-/w", &Value::Null).await.unwrap();
}
