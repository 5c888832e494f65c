//! The API as kubectl sees it: discovery, reading, writing, refusing.

use crate::lab::{Cluster, eventually};

#[test]
fn kubectl_reads_discovery_explains_and_tables() {
    let c = Cluster::start();
    let resources = c.kubectl(&["api-resources"]);
    for kind in ["Pod", "Deployment", "Lease", "EndpointSlice", "StorageClass", "PriorityClass", "CronJob"] {
        assert!(resources.lines().any(|l| l.ends_with(kind)), "{kind} is missing in:\n{resources}");
    }
    assert!(c.kubectl(&["explain", "deployment.spec.strategy"]).contains("RollingUpdateDeployment"));
    assert!(c.kubectl(&["get", "namespaces"]).starts_with("NAME"));
    assert_eq!(c.kubectl(&["get", "--raw", "/readyz"]), "ok");
    assert!(c.kubectl(&["version", "-o", "json"]).contains("v1.35."));
    assert_eq!(c.kubectl(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    let anonymous = c.refused(&["get", "pods", "--as", "nobody"], "");
    assert!(
        anonymous.contains(r#"User "nobody" cannot list resource "pods" in API group "" in the namespace "default""#),
        "{anonymous}"
    );
}

#[test]
fn objects_are_created_changed_selected_and_deleted() {
    let c = Cluster::start();
    let map = |name: &str, app: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\ndata: {{k: v}}\n")
    };
    for (name, app) in [("a", "one"), ("b", "one"), ("c", "two")] {
        c.apply(&map(name, app));
    }
    let names = |args: &[&str]| {
        let mut all = vec!["get", "cm", "-o", "name"];
        all.extend(args);
        c.kubectl(&all).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&["-l", "app=one"]), ["configmap/a", "configmap/b"]);
    assert_eq!(names(&["-l", "app notin (one)"]).len(), 2, "the root CA has no label app");
    assert_eq!(names(&["--field-selector", "metadata.name=c"]), ["configmap/c"]);
    assert_eq!(names(&["--chunk-size=1"]).len(), 4, "pages join to the whole list");
    c.kubectl(&["label", "cm", "a", "tier=db"]);
    c.kubectl(&["annotate", "cm", "a", "note=n"]);
    c.kubectl(&["patch", "cm", "a", "--type=json", "-p", r#"[{"op":"replace","path":"/data/k","value":"w"}]"#]);
    assert_eq!(c.field(&["cm", "a"], ".data.k"), "w");
    c.kubectl(&["delete", "cm", "-l", "app=one"]);
    assert_eq!(names(&["-l", "app=one"]).len(), 0);
    let before = c.field(&["cm", "c"], ".metadata.resourceVersion");
    c.apply(&map("c", "two"));
    assert_eq!(
        c.field(&["cm", "c"], ".metadata.resourceVersion"),
        before,
        "an apply that changes nothing writes nothing"
    );
}

#[test]
fn bad_input_gets_a_clear_error_and_loses_nothing() {
    let c = Cluster::start();
    let refused = |manifest: &str| c.refused(&["apply", "-f", "-"], manifest);
    let unknown = refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndtaa: {k: v}\n");
    assert!(unknown.contains(r#"unknown field "dtaa""#), "{unknown}");
    let kind =
        c.refused(&["apply", "--validate=false", "-f", "-"], "apiVersion: v1\nkind: Nothing\nmetadata: {name: a}\n");
    assert!(kind.contains("no matches for kind"), "{kind}");
    let name = refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}\n");
    assert!(name.contains("a lowercase RFC 1123 subdomain must consist of"), "{name}");
    let types = c.refused(
        &["create", "--validate=false", "-f", "-"],
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: x}\n",
    );
    assert!(types.contains("cannot unmarshal string"), "{types}");
    let pod = refused("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n");
    assert!(pod.contains("spec.containers[0].image: Required value"), "{pod}");
    let selector = c.refused(&["get", "pods", "-l", "a in b"], "");
    assert!(selector.contains("unable to parse requirement"), "{selector}");
    let field = c.refused(&["get", "pods", "--field-selector", "spec.nothing=1"], "");
    assert!(field.contains("field label not supported: spec.nothing"), "{field}");
    let namespace = c.refused(&["delete", "ns", "kube-system"], "");
    assert!(namespace.contains("this namespace may not be deleted"), "{namespace}");
    let large =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{k: {}}}\n", "x".repeat(1_100_000));
    let large = c.refused(&["create", "-f", "-"], &large);
    assert!(large.contains("Too long"), "{large}");
    assert_eq!(
        c.kubectl(&["get", "cm,pods,svc", "-o", "name"]).split_whitespace().collect::<Vec<_>>(),
        ["configmap/kube-root-ca.crt", "service/kubernetes"]
    );
}

#[test]
fn tokens_are_issued_for_accounts_and_forged_ones_are_refused() {
    let c = Cluster::start();
    crate::lab::eventually("the default account", || c.field(&["sa", "default"], ".metadata.name") == "default");
    let request = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;
    let raw = c.apply_with(
        &["create", "--raw", "/api/v1/namespaces/default/serviceaccounts/default/token", "-f", "-"],
        request,
    );
    let token = raw.split(r#""token":""#).nth(1).and_then(|t| t.split('"').next()).unwrap().to_owned();
    let as_token = |token: &str| {
        let kubeconfig = std::fs::read_to_string(c.kubeconfig()).unwrap();
        let without: String = kubeconfig.lines().filter(|l| !l.contains("client-")).map(|l| format!("{l}\n")).collect();
        let path = c.directory().join("token.yaml");
        std::fs::write(
            &path,
            without.replace("user: {}", "").replace("    user:\n", &format!("    user:\n      token: {token}\n")),
        )
        .unwrap();
        let out = std::process::Command::new("kubectl")
            .args(["--kubeconfig", &path.display().to_string(), "get", "pods", "--token", token])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let allowed_nothing = as_token(&token);
    assert!(allowed_nothing.contains("system:serviceaccount:default:default"), "{allowed_nothing}");
    let mut forged = token.clone();
    forged.replace_range(token.len() - 6..token.len() - 2, "AAAA");
    let refused = as_token(&forged);
    assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
}

#[test]
fn a_second_server_on_the_same_directory_or_port_is_told_so() {
    let c = Cluster::start();
    let server = |extra: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["server", "--disable-agent", "--bind-address=127.0.0.1", "--write-kubeconfig"])
            .arg(c.directory().join("other.yaml"))
            .args(extra)
            .output()
            .unwrap();
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let data = c.directory().join("data").display().to_string();
    let directory = server(&["--data-dir", &data, "--https-listen-port=0"]);
    assert!(directory.contains("in use by another process"), "{directory}");
    let text = std::fs::read_to_string(c.kubeconfig()).unwrap();
    let port = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("server: "))
        .and_then(|u| u.rsplit(':').next())
        .unwrap()
        .to_owned();
    let elsewhere = c.directory().join("elsewhere").display().to_string();
    let port = server(&["--data-dir", &elsewhere, &format!("--https-listen-port={port}")]);
    assert!(port.contains("is another server running? Choose another port with --https-listen-port"), "{port}");
    let overlap = server(&["--data-dir", &elsewhere, "--cluster-cidr=10.43.0.0/16"]);
    assert!(overlap.contains("overlap"), "{overlap}");
}

#[test]
fn an_update_names_its_resource_version_only_where_upstream_asks() {
    let c = Cluster::start();
    let put = |path: &str, body: &str| c.kubectl_with(&["replace", "--raw", path, "-f", "-"], body);
    c.kubectl(&["create", "cm", "a"]);
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#;
    assert!(put("/api/v1/namespaces/default/configmaps/a", map).status.success());
    let lease = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l"},"spec":{}}"#;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    assert!(put(path, lease).status.success(), "an update creates an absent lease");
    let again = put(path, lease);
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains("metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"), "{told}");
}

#[test]
fn field_selectors_know_what_an_absent_field_means() {
    let c = Cluster::start();
    c.add_fake_node("n1");
    let found = |args: &[&str]| c.kubectl(&[&["get", "-o", "name", "--field-selector"], args].concat()).lines().count();
    assert_eq!(found(&["spec.unschedulable=false", "nodes"]), 1);
    assert_eq!(found(&["spec.unschedulable=true", "nodes"]), 0);
    c.apply(
        "apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: e}\neventTime: 2026-01-01T00:00:00.000000Z\n\
         reason: R\naction: A\ntype: Normal\nreportingController: c.example.com\nreportingInstance: i\n\
         regarding: {namespace: default, kind: Pod, name: p}\n",
    );
    // The same object through both of its groups, whose fields differ.
    assert_eq!(found(&["reportingController=c.example.com", "events.v1.events.k8s.io"]), 1);
    assert_eq!(found(&["source=c.example.com,type=Normal", "events.v1."]), 1);
}

/// A PKCS#10 request for CN=jane, O=dev, in PEM and base64.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIWU1IOENBUUF3SFRFTk1Bc0dBMVVFQXd3RWFtRnVaVEVNTUFvR0ExVUVDZ3dEWkdWMk1Ga3dFd1lIS29aSQp6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUV5WEpkUFpaV2p1UG1RbE5iYnNoYjFQVGlnY05vVFJHUjhsc215dlFvClVkdFFHajJENVJkeWRKZlFzNUtEZlI1eHBKeGw2ZFRsd0lHK29BZWZzMmFzTjZBQU1Bb0dDQ3FHU000OUJBTUMKQTBrQU1FWUNJUUNDTFFwMUpKWUxMYVdkL2FFVmpHWXE3NnlTU25tU0hMUk1MclZkNWIxczhnSWhBTGxkaVpiQgoveTdENHhLbEs2d09kdURkTlpoQTk3YmVaUWpmU0p5dEtibUkKLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

#[test]
fn certificate_requests_are_decided_and_signed_by_those_who_may() {
    let c = Cluster::start();
    let request = |name: &str, request: &str, signer: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
             spec: {{request: {request}, signerName: {signer}, usages: [client auth], username: mallory}}\n"
        )
    };
    c.apply(&request("a", REQUEST, "example.com/x"));
    assert_eq!(c.field(&["csr", "a"], ".spec.username"), "system:admin", "who asked is who the server knows");
    assert!(c.kubectl(&["get", "csr"]).contains("Pending"));
    c.kubectl(&["certificate", "approve", "a"]);
    assert!(c.kubectl(&["get", "csr"]).contains("Approved"));
    assert_eq!(c.field(&["csr", "a"], ".status.conditions[0].type"), "Approved");
    let denied = r#"{"status":{"conditions":[{"type":"Denied","status":"True"}]}}"#;
    let taken_back = c.refused(&["patch", "csr", "a", "--subresource=approval", "--type=merge", "-p", denied], "");
    assert!(taken_back.contains("updates may not remove a condition of type \"Approved\""), "{taken_back}");
    let garbage = c.refused(&["create", "-f", "-"], &request("b", "Z2FyYmFnZQ==", "example.com/x"));
    assert!(garbage.contains("PEM block type must be CERTIFICATE REQUEST"), "{garbage}");
    let signer = c.refused(&["create", "-f", "-"], &request("b", REQUEST, "x"));
    assert!(signer.contains("must be a fully qualified domain and path"), "{signer}");
}

#[test]
fn a_pod_takes_over_what_its_runtime_class_says() {
    let c = Cluster::start();
    c.apply(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: small}\nhandler: h\n\
         overhead: {podFixed: {cpu: 10m}}\nscheduling: {nodeSelector: {kind: small}}\n",
    );
    let pod = |name: &str, class: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec: {{runtimeClassName: {class}, containers: [{{name: c, image: i}}]}}\n"
        )
    };
    c.apply(&pod("a", "small"));
    assert_eq!(c.field(&["pod", "a"], ".spec.overhead.cpu"), "10m");
    assert_eq!(c.field(&["pod", "a"], ".spec.nodeSelector.kind"), "small");
    let told = c.refused(&["create", "-f", "-"], &pod("b", "none"));
    assert!(told.contains(r#"pod rejected: RuntimeClass "none" not found"#), "{told}");
}

const LIMITED_POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {generateName: p-}\nspec: {containers: [{name: c, image: i}]}\n";

#[test]
fn a_quota_is_charged_kept_and_given_back() {
    let c = Cluster::start();
    c.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {pods: 2, secrets: 5}}\n");
    let used = |name: &str| c.field(&["quota", "q"], &format!(".status.used.{name}"));
    eventually("the quota is counted", || used("pods") == "0");
    let create = |manifest: &str| c.kubectl_with(&["create", "-f", "-"], manifest);
    let results: Vec<_> = std::thread::scope(|s| {
        let tries: Vec<_> = (0..4).map(|_| s.spawn(|| create(LIMITED_POD))).collect();
        tries.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let refused: Vec<_> = results.iter().filter(|r| !r.status.success()).collect();
    assert_eq!(refused.len(), 2, "two fit, however many come at once");
    let told = String::from_utf8_lossy(&refused[0].stderr).into_owned();
    assert!(told.contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"), "{told}");
    c.kubectl(&["delete", "pods", "--all", "--wait=false", "--grace-period=0", "--force"]);
    eventually("the pods are given back", || used("pods") == "0");
    assert!(create(LIMITED_POD).status.success());
}

#[test]
fn a_limit_range_fills_in_and_refuses() {
    let c = Cluster::start();
    c.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: l}\n\
         spec: {limits: [{type: Container, max: {cpu: 1}, defaultRequest: {cpu: 100m}}]}\n",
    );
    assert_eq!(c.field(&["limits", "l"], ".spec.limits[0].default.cpu"), "1");
    let made = c.kubectl_with(&["create", "-f", "-", "-o", "jsonpath={.spec.containers[0].resources}"], LIMITED_POD);
    let made = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.contains(r#""limits":{"cpu":"1"}"#) && made.contains(r#""requests":{"cpu":"100m"}"#), "{made}");
    let large = LIMITED_POD.replace("image: i", "image: i, resources: {limits: {cpu: 2}}");
    let told = c.refused(&["create", "-f", "-"], &large);
    assert!(told.contains("maximum cpu usage per Container is 1, but limit is 2"), "{told}");
}

#[test]
fn old_forms_and_timeouts_are_read_as_upstream_reads_them() {
    let c = Cluster::start();
    for path in ["/api/v1/namespaces?timeout=invalid", "/version?timeout=invalid"] {
        let told = c.refused(&["get", "--raw", path], "");
        assert!(told.contains("invalid timeout specified in the request URL"), "{told}");
    }
    assert!(c.kubectl(&["get", "--raw", "/api/v1/namespaces?timeout=5s"]).contains("NamespaceList"));
}

#[test]
fn two_old_kinds_leave_their_dependents_alone_unless_told() {
    let c = Cluster::start();
    c.apply(
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: rc}\nspec:\n  replicas: 1\n  \
         template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}\n",
    );
    let owners =
        || c.kubectl(&["get", "pods", "-l", "a=b", "-o", "jsonpath={.items[*].metadata.ownerReferences[*].name}"]);
    eventually("the controller has its pod", || owners() == "rc");
    c.kubectl(&["delete", "--raw", "/api/v1/namespaces/default/replicationcontrollers/rc"]);
    eventually("the pod is nobody's", || owners().is_empty());
    assert_eq!(c.kubectl(&["get", "pods", "-l", "a=b", "-o", "name"]).lines().count(), 1);
}
