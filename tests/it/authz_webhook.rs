//! Services elsewhere that say who callers are and what they may do.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::lab::{Cluster, eventually};
use crate::webhook::{Webhook, https};

/// A kubeconfig by which a service is found.
fn kubeconfig(folder: &Path, name: &str, service: &Webhook) -> PathBuf {
    let cluster = json!({"server": format!("https://127.0.0.1:{}/{name}", service.port),
        "certificate-authority-data": service.authority});
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}], "users": [],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}]});
    let path = folder.join(name);
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// Answers a review with a status.
fn answered(review: &Value, status: Value) -> Value {
    let mut review = review.clone();
    review["status"] = status;
    review
}

/// Lets ann read config maps that are called so, and refuses what is called `forbidden`.
fn judge(_: &str, review: &Value) -> Value {
    let attributes = &review["spec"]["resourceAttributes"];
    let status = match (review["spec"]["user"].as_str().unwrap(), attributes["name"].as_str().unwrap_or_default()) {
        (_, "forbidden") => json!({"allowed": false, "denied": true, "reason": "the webhook forbids it"}),
        ("ann", "allowed") => json!({"allowed": true, "reason": "the webhook allows it"}),
        _ => json!({"allowed": false, "reason": "the webhook does not know"}),
    };
    answered(review, status)
}

fn authorizers(kubeconfig: &Path, policy: &str) -> String {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": [
        {"type": "Webhook", "name": "first", "webhook": {
            "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": policy,
            "matchConditionSubjectAccessReviewVersion": "v1",
            "matchConditions": [
                {"expression": "has(request.resourceAttributes) && request.resourceAttributes.resource == 'configmaps'"},
                {"expression": "!request.user.startsWith('system:')"}],
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig}}},
        {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}]})
    .to_string()
}

#[test]
fn a_webhook_decides_before_rbac_where_its_conditions_hold() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let service = runtime.block_on(https(&["127.0.0.1"], judge));
    let at = kubeconfig(dir.path(), "sar", &service);
    let file = dir.path().join("authorization.yaml");
    std::fs::write(&file, authorizers(&at, "Deny")).unwrap();
    let c = Cluster::with(&["--disable-agent", &format!("--authorization-config={}", file.display())]);
    for name in ["allowed", "forbidden", "other"] {
        c.kubectl(&["create", "configmap", name]);
    }
    assert_eq!(service.calls.load(Ordering::Relaxed), 0, "masters are not asked about, nor the system");
    c.kubectl(&["create", "clusterrolebinding", "view", "--clusterrole=view", "--user=bob"]);
    let get = |user: &'static str, name: &'static str| ["--as", user, "get", "configmap", name];
    c.kubectl(&get("ann", "allowed"));
    let said = c.refused(&get("ann", "other"), "");
    let expected = "User \"ann\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"default\": \
                    the webhook does not know";
    assert!(said.contains(expected), "{said}");
    eventually("bob may by RBAC what the webhook does not know", || {
        c.kubectl_with(&get("bob", "other"), "").status.success()
    });
    let said = c.refused(&get("bob", "forbidden"), "");
    assert!(said.contains("the webhook forbids it"), "{said}");
    let calls = service.calls.load(Ordering::Relaxed);
    c.kubectl(&get("ann", "allowed"));
    c.kubectl(&["--as=bob", "get", "pods"]);
    assert_eq!(service.calls.load(Ordering::Relaxed), calls, "answers are remembered, conditions spare questions");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "ann",
        "resourceAttributes": {"verb": "get", "resource": "configmaps", "name": "allowed", "namespace": "default"}}});
    let status = c.apply_with(&["create", "-f", "-", "-o", "jsonpath={.status}"], &review.to_string());
    assert_eq!(status, r#"{"allowed":true,"reason":"the webhook allows it"}"#);

    // Without the service, what cannot be asked is refused, or left to the others.
    let mut gone = service;
    gone.port = 1;
    kubeconfig(dir.path(), "sar", &gone);
    std::fs::write(&file, authorizers(&at, "Deny").replace("3s", "4s")).unwrap();
    eventually("the changed file is in force", || {
        let out = c.kubectl_with(&get("bob", "other"), "");
        String::from_utf8_lossy(&out.stderr).contains("connection refused")
    });
    std::fs::write(&file, authorizers(&at, "NoOpinion")).unwrap();
    eventually("RBAC alone decides", || c.kubectl_with(&get("bob", "other"), "").status.success());
}

#[test]
fn flags_name_services_for_tokens_and_rights() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tokens = runtime.block_on(https(&["127.0.0.1"], |path, review| {
        assert_eq!((path, review["apiVersion"].as_str()), ("/tokens", Some("authentication.k8s.io/v1beta1")));
        let known = review["spec"]["token"] == "secret";
        let user = json!({"username": "ann", "uid": "7", "groups": ["team"], "extra": {"acme.com/k": ["v"]}});
        answered(review, if known { json!({"authenticated": true, "user": user}) } else { json!({}) })
    }));
    let rights = runtime.block_on(https(&["127.0.0.1"], |_, review| {
        let by_old_name = review["apiVersion"] == "authorization.k8s.io/v1beta1" && review["spec"]["group"].is_array();
        let may = by_old_name && review["spec"]["user"] == "ann";
        answered(review, json!({"allowed": may}))
    }));
    let (at, rights_at) = (kubeconfig(dir.path(), "tokens", &tokens), kubeconfig(dir.path(), "rights", &rights));
    let c = Cluster::with(&[
        "--disable-agent",
        &format!("--authentication-token-webhook-config-file={}", at.display()),
        &format!("--authorization-webhook-config-file={}", rights_at.display()),
    ]);
    let ca =
        c.kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"]);
    let own = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": c.url(), "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    let file = dir.path().join("own");
    std::fs::write(&file, own.to_string()).unwrap();
    let file = format!("--kubeconfig={}", file.display());
    let who = c.kubectl(&[&file, "auth", "whoami", "-o", "jsonpath={.status.userInfo}"]);
    let who: Value = serde_json::from_str(&who).unwrap();
    assert_eq!((&who["username"], &who["uid"]), (&json!("ann"), &json!("7")));
    assert_eq!(who["groups"], json!(["team", "system:authenticated"]));
    assert_eq!(who["extra"]["acme.com/k"], json!(["v"]));
    // She may everything, by the other service.
    c.kubectl(&[&file, "get", "secrets", "-A"]);
    assert!(rights.calls.load(Ordering::Relaxed) > 0);
    std::fs::write(dir.path().join("own"), own.to_string().replace("secret", "other")).unwrap();
    let said = c.refused(&[&file, "get", "pods"], "");
    assert!(said.contains("You must be logged in to the server"), "{said}");
    let calls = tokens.calls.load(Ordering::Relaxed);
    c.refused(&[&file, "get", "pods"], "");
    assert_eq!(tokens.calls.load(Ordering::Relaxed), calls, "what is no token is remembered, too");
}

#[test]
fn a_server_does_not_start_with_a_configuration_that_makes_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authorization.yaml");
    std::fs::write(
        &file,
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: []\n",
    )
    .unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_sampan"))
        .args(["server", "--disable-agent", "--https-listen-port=0", "--bind-address=127.0.0.1"])
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .arg(format!("--write-kubeconfig={}", dir.path().join("k").display()))
        .arg(format!("--authorization-config={}", file.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{said}");
    assert!(said.contains("authorizers: Required value: at least one authorization mode must be defined"), "{said}");
}
