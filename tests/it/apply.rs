//! Server-side apply with kubectl: managers, conflicts, moving over from client-side apply.

use crate::lab::Cluster;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]}
";

fn map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n")
}

#[test]
fn appliers_and_updaters_share_an_object() {
    let c = Cluster::start();
    let apply = |manifest: &str| c.apply_with(&["apply", "--server-side", "-f", "-"], manifest);
    let refused = |manifest: &str| c.refused(&["apply", "--server-side", "-f", "-"], manifest);
    apply(WEB);
    crate::lab::eventually("the controller has seen it", || {
        !c.field(&["deploy", "web"], ".status.replicas").is_empty()
    });
    let generation = c.field(&["deploy", "web"], ".metadata.generation");
    apply(WEB);
    assert_eq!(c.field(&["deploy", "web"], ".metadata.generation"), generation, "the same again is no change");
    c.kubectl(&["scale", "deploy/web", "--replicas=5"]);
    let more = WEB.replace("replicas: 2", "replicas: 3");
    let said = refused(&more);
    let scaled = r#"conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas"#;
    assert!(said.contains("Apply failed with 1 conflict") && said.contains(scaled), "{said}");
    c.apply_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &more);
    assert_eq!(c.field(&["deploy", "web"], ".spec.replicas"), "3");
    assert_eq!(
        c.field(&["deploy", "web"], ".spec.template.spec.containers[0].ports"),
        r#"[{"containerPort":80,"protocol":"TCP"}]"#
    );
    apply(&more.replace("{name: web, labels: {app: web}}", "{name: web}"));
    assert_eq!(c.field(&["deploy", "web"], ".metadata.labels"), "", "what is given up goes");

    let sidecar =
        |containers: &str| more.replace("[{name: c, image: nginx, ports: [{containerPort: 80}]}]", containers);
    apply(&sidecar("[{name: c, image: nginx}, {name: s, image: nginx}]"));
    apply(&sidecar("[{name: s, image: nginx}, {name: c, image: nginx}]"));
    let names = c.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].name}"]);
    assert_eq!(names, "s c", "the order is the configuration's");
    let said = refused(&sidecar("[{name: s, image: nginx}, {name: s, image: nginx}]"));
    assert!(said.contains(".spec.template.spec.containers: duplicate entries for key [name=\"s\"]"), "{said}");

    c.apply(&map("moved", "{x: a}"));
    apply(&map("moved", "{x: b}"));
    assert_eq!(c.field(&["cm", "moved"], ".data.x"), "b");
    c.kubectl(&["create", "cm", "made", "--from-literal=x=1"]);
    let said = refused(&map("made", "{x: two}"));
    assert!(said.contains("conflict with \"kubectl-create\" using v1: .data.x"), "{said}");
    c.apply_with(&["apply", "--server-side", "--field-manager=other", "-f", "-"], &map("made", "{z: one}"));
    assert_eq!(c.field(&["cm", "made"], ".data"), r#"{"x":"1","z":"one"}"#);
    let said = c.refused(
        &["apply", "--server-side", "-f", "-"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndaata: {}\n",
    );
    assert!(said.contains(".daata: field not declared in schema"), "{said}");
}
