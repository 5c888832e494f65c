//! Policies at work in a whole server.

use ::client::api::{Gvr, Verb};
use serde_json::json;

use super::*;
use crate::testing::{Testing, admin, core};

fn gvr(plural: &str) -> Gvr {
    Gvr::dynamic("admissionregistration.k8s.io", "v1", plural)
}

/// A policy, about new configmaps unless it says what it is about.
async fn policy(t: &Testing, name: &str, mut spec: Value) {
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = json!({"resourceRules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    }
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec});
    t.create(&gvr("validatingadmissionpolicies"), "-", &body).await;
}

async fn bind(t: &Testing, name: &str, policy: &str, mut spec: Value) {
    spec["policyName"] = policy.into();
    if spec["validationActions"].is_null() {
        spec["validationActions"] = json!(["Deny"]);
    }
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": spec});
    t.create(&gvr("validatingadmissionpolicybindings"), "-", &body).await;
}

async fn config_map(t: &Testing, namespace: &str, name: &str, data: Value) -> Result<(), Status> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    t.call(&admin(), Verb::Create, &core("configmaps"), namespace, &body).await?;
    t.server.registry().caches().fresh().await.map(drop)
}

#[tokio::test]
async fn a_policy_is_in_force_where_it_is_bound() {
    let t = Testing::start().await;
    let validations = json!([
        {"expression": "variables.size <= 2 || request.userInfo.username != 'admin'"},
        {"expression": "!('bad' in object.data)", "reason": "Forbidden", "message": "not used",
            "messageExpression": "'bad is ' + object.data.bad + ' in ' + namespaceObject.metadata.name"},
    ]);
    let spec = json!({"validations": validations, "variables": [{"name": "size", "expression": "object.data.size()"}]});
    policy(&t, "p", spec).await;
    let three = json!({"a": "1", "b": "2", "c": "3"});
    config_map(&t, "default", "unbound", three.clone()).await.unwrap();
    let only = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}});
    bind(&t, "b", "p", json!({"matchResources": only})).await;
    config_map(&t, "kube-system", "elsewhere", three.clone()).await.unwrap();
    config_map(&t, "default", "good", json!({"a": "1"})).await.unwrap();
    let s = config_map(&t, "default", "big", three).await.unwrap_err();
    assert_eq!((s.code, s.reason.as_str()), (422, "Invalid"));
    assert_eq!(
        s.message,
        "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: \
         failed expression: variables.size <= 2 || request.userInfo.username != 'admin'"
    );
    let s = config_map(&t, "default", "bad", json!({"bad": "x"})).await.unwrap_err();
    assert_eq!((s.code, s.reason.as_str()), (403, "Forbidden"));
    assert!(s.message.ends_with("denied request: bad is x in default"), "{s}");
}

#[tokio::test]
async fn parameters_are_found_by_name_or_by_selector() {
    let t = Testing::start().await;
    let rule = json!([{"expression": "object.data.size() <= int(params.data.max)",
        "messageExpression": "'at most ' + params.data.max"}]);
    let kind = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let conditions = json!([{"name": "not-params", "expression": "!object.metadata.name.startsWith('max')"}]);
    policy(&t, "p", json!({"validations": rule, "paramKind": kind, "matchConditions": conditions})).await;
    let named = |action: &str| json!({"paramRef": {"name": "max", "parameterNotFoundAction": action}});
    bind(&t, "b", "p", named("Allow")).await;
    config_map(&t, "default", "before", json!({"a": "1", "b": "2"})).await.unwrap();
    config_map(&t, "default", "max", json!({"max": "1"})).await.unwrap();
    let s = config_map(&t, "default", "after", json!({"a": "1", "b": "2"})).await.unwrap_err();
    assert!(s.message.ends_with("denied request: at most 1"), "{s}");
    bind(
        &t,
        "c",
        "p",
        json!({"paramRef": {"selector": {"matchLabels": {"a": "b"}}, "namespace": "kube-system",
        "parameterNotFoundAction": "Deny"}}),
    )
    .await;
    let s = config_map(&t, "default", "none", json!({"a": "1"})).await.unwrap_err();
    assert!(
        s.message.ends_with(
            "with binding 'c' denied request: failed to configure binding: \
             no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{s}"
    );
}

#[tokio::test]
async fn what_cannot_be_evaluated_denies_unless_failures_are_ignored() {
    let t = Testing::start().await;
    let rule = json!([{"expression": "object.spec.absent == 1"}]);
    policy(&t, "lax", json!({"validations": rule, "failurePolicy": "Ignore"})).await;
    bind(&t, "lax", "lax", json!({})).await;
    config_map(&t, "default", "a", json!({})).await.unwrap();
    policy(&t, "strict", json!({"validations": rule})).await;
    bind(&t, "strict", "strict", json!({"validationActions": ["Warn", "Audit"]})).await;
    config_map(&t, "default", "b", json!({})).await.unwrap();
    bind(&t, "denied", "strict", json!({})).await;
    let s = config_map(&t, "default", "c", json!({})).await.unwrap_err();
    assert!(
        s.message
            .ends_with("denied request: expression 'object.spec.absent == 1' resulted in error: no such key: spec"),
        "{s}"
    );
    // Policies themselves are never subject to policies.
    t.call(&admin(), Verb::Delete, &gvr("validatingadmissionpolicies"), "-/strict", &Value::Null).await.unwrap();
}

#[tokio::test]
async fn a_scale_is_admitted_as_one() {
    let t = Testing::start().await;
    let rule = |resource: &str, expression: &str| {
        json!({"validations": [{"expression": expression}], "matchConstraints": {"resourceRules": [
            {"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": [resource]}]}})
    };
    policy(&t, "scale", rule("deployments/scale", "object.kind == 'Scale' && object.spec.replicas <= 3")).await;
    policy(&t, "whole", rule("deployments", "false")).await;
    bind(&t, "scale", "scale", json!({})).await;
    bind(&t, "whole", "whole", json!({})).await;
    let deployments = Gvr::dynamic("apps", "v1", "deployments");
    let labels = json!({"a": "b"});
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    t.create(&deployments, "default", &body).await;
    let scale = async |n: i64| {
        let body = json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": n}});
        t.call(&admin(), Verb::Update, &deployments, "default/d/scale", &body).await
    };
    assert_eq!(scale(3).await.unwrap().to_value()["spec"]["replicas"], 3);
    let s = scale(4).await.unwrap_err();
    assert!(s.message.contains("'scale' with binding 'scale' denied request"), "{s}");
}

#[tokio::test]
async fn rules_may_ask_what_somebody_may_do() {
    let t = Testing::start().await;
    let rule = json!([
        {"expression": "authorizer.requestResource.check('custom').allowed()", "message": "not by you"},
        {"expression": "!authorizer.serviceAccount('default', 'default').group('').resource('secrets').namespace('default')\
            .check('get').allowed()", "message": "secrets are open"},
    ]);
    let conditions = json!([{"name": "cluster-admins",
        "expression": "object.metadata.name != 'other' || authorizer.path('/metrics').check('get').allowed()"}]);
    policy(&t, "p", json!({"validations": rule, "matchConditions": conditions})).await;
    bind(&t, "b", "p", json!({})).await;
    config_map(&t, "default", "a", json!({})).await.unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "open", "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    t.create(&Gvr::dynamic("rbac.authorization.k8s.io", "v1", "rolebindings"), "default", &role).await;
    t.server.registry().caches().fresh().await.unwrap();
    let s = config_map(&t, "default", "b", json!({})).await.unwrap_err();
    assert!(s.message.ends_with("denied request: secrets are open"), "{s}");
}
