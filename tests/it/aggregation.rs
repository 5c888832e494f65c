//! API servers beside this one, and webhooks that convert custom resources, as kubectl meets them.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::lab::{Cluster, eventually};
use crate::webhook::webhook;

const ABSENT: &str = r#"
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.flowers.example.org}
spec:
  group: flowers.example.org
  version: v1
  groupPriorityMinimum: 1000
  versionPriority: 10
  insecureSkipTLSVerify: true
  service: {name: garden, namespace: default}
"#;

#[test]
fn a_server_that_is_not_there_hinders_nothing_but_its_own() {
    let mut c = Cluster::start();
    c.kubectl(&["create", "namespace", "n"]);
    c.apply(ABSENT);
    let reason = |c: &Cluster| c.field(&["apiservice", "v1.flowers.example.org"], ".status.conditions[0].reason");
    eventually("it is missed", || reason(&c) == "ServiceNotFound");
    let table = c.kubectl(&["get", "apiservice", "v1.flowers.example.org"]);
    assert!(table.contains("default/garden   False (ServiceNotFound)"), "{table}");
    let said = c.refused(&["get", "--raw", "/apis/flowers.example.org/v1"], "");
    assert!(said.contains("the server is currently unable to handle the request"), "{said}");
    c.kubectl(&["create", "configmap", "a", "-n", "n"]);

    // A namespace may hold what nobody can be asked about.
    c.kubectl(&["delete", "namespace", "n", "--wait=false"]);
    let condition = |c: &Cluster, kind: &str| {
        c.field(&["namespace", "n"], &format!(".status.conditions[?(@.type==\"{kind}\")].message"))
    };
    eventually("its end waits", || {
        condition(&c, "NamespaceDeletionDiscoveryFailure").contains("flowers.example.org/v1")
    });
    assert_eq!(c.kubectl(&["get", "configmaps", "-n", "n", "-o", "name"]), "", "the rest is gone");

    // It is known again after a restart.
    c.kill();
    c.run();
    assert!(c.refused(&["get", "--raw", "/apis/flowers.example.org/v1"], "").contains("unable to handle"));
    c.kubectl(&["delete", "apiservice", "v1.flowers.example.org"]);
    eventually("it goes", || !c.kubectl_with(&["get", "namespace", "n"], "").status.success());
}

fn definition(port: u16, authority: &str) -> String {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema":
            {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"}, "spec": {
        "group": "example.org", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [version("v1", true), version("v2", false)],
        "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/convert"), "caBundle": authority}}}}})
    .to_string()
}

#[test]
fn kubectl_meets_custom_resources_in_every_version() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let c = Cluster::start();
    let hook = runtime.block_on(webhook(&["127.0.0.1"], |request| {
        let convert = |object: &Value| {
            let mut new = object.clone();
            new["apiVersion"] = request["desiredAPIVersion"].clone();
            let (from, to) =
                if new["apiVersion"] == "example.org/v2" { ("size", "length") } else { ("length", "size") };
            if let Some(v) = new.as_object_mut().and_then(|o| o.remove(from)) {
                new[to] = v;
            }
            new
        };
        let converted: Vec<Value> = request["objects"].as_array().into_iter().flatten().map(convert).collect();
        json!({"result": {"status": "Success"}, "convertedObjects": converted})
    }));
    c.apply(&definition(hook.port, &hook.authority));
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.org", "--timeout=10s"]);
    let widget = |version: &str, name: &str, field: &str| {
        json!({"apiVersion": format!("example.org/{version}"), "kind": "Widget", "metadata": {"name": name}, field: 3})
            .to_string()
    };
    c.apply(&widget("v1", "a", "size"));
    c.apply(&widget("v2", "b", "length"));
    let values =
        |resource: &str, field: &str| c.kubectl(&["get", resource, "-o", &format!("jsonpath={{.items[*].{field}}}")]);
    assert_eq!(
        (values("widgets.v1.example.org", "size"), values("widgets.v2.example.org", "length")),
        ("3 3".into(), "3 3".into())
    );
    c.kubectl(&["patch", "widgets.v2.example.org", "a", "--type=merge", "-p", r#"{"length":4}"#]);
    assert_eq!(c.field(&["widgets.v1.example.org", "a"], ".size"), "4");
    let calls = hook.calls.load(Ordering::Relaxed);
    assert!(calls > 0);
    drop(runtime);
    let said = c.refused(&["get", "widgets.v2.example.org", "a"], "");
    let wanted = format!(
        "Error from server: conversion webhook for example.org/v1, Kind=Widget failed: Post \
         \"https://127.0.0.1:{0}/convert?timeout=30s\": dial tcp 127.0.0.1:{0}: connect: connection refused",
        hook.port
    );
    assert!(said.contains(&wanted), "{said}");
    // A definition goes with its objects, whatever becomes of its webhook.
    c.kubectl(&["delete", "crd", "widgets.example.org", "--timeout=20s"]);
}
