//! Custom resources as their users meet them: kubectl against a definition's whole life.

use crate::lab::{Cluster, eventually};

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wi], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            description: what it should be
            required: [size]
            x-kubernetes-validations: [{rule: "self.size <= self.max", message: "size must not exceed max"}]
            properties:
              size: {type: integer, minimum: 1}
              max: {type: integer, default: 10}
              replicas: {type: integer, default: 1}
          status: {type: object, properties: {replicas: {type: integer}}}
  - name: v1beta1
    served: true
    storage: false
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

fn widget(name: &str, spec: &str) -> String {
    format!("apiVersion: example.org/v1\nkind: Widget\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn a_definition_lives_and_ends_with_its_objects() {
    let mut c = Cluster::start();
    c.apply(DEFINITION);
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.org", "--timeout=10s"]);
    let registered = |c: &Cluster| c.field(&["apiservice", "v1.example.org"], ".status.conditions[0].reason");
    eventually("its version is registered", || registered(&c) == "Local");
    c.apply(&widget("a", "{size: 3}"));
    assert_eq!(c.field(&["wi", "a"], ".spec"), r#"{"max":10,"replicas":1,"size":3}"#);
    for (spec, wrong) in [
        ("{size: 0}", "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ("{size: 30}", "spec: Invalid value: \"object\": size must not exceed max"),
        ("{size: x}", "spec.size in body must be of type integer: \"string\""),
        ("{}", "spec.size: Required value"),
        ("{size: 1, oops: 1}", "unknown field \"spec.oops\""),
    ] {
        let said = c.refused(&["apply", "-f", "-"], &widget("b", spec));
        assert!(said.contains(wrong), "{spec}: {said}");
    }
    let table = c.kubectl(&["get", "widgets"]);
    assert!(table.starts_with("NAME   SIZE\na      3"), "{table}");
    assert!(c.kubectl(&["explain", "widget.spec"]).contains("what it should be"));
    c.kubectl(&["scale", "wi/a", "--replicas=4"]);
    c.kubectl(&["patch", "wi", "a", "--subresource=status", "--type=merge", "-p", r#"{"status":{"replicas":2}}"#]);
    assert_eq!(c.field(&["wi", "a"], ".metadata.generation"), "2", "status is no new generation");
    assert_eq!(c.field(&["widgets.v1beta1.example.org", "a"], ".apiVersion"), "example.org/v1beta1");

    // An owner that is a custom resource takes what it owns with it.
    let uid = c.field(&["wi", "a"], ".metadata.uid");
    c.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: [{{apiVersion: example.org/v1, kind: Widget, name: a, uid: {uid}}}]\n"
    ));
    c.kill();
    c.run();
    assert_eq!(c.field(&["wi", "a"], ".status.replicas"), "2", "it is served after a restart");
    c.kubectl(&["delete", "wi", "a", "--timeout=10s"]);
    eventually("what it owned is gone", || c.field(&["cm", "owned"], ".metadata.name").is_empty());

    c.kubectl(&["create", "namespace", "n"]);
    c.apply_with(&["apply", "-n", "n", "-f", "-"], &widget("b", "{size: 1}"));
    c.kubectl(&["delete", "namespace", "n", "--timeout=20s"]);
    c.apply(&widget("c", "{size: 1}"));
    c.kubectl(&["delete", "crd", "widgets.example.org", "--timeout=20s"]);
    assert!(c.refused(&["get", "--raw", "/apis/example.org/v1/widgets"], "").contains("could not find"));
    eventually("its registration is gone", || registered(&c).is_empty());
    // The same name again finds nothing of the past.
    c.apply(DEFINITION);
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.org", "--timeout=10s"]);
    assert_eq!(c.kubectl(&["get", "wi", "-A", "-o", "name"]), "");
}

#[test]
fn a_definition_that_is_wrong_or_in_the_way_says_so() {
    let c = Cluster::start();
    let said = c.refused(&["apply", "-f", "-"], &DEFINITION.replace("group: example.org", "group: example.com"));
    assert!(said.contains("must be spec.names.plural+\".\"+spec.group"), "{said}");
    let said = c
        .refused(&["apply", "-f", "-"], &DEFINITION.replace("size: {type: integer, minimum: 1}", "size: {minimum: 1}"));
    assert!(
        said.contains("properties[size].type: Required value: must not be empty for specified object fields"),
        "{said}"
    );
    c.apply(DEFINITION);
    let other = DEFINITION.replace("widgets", "gadgets").replace("shortNames: [wi]", "shortNames: [ga]");
    c.apply(&other);
    let accepted = |field: &str| {
        c.field(&["crd", "gadgets.example.org"], &format!(".status.conditions[?(@.type==\"NamesAccepted\")].{field}"))
    };
    eventually("the second kind of that name waits", || {
        accepted("reason") == "ListKindConflict" || accepted("reason") == "KindConflict"
    });
    c.kubectl(&["delete", "crd", "widgets.example.org", "--timeout=20s"]);
    eventually("its name is free", || accepted("status") == "True");
}

/// What was charged for may be gone before the controller has seen it.
#[test]
fn a_charge_for_nothing_is_given_back() {
    let c = Cluster::start();
    c.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {configmaps: 5}}\n");
    let used = || c.field(&["quota", "q"], ".status.used.configmaps");
    eventually("the quota is counted", || !used().is_empty());
    let counted = used();
    c.kubectl(&["patch", "quota", "q", "--subresource=status", "-p", r#"{"status":{"used":{"configmaps":"4"}}}"#]);
    assert_eq!(used(), "4");
    eventually("what is there is counted", || used() == counted);
}

#[test]
fn a_quota_counts_custom_resources() {
    let c = Cluster::start();
    // The quota is there before what it counts.
    c.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {count/widgets.example.org: 2}}\n");
    c.apply(DEFINITION);
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.org", "--timeout=10s"]);
    let used = || c.field(&["quota", "q"], r".status.used.count/widgets\.example\.org");
    eventually("the quota is counted", || used() == "0");
    let create = |name: &str| c.kubectl_with(&["create", "-f", "-"], &widget(name, "{size: 1}"));
    let results: Vec<_> = std::thread::scope(|s| {
        let tries: Vec<_> = ["a", "b", "c", "d"]
            .map(|n| {
                s.spawn({
                    let create = &create;
                    move || create(n)
                })
            })
            .into_iter()
            .collect();
        tries.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let refused: Vec<_> = results.iter().filter(|r| !r.status.success()).collect();
    assert_eq!(refused.len(), 2, "two fit, however many come at once");
    let told = String::from_utf8_lossy(&refused[0].stderr).into_owned();
    assert!(told.contains("exceeded quota: q, requested: count/widgets.example.org=1"), "{told}");
    c.kubectl(&["delete", "widgets", "--all"]);
    eventually("they are given back", || used() == "0");
    c.apply(&widget("e", "{size: 1}"));
    c.kubectl(&["delete", "crd", "widgets.example.org", "--timeout=20s"]);
    eventually("nothing is left to count", || used() == "0");
    c.apply(DEFINITION);
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.org", "--timeout=10s"]);
    c.apply(&widget("f", "{size: 1}"));
    c.kubectl(&["delete", "widgets", "f"]);
    eventually("it is counted again", || used() == "0");
}
