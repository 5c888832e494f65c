//! What the audit log says of requests, by policy.

use std::path::Path;

use api::Object;
use client::api::Verb;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::testing::webhook::{patch, webhook};
use crate::testing::{Testing, admin, core};

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, users: [system:apiserver]}
- {level: None, nonResourceURLs: [/healthz]}
- {level: RequestResponse, omitManagedFields: true, resources: [{resources: [configmaps]}]}
- {level: Metadata, omitStages: [RequestReceived]}
";

/// A server that records everything by [`POLICY`].
async fn recording() -> (Testing, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let config = Config { policy_file: Some(policy), log_path: Some(log), ..Config::default() };
    (Testing::auditing(config).await, directory)
}

async fn ended(t: Testing, directory: &Path) -> Vec<Value> {
    t.end().await;
    let text = std::fs::read_to_string(directory.join("audit.log")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

async fn ask(t: &Testing, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
    let mut request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = request.body(axum::body::Body::from(body)).unwrap();
    request.extensions_mut().insert(Peer { address: Some(([10, 0, 0, 7], 99).into()), ..Default::default() });
    t.server.serve(request).await
}

fn stages(events: &[Value], uri: &str) -> Vec<String> {
    let of = events.iter().filter(|e| e["requestURI"].as_str().is_some_and(|u| u.starts_with(uri)));
    of.map(|e| e["stage"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_refused_request_is_recorded_as_upstream_does() {
    let (t, directory) = recording().await;
    let path = "/api/v1/namespaces/default/pods/a?x=y";
    let reply = ask(
        &t,
        "GET",
        path,
        &[("audit-id", "mine"), ("user-agent", "me/1"), ("x-forwarded-for", "192.0.2.1")],
        Value::Null,
    )
    .await;
    assert_eq!((reply.status().as_u16(), reply.headers()[AUDIT_ID].to_str().unwrap()), (403, "mine"));
    ask(&t, "GET", "/healthz", &[], Value::Null).await;
    let events = ended(t, directory.path()).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let mut event = events[0].clone();
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        let text = event.as_object_mut().unwrap().remove(time).unwrap();
        assert_eq!(text.as_str().unwrap().len(), "2026-01-01T00:00:00.000000Z".len(), "{text}");
    }
    let message = "pods \"a\" is forbidden: User \"system:anonymous\" cannot get resource \"pods\" in API group \"\" \
                   in the namespace \"default\"";
    assert_eq!(
        event,
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "mine",
            "stage": "ResponseComplete", "requestURI": path, "verb": "get",
            "user": {"username": "system:anonymous", "groups": ["system:unauthenticated"]},
            "sourceIPs": ["192.0.2.1", "10.0.0.7"], "userAgent": "me/1",
            "objectRef": {"resource": "pods", "namespace": "default", "name": "a", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "status": "Failure", "message": message, "reason": "Forbidden",
                "details": {"name": "a", "kind": "pods"}, "code": 403},
            "annotations": {"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": ""},
        })
    );
}

#[tokio::test]
async fn bodies_are_recorded_where_the_policy_asks_for_them() {
    let (t, directory) = recording().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"}, "data": {"k": "v"}});
    let made = t.call(&admin(), Verb::Create, &core("configmaps"), "default", &body).await.unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hush"}});
    t.call(&admin(), Verb::Create, &core("secrets"), "default", &secret).await.unwrap();
    let again = t.call(&admin(), Verb::Create, &core("secrets"), "default", &secret).await;
    assert!(again.is_err());
    let events = ended(t, directory.path()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    assert_eq!(stages(&events, path), ["RequestReceived", "ResponseComplete"]);
    let done = events.iter().rfind(|e| e["requestURI"] == path).unwrap();
    assert_eq!(done["requestObject"], body);
    assert_eq!(done["responseObject"]["metadata"]["name"], Object::meta(&made).name);
    assert_eq!(done["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!((&done["objectRef"]["name"], &done["responseStatus"]["code"]), (&json!(made.meta().name), &json!(201)));
    assert_eq!(done["annotations"]["authorization.k8s.io/decision"], "allow");
    let secrets: Vec<&Value> = events.iter().filter(|e| e["objectRef"]["resource"] == "secrets").collect();
    let codes: Vec<&Value> = secrets.iter().map(|e| &e["responseStatus"]["code"]).collect();
    assert_eq!(codes, [201, 409]);
    assert!(!format!("{secrets:?}").contains("hush"));
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let (t, directory) = recording().await;
    let request = http::Request::get("/api/v1/pods?watch=true").body(axum::body::Body::empty()).unwrap();
    let reply = t.server.serve_as(admin(), request).await;
    let mut body = reply.into_body();
    drop(body.frame());
    drop(body);
    let events = ended(t, directory.path()).await;
    assert_eq!(stages(&events, "/api/v1/pods?watch"), ["ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn impersonation_and_failed_authentication_are_told() {
    let (t, directory) = recording().await;
    let request = http::Request::get("/version")
        .header("authorization", "Bearer nonsense")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(t.server.serve(request).await.status().as_u16(), 401);
    let mut parts = http::Request::get("/version").body(()).unwrap().into_parts().0;
    parts.extensions.insert(Impersonator(admin()));
    let somebody = User::authenticated("somebody", &[]);
    let request = http::Request::from_parts(parts, axum::body::Body::empty());
    t.server.serve_as(somebody, request).await;
    let events = ended(t, directory.path()).await;
    assert_eq!(events[0]["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!((&events[0]["responseStatus"]["code"], &events[0]["user"]), (&json!(401), &json!({})));
    assert_eq!(events[1]["user"]["username"], "admin");
    assert_eq!(events[1]["impersonatedUser"]["username"], "somebody");
}

#[tokio::test]
async fn what_policies_and_pod_security_find_is_annotated() {
    let (t, directory) = recording().await;
    let policies = client::api::Gvr::dynamic("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
    let bindings = client::api::Gvr::dynamic("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings");
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "true"}, {"expression": "false", "message": "never"}],
        "auditAnnotations": [
            {"key": "said", "valueExpression": "object.metadata.name + ', by ' + request.userInfo.username"},
            {"key": "nothing", "valueExpression": "null"}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny", "Audit"]}});
    t.create(&policies, "-", &policy).await;
    t.create(&bindings, "-", &binding).await;
    t.server.registry().caches().fresh().await.unwrap();
    let body = json!({"metadata": {"name": "c"}});
    let denied = t.call(&admin(), Verb::Create, &core("configmaps"), "default", &body).await;
    assert!(denied.unwrap_err().message.ends_with("denied request: never"));
    let namespace =
        json!({"metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    t.create(&core("namespaces"), "-", &namespace).await;
    let account = json!({"metadata": {"name": "default"}});
    t.create(&core("serviceaccounts"), "strict", &account).await;
    let mut pod = crate::testing::pod("p", "");
    pod["metadata"]["namespace"] = "strict".into();
    t.create(&core("pods"), "strict", &pod).await;
    let events = ended(t, directory.path()).await;
    let annotations = |resource: &str| {
        events.iter().rfind(|e| e["objectRef"]["resource"] == resource).unwrap()["annotations"].clone()
    };
    let failure = annotations("configmaps")["validation.policy.admission.k8s.io/validation_failure"].clone();
    let failure: Value = serde_json::from_str(failure.as_str().unwrap()).unwrap();
    assert_eq!(
        failure,
        json!([{"message": "never", "policy": "p", "binding": "b", "expressionIndex": 1, "validationActions": ["Deny", "Audit"]}])
    );
    assert_eq!(annotations("configmaps")["p/said"], "c, by admin");
    assert_eq!(annotations("configmaps").get("p/nothing"), None);
    let pods = annotations("pods");
    assert_eq!(pods["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violations = pods["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(violations.starts_with("would violate PodSecurity \"restricted:latest\": "), "{violations}");
}

#[tokio::test]
async fn what_webhooks_do_is_annotated() {
    let (t, directory) = recording().await;
    let hook = webhook(&["127.0.0.1"], |_| {
        let mut answer = patch(&json!([{"op": "add", "path": "/data", "value": {"k": "v"}}]));
        answer["auditAnnotations"] = json!({"why": "because"});
        answer
    })
    .await;
    let configurations = |plural: &str| client::api::Gvr::dynamic("admissionregistration.k8s.io", "v1", plural);
    let dead = json!({"failurePolicy": "Ignore", "clientConfig": {"url": "https://127.0.0.1:1/x"}});
    let other =
        json!({"rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["nodes"]}]});
    let mutating = json!({"metadata": {"name": "m"},
        "webhooks": [hook.entry("a.b.c", json!({})), hook.entry("dead.b.c", dead.clone())]});
    let validating = json!({"metadata": {"name": "v"},
        "webhooks": [hook.entry("other.b.c", other), hook.entry("late.b.c", dead)]});
    t.create(&configurations("mutatingwebhookconfigurations"), "-", &mutating).await;
    t.create(&configurations("validatingwebhookconfigurations"), "-", &validating).await;
    t.create(&core("configmaps"), "default", &json!({"metadata": {"name": "c"}})).await;
    let events = ended(t, directory.path()).await;
    let event = events.iter().rfind(|e| e["objectRef"]["resource"] == "configmaps").unwrap();
    let parsed = |key: &str| serde_json::from_str::<Value>(event["annotations"][key].as_str().unwrap()).unwrap();
    let first = json!({"configuration": "m", "webhook": "a.b.c", "mutated": true});
    assert_eq!(parsed("mutation.webhook.admission.k8s.io/round_0_index_0"), first);
    let second = json!({"configuration": "m", "webhook": "dead.b.c", "mutated": false});
    assert_eq!(parsed("mutation.webhook.admission.k8s.io/round_0_index_1"), second);
    let patched = json!({"configuration": "m", "webhook": "a.b.c", "patchType": "JSONPatch",
        "patch": [{"op": "add", "path": "/data", "value": {"k": "v"}}]});
    assert_eq!(parsed("patch.webhook.admission.k8s.io/round_0_index_0"), patched);
    let annotations = &event["annotations"];
    assert_eq!(annotations["a.b.c/why"], "because");
    assert_eq!(annotations["failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"], "dead.b.c");
    assert_eq!(annotations["failed-open.validating.webhook.admission.k8s.io/round_0_index_0"], "late.b.c");
}
