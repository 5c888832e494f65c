//! What a node is refused, each in upstream's words.

use api::Status;
use client::api::{Gvr, PatchKind, Verb};
use serde_json::{Value, json};

use crate::request::User;
use crate::testing::{Testing, core, pod};

const MERGE: Verb = Verb::Patch(PatchKind::Merge);

fn node(name: &str) -> User {
    User::authenticated(&format!("system:node:{name}"), &["system:nodes"])
}

fn says(result: Result<impl Sized, Status>, what: &str) {
    let Err(s) = result else { panic!("allowed: {what}") };
    assert!(s.code == 403 && s.message.contains(what), "{} does not say {what:?}", s.message);
}

/// Two nodes, each with a pod, and an account in `default`.
async fn two_nodes() -> Testing {
    let t = Testing::start().await;
    t.create(&core("serviceaccounts"), "default", &json!({"metadata": {"name": "default"}})).await;
    for n in ["n1", "n2"] {
        t.create(&core("nodes"), "-", &json!({"metadata": {"name": n, "labels": {"kubernetes.io/os": "linux"}}})).await;
        t.create(&core("pods"), "default", &pod(&format!("on-{n}"), n)).await;
    }
    t
}

#[tokio::test]
async fn a_node_writes_itself_without_steering_workloads() {
    let t = two_nodes().await;
    let n1 = node("n1");
    let patch = async |path: &str, p: Value| t.call(&n1, MERGE, &core("nodes"), path, &p).await;
    patch("-/n1", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z", "disk": "ssd"}}})).await.unwrap();
    patch("-/n1/status", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})).await.unwrap();
    let label = |k: &str| json!({"metadata": {"labels": {k: "x"}}});
    says(
        patch("-/n1", label("node-restriction.kubernetes.io/team")).await,
        "node \"n1\" is not allowed to modify labels: node-restriction.kubernetes.io/team",
    );
    says(patch("-/n1", label("node-role.kubernetes.io/control-plane")).await, "is not allowed to modify labels");
    says(patch("-/n1/status", label("other.k8s.io/x")).await, "is not allowed to modify labels: other.k8s.io/x");
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    says(patch("-/n1", taint).await, "node \"n1\" is not allowed to modify taints");
    let owner =
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u"}]}});
    says(patch("-/n1", owner).await, "node \"n1\" is not allowed to modify ownerReferences");
    // Other nodes: the authorizer's to refuse.
    says(patch("-/n2", label("disk")).await, "cannot patch resource \"nodes\"");
    says(t.call(&n1, Verb::Delete, &core("nodes"), "-/n1", &Value::Null).await, "cannot delete resource \"nodes\"");
}

#[tokio::test]
async fn a_node_registers_itself_only() {
    let t = two_nodes().await;
    let create = async |user: &str, body: Value| t.call(&node(user), Verb::Create, &core("nodes"), "-", &body).await;
    says(create("n3", json!({"metadata": {"name": "n4"}})).await, "node \"n3\" is not allowed to modify node \"n4\"");
    let role = json!({"metadata": {"name": "n3", "labels": {"node-role.kubernetes.io/master": ""}}});
    says(create("n3", role).await, "is not allowed to set the following labels: node-role.kubernetes.io/master");
    let taints = json!([{"key": "a", "effect": "NoSchedule"}]);
    create("n3", json!({"metadata": {"name": "n3"}, "spec": {"taints": taints}})).await.unwrap();
}

#[tokio::test]
async fn a_node_touches_its_own_pods_only() {
    let t = two_nodes().await;
    let n1 = node("n1");
    let status = json!({"status": {"phase": "Running"}});
    let patch = async |path: &str, p: &Value| t.call(&n1, MERGE, &core("pods"), path, p).await;
    patch("default/on-n1/status", &status).await.unwrap();
    says(patch("default/on-n2/status", &status).await, "cannot patch resource \"pods/status\"");
    let labels = json!({"metadata": {"labels": {"app": "web"}}});
    says(patch("default/on-n1/status", &labels).await, "node \"n1\" cannot update labels through pod status");
    says(patch("default/on-n1", &labels).await, "cannot patch resource \"pods\"");
    let evict = async |name: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        t.call(&n1, Verb::Create, &core("pods"), &format!("default/{name}/eviction"), &body).await
    };
    says(evict("on-n2").await, "cannot create resource \"pods/eviction\"");
    evict("on-n1").await.unwrap();
    says(t.call(&n1, Verb::Delete, &core("pods"), "default/on-n2", &Value::Null).await, "cannot delete resource");
}

#[tokio::test]
async fn a_node_creates_mirror_pods_only() {
    let t = two_nodes().await;
    let uid = t.server.registry().get(&t.server.resource("", "v1", "nodes").unwrap(), "", "n1").await.unwrap();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid.meta().uid, "controller": true});
    let mut mirror = pod("static-n1", "n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
    mirror["metadata"]["ownerReferences"] = json!([owner]);
    let with = |path: &str, v: Value| {
        let mut p = mirror.clone();
        *p.pointer_mut(path).unwrap() = v;
        p
    };
    let create = async |body: &Value| t.call(&node("n1"), Verb::Create, &core("pods"), "default", body).await;
    says(create(&pod("p", "n1")).await, "annotation, node \"n1\" can only create mirror pods");
    says(create(&with("/spec/nodeName", json!("n2"))).await, "can only create pods with spec.nodeName set to itself");
    let owners = "/metadata/ownerReferences";
    says(create(&with(owners, json!([]))).await, "can only create pods with an owner reference set to itself");
    let mut second = owner.clone();
    second["controller"] = json!(false);
    says(create(&with(owners, json!([owner, second]))).await, "with a single owner reference set to itself");
    says(create(&with(owners, json!([second]))).await, "with a controller owner reference set to itself");
    let wrong = with("/metadata/ownerReferences/0/uid", json!("u"));
    says(create(&wrong).await, "node n1 UID mismatch: expected");
    let mut blocking = mirror.clone();
    blocking["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true);
    says(create(&blocking).await, "must not set blockOwnerDeletion on an owner reference");
    let mut secret = mirror.clone();
    secret["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "x"}}]);
    says(create(&secret).await, "can not create pods that reference secrets");
    create(&mirror).await.unwrap();
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_pods_only() {
    let t = two_nodes().await;
    let pods = t.server.resource("", "v1", "pods").unwrap();
    let uid = |name: &str| t.server.registry().get_cached(&pods, "default", name).unwrap().meta().uid.to_owned();
    let ask = async |reference: Value, audiences: Value| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "boundObjectRef": reference}});
        t.call(&node("n1"), Verb::Create, &core("serviceaccounts"), "default/default/token", &body).await
    };
    let to = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid(name)});
    ask(to("on-n1"), json!([])).await.unwrap();
    says(ask(to("on-n2"), json!([])).await, "node requested token bound to a pod scheduled on a different node");
    says(ask(Value::Null, json!([])).await, "node requested token not bound to a pod");
    let no_uid = json!({"apiVersion": "v1", "kind": "Pod", "name": "on-n1"});
    says(ask(no_uid, json!([])).await, "node requested token with a pod binding without a uid");
    says(ask(to("on-n1"), json!(["vault"])).await, "audience \"vault\" not found in pod spec volume");
    let other = json!({"apiVersion": "v1", "kind": "Pod", "name": "on-n1", "uid": "u"});
    assert_eq!(ask(other, json!([])).await.unwrap_err().code, 409);
}

#[tokio::test]
async fn a_node_renews_its_own_lease_only() {
    let t = two_nodes().await;
    let leases = Gvr::dynamic("coordination.k8s.io", "v1", "leases");
    let create = async |namespace: &str, name: &str| {
        let body = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
        t.call(&node("n1"), Verb::Create, &leases, namespace, &body).await
    };
    create("kube-node-lease", "n1").await.unwrap();
    says(create("kube-node-lease", "n2").await, "can only access node lease with the same name as the requesting node");
    says(create("default", "n1").await, "cannot create resource \"leases\"");
    let csi = Gvr::dynamic("storage.k8s.io", "v1", "csinodes");
    let other = json!({"metadata": {"name": "n2"}, "spec": {"drivers": []}});
    let refused = t.call(&node("n1"), Verb::Create, &csi, "-", &other).await;
    says(refused, "can only access CSINode with the same name as the requesting node");
}

#[tokio::test]
async fn a_node_asks_for_its_own_certificate_only() {
    let t = two_nodes().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let request = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pem)
    };
    let ask = async |name: &str, signer: &str| {
        let body = json!({"metadata": {"generateName": "csr-"}, "spec": {"request": request(name),
            "signerName": signer, "usages": ["digital signature", "client auth"]}});
        let requests = Gvr::dynamic("certificates.k8s.io", "v1", "certificatesigningrequests");
        t.call(&node("n1"), Verb::Create, &requests, "-", &body).await
    };
    for signer in ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"] {
        says(ask("system:node:n2", signer).await, "can only create a node CSR with CN=system:node:n1");
    }
    ask("system:node:n1", "kubernetes.io/kube-apiserver-client-kubelet").await.unwrap();
}
