//! What the small default plugins do, through the pipeline.

use client::api::{Gvr, PatchKind, Verb};
use serde_json::json;

use crate::testing::{Testing, admin, core};

#[tokio::test]
async fn claims_get_the_default_class_and_stay_while_they_are_used() {
    let t = Testing::start().await;
    let classes = Gvr::dynamic("storage.k8s.io", "v1", "storageclasses");
    let class = |name: &str, default: &str| {
        json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
            "provisioner": "example.org/p"})
    };
    t.create(&classes, "-", &class("other", "false")).await;
    t.create(&classes, "-", &class("usual", "true")).await;
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let made = t.create(&core("persistentvolumeclaims"), "default", &claim("c")).await.to_value();
    assert_eq!(made["spec"]["storageClassName"], "usual");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let patch = |sub: &str, body: serde_json::Value| {
        let (t, gvr, path) = (&t, core("persistentvolumeclaims"), format!("default/c{sub}"));
        async move { t.call(&admin(), Verb::Patch(PatchKind::Merge), &gvr, &path, &body).await }
    };
    patch("/status", json!({"status": {"phase": "Bound"}})).await.unwrap();
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    assert_eq!(
        patch("", more).await.unwrap_err().message,
        "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
    );
}

#[tokio::test]
async fn ingresses_get_the_newest_default_class() {
    let t = Testing::start().await;
    let gvr = |plural| Gvr::dynamic("networking.k8s.io", "v1", plural);
    let class = json!({"metadata": {"name": "usual",
        "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "a/b"}});
    t.create(&gvr("ingressclasses"), "-", &class).await;
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": backend}});
    let made = t.create(&gvr("ingresses"), "default", &ingress).await.to_value();
    assert_eq!(made["spec"]["ingressClassName"], "usual");
}

#[tokio::test]
async fn a_node_begins_as_not_ready_and_gives_its_topology_to_its_pods() {
    let t = Testing::start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "other": "o"});
    let node = t.create(&core("nodes"), "-", &json!({"metadata": {"name": "n", "labels": labels}})).await.to_value();
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    t.create(&core("serviceaccounts"), "default", &json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    t.create(&core("pods"), "default", &pod).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n"}});
    t.call(&admin(), Verb::Create, &core("pods"), "default/p/binding", &binding).await.unwrap();
    let pod = t.call(&admin(), Verb::Get, &core("pods"), "default/p", &json!(null)).await.unwrap().to_value();
    assert_eq!(pod["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
}
