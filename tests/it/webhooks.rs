//! Dynamic admission as its users meet it: kubectl against webhooks and policies.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::lab::{Cluster, eventually};
use crate::webhook::{Webhook, patch, webhook};

/// A configuration with one webhook about configmaps.
fn configuration(kind: &str, name: &str, hook: &Webhook, more: Value) -> String {
    let webhooks = json!([hook.entry(&format!("{name}.example.org"), more)]);
    let metadata = json!({"name": name});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "webhooks": webhooks})
        .to_string()
}

fn config_map(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": value}}).to_string()
}

#[test]
fn webhooks_change_and_refuse_what_kubectl_writes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut c = Cluster::start();
    let mutating = runtime.block_on(webhook(&["127.0.0.1"], |_| {
        patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {"mutated": "yes"}}]))
    }));
    let validating = runtime.block_on(webhook(&["127.0.0.1"], |r| {
        // What mutating webhooks made of it is what validating ones see.
        let labelled = r["object"].is_null() || r["object"]["metadata"]["labels"]["mutated"] == "yes";
        let bad = r["object"]["data"]["a"] == "bad" || !labelled;
        json!({"allowed": !bad, "status": {"message": "it is bad", "code": 403}, "warnings": ["it was looked at"]})
    }));
    c.apply(&configuration("MutatingWebhookConfiguration", "m", &mutating, json!({})));
    c.apply(&configuration("ValidatingWebhookConfiguration", "v", &validating, json!({})));
    eventually("the webhooks are called", || {
        c.kubectl_with(&["apply", "-f", "-", "--dry-run=server"], &config_map("probe", "good"));
        mutating.calls.load(Ordering::Relaxed) > 0 && validating.calls.load(Ordering::Relaxed) > 0
    });
    let out = c.kubectl_with(&["apply", "-f", "-"], &config_map("good", "good"));
    assert!(String::from_utf8_lossy(&out.stderr).contains("Warning: it was looked at"), "{out:?}");
    assert_eq!(c.field(&["cm", "good"], ".metadata.labels"), r#"{"mutated":"yes"}"#);
    let out = c.kubectl_with(&["apply", "-f", "-"], &config_map("bad", "bad"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("admission webhook \"v.example.org\" denied the request: it is bad"), "{said}");
    assert!(said.contains("Warning: it was looked at"), "a refusal carries warnings, too: {said}");
    c.kubectl(&["patch", "cm", "good", "--type=merge", "-p", r#"{"data":{"a":"better"}}"#]);
    let said = c.refused(&["patch", "cm", "good", "--type=merge", "-p", r#"{"data":{"a":"bad"}}"#], "");
    assert!(said.contains("it is bad"), "{said}");
    let table = c.kubectl(&["get", "validatingwebhookconfigurations"]);
    assert!(table.starts_with("NAME   WEBHOOKS   AGE\nv      1 "), "{table}");

    let (connections, calls) = (&validating.connections, &validating.calls);
    assert!(connections.load(Ordering::Relaxed) < calls.load(Ordering::Relaxed), "connections are used again");

    // After a restart they are asked again; without the webhook's server writes fail.
    c.kill();
    c.run();
    assert!(c.refused(&["apply", "-f", "-"], &config_map("bad", "bad")).contains("it is bad"));
    drop(runtime);
    let said = c.refused(&["create", "-f", "-"], &config_map("late", "good"));
    let wanted = format!(
        "Internal error occurred: failed calling webhook \"m.example.org\": failed to call webhook: Post \
         \"https://127.0.0.1:{0}/x?timeout=10s\": dial tcp 127.0.0.1:{0}: connect: connection refused",
        mutating.port
    );
    assert!(said.contains(&wanted), "{said}");
    c.kubectl(&["delete", "mutatingwebhookconfiguration/m", "validatingwebhookconfiguration/v"]);
    eventually("writes pass without webhooks", || {
        c.kubectl_with(&["create", "-f", "-"], &config_map("late", "good")).status.success()
    });
}

const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few-replicas.example.org}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  variables:
  - {name: most, expression: int(params.data.most)}
  validations:
  - expression: object.spec.replicas <= variables.most
    messageExpression: "'at most ' + string(variables.most) + ' replicas'"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: here}
spec:
  policyName: few-replicas.example.org
  validationActions: [Deny]
  paramRef: {name: limits, parameterNotFoundAction: Allow}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: limits}
data: {most: "3"}
"#;

#[test]
fn a_policy_limits_what_kubectl_makes() {
    let c = Cluster::start();
    c.apply(POLICY);
    let create = |name: &str, replicas: &str| {
        c.kubectl_with(&["create", "deployment", name, "--image=i", &format!("--replicas={replicas}")], "")
    };
    let mut n = 0;
    eventually("the policy is in force", || {
        n += 1;
        !create(&format!("probe-{n}"), "4").status.success()
    });
    assert!(create("small", "3").status.success());
    let said = String::from_utf8_lossy(&create("big", "4").stderr).into_owned();
    let wanted = "ValidatingAdmissionPolicy 'few-replicas.example.org' with binding 'here' denied request: \
                  at most 3 replicas";
    assert!(said.contains(wanted), "{said}");
    let table = c.kubectl(&["get", "validatingadmissionpolicies"]);
    assert!(table.contains("few-replicas.example.org   1             v1/ConfigMap"), "{table}");
    eventually("the policy is observed", || {
        c.field(&["validatingadmissionpolicy", "few-replicas.example.org"], ".status.observedGeneration") == "1"
    });
    let said = c.refused(&["apply", "-f", "-"], &POLICY.replace("int(params.data.most)", "int("));
    assert!(said.contains("spec.variables[0].expression: Invalid value: \"int(\": compilation failed"), "{said}");
}
