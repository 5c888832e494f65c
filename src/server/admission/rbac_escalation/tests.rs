//! Who has few rights cannot make more of them.

use client::api::{Gvr, Verb};
use serde_json::{Value, json};

use crate::request::User;
use crate::testing::Testing;

const GROUP: &str = "rbac.authorization.k8s.io";

fn rbac(plural: &str) -> Gvr {
    Gvr::dynamic(GROUP, "v1", plural)
}

fn role(name: &str, verbs: &[&str]) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": "default"},
        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["secrets"]}]})
}

fn binding(name: &str, kind: &str, to: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": "default"},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": to}, "subjects": [{"kind": "User", "name": "eve", "apiGroup": GROUP}]})
}

/// Lets `eve` write roles and bindings everywhere, and what `rules` say.
async fn eve(t: &Testing, rules: Value) -> User {
    let mut all = vec![json!({"verbs": ["*"], "apiGroups": [GROUP],
        "resources": ["roles", "clusterroles", "rolebindings", "clusterrolebindings"]})];
    // Everything on roles but the two verbs that this is about.
    all[0]["verbs"] = json!(["get", "create", "update", "patch", "delete"]);
    all.extend(rules.as_array().unwrap().iter().cloned());
    let meta = json!({"name": "eve"});
    t.create(&rbac("clusterroles"), "-", &json!({"metadata": meta, "rules": all})).await;
    let to = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "eve"});
    let who = json!([{"kind": "User", "name": "eve", "apiGroup": GROUP}]);
    t.create(&rbac("clusterrolebindings"), "-", &json!({"metadata": meta, "roleRef": to, "subjects": who})).await;
    User::authenticated("eve", &[])
}

#[tokio::test]
async fn a_role_gives_no_more_than_its_author_has() {
    let t = Testing::start().await;
    let eve = eve(&t, json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}])).await;
    let create = async |verbs: &[&str]| t.call(&eve, Verb::Create, &rbac("roles"), "default", &role("r", verbs)).await;
    let refused = create(&["get", "list", "watch"]).await.unwrap_err();
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"eve\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"list\" \"watch\"]}"
    );
    create(&["get"]).await.unwrap();
    let more = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let patch = Verb::Patch(client::api::PatchKind::Merge);
    t.call(&eve, patch, &rbac("roles"), "default/r", &more).await.unwrap_err();
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    t.call(&eve, patch, &rbac("roles"), "default/r", &held).await.unwrap();
}

#[tokio::test]
async fn a_role_that_gives_too_much_already_can_still_be_let_go() {
    let t = Testing::start().await;
    let eve = eve(&t, json!([])).await;
    t.create(&rbac("roles"), "default", &role("wide", &["*"])).await;
    let patch = Verb::Patch(client::api::PatchKind::Merge);
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    t.call(&eve, patch, &rbac("roles"), "default/wide", &hold).await.unwrap();
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    t.call(&eve, patch, &rbac("roles"), "default/wide", &label).await.unwrap_err();
}

#[tokio::test]
async fn who_may_escalate_or_bind_may() {
    let t = Testing::start().await;
    let verbs = json!([{"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"]},
        {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["view"]}]);
    let eve = eve(&t, verbs).await;
    t.call(&eve, Verb::Create, &rbac("roles"), "default", &role("r", &["*"])).await.unwrap();
    let bind = async |b: Value| t.call(&eve, Verb::Create, &rbac("rolebindings"), "default", &b).await;
    bind(binding("view", "ClusterRole", "view")).await.unwrap();
    assert_eq!(bind(binding("own", "Role", "r")).await.unwrap_err().code, 403);
    assert_eq!(bind(binding("none", "Role", "absent")).await.unwrap_err().code, 404);
    let admin = bind(binding("admin", "ClusterRole", "cluster-admin")).await.unwrap_err();
    assert!(admin.message.ends_with(r#"{NonResourceURLs:["*"], Verbs:["*"]}"#), "{}", admin.message);
}

#[tokio::test]
async fn aggregation_is_for_administrators() {
    let t = Testing::start().await;
    let eve = eve(&t, json!([])).await;
    let all = json!({"metadata": {"name": "all"}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let refused = t.call(&eve, Verb::Create, &rbac("clusterroles"), "-", &all).await.unwrap_err();
    assert!(refused.message.contains("must have cluster-admin privileges to use the aggregationRule"));
}
