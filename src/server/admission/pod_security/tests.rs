//! Pods and namespaces against the plugin, through the pipeline.

use client::api::{PatchKind, Verb};
use serde_json::json;

use crate::registry::WriteContext;
use crate::testing::{Testing, admin, core};

#[tokio::test]
async fn a_namespace_says_what_its_pods_may() {
    let t = Testing::start().await;
    let label = |mode: &str, level: &str| json!({format!("pod-security.kubernetes.io/{mode}"): level});
    let namespace = json!({"metadata": {"name": "n", "labels": label("enforce", "baseline")}});
    t.create(&core("namespaces"), "-", &namespace).await;
    t.create(&core("serviceaccounts"), "n", &json!({"metadata": {"name": "default"}})).await;
    let pod = |extra: serde_json::Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "p"}, "spec": spec})
    };
    let refused = t.call(&admin(), Verb::Create, &core("pods"), "n", &pod(json!({"hostPID": true}))).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (403, "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)")
    );
    t.create(&core("pods"), "n", &pod(json!({}))).await;

    // A stricter level tells of the pods that are there already.
    let namespaces = t.server.resource("", "v1", "namespaces").unwrap();
    let ctx = WriteContext::new(admin());
    let change = |current: &serde_json::Value| {
        let mut new = current.clone();
        new["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted".into();
        Ok(api::codec::Decoded { value: new, unknown: Vec::new(), duplicate: Vec::new() })
    };
    t.server.registry().update(&ctx, &namespaces, "", "n", "", false, &change).await.unwrap();
    assert_eq!(
        ctx.warnings.all(),
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"restricted:latest\"",
            "p: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
        ]
    );
    let bad = json!({"metadata": {"labels": label("warn", "none")}});
    let e = t.call(&admin(), Verb::Patch(PatchKind::Merge), &core("namespaces"), "-/n", &bad).await.unwrap_err();
    assert_eq!(
        e.message,
        "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"none\": must be one of privileged, baseline, restricted"
    );
}
