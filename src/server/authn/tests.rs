//! Whom requests are by, through the whole server.

use std::sync::Arc;

use client::tls;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::Peer;
use super::x509::Shown;
use crate::pki::{Authority, FRONT_PROXY, Usage};
use crate::testing::Testing;

/// What a certificate of an authority proves on a connection.
fn peer(t: &Testing, authority: &Authority, name: &str, group: Option<&str>) -> Peer {
    let leaf = authority.issue(name, group, Usage::Client, &[]).unwrap();
    let shown = Shown::read(t.server.pki(), &tls::certificates(&leaf.certificate_pem).unwrap()).unwrap();
    Peer { certificate: Some(Arc::new(shown)), address: None }
}

/// Asks who it is, as curl would.
async fn ask(t: &Testing, peer: Option<Peer>, headers: &[(&str, &str)]) -> (u16, Value) {
    post(t, peer, headers, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await
}

async fn post(t: &Testing, peer: Option<Peer>, headers: &[(&str, &str)], path: &str, body: &Value) -> (u16, Value) {
    let mut request = Request::post(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(axum::body::Body::from(body.to_string())).unwrap();
    request.extensions_mut().extend(
        peer.map(|p| {
            let mut extensions = http::Extensions::new();
            extensions.insert(p);
            extensions
        })
        .unwrap_or_default(),
    );
    let reply = t.server.serve(request).await;
    let code = reply.status().as_u16();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

fn user(answer: &Value) -> &Value {
    &answer["status"]["userInfo"]
}

#[tokio::test]
async fn a_certificate_a_token_and_the_front_proxy_prove_users() {
    let t = Testing::start().await;
    let pki = t.server.pki().clone();
    let ann = || peer(&t, &pki.client_ca, "ann", Some("team"));
    let (code, answer) = ask(&t, Some(ann()), &[]).await;
    assert_eq!((code, &user(&answer)["username"]), (201, &json!("ann")));
    assert_eq!(user(&answer)["groups"], json!(["team", "system:authenticated"]));
    // The certificate is enough, whatever the token is.
    assert_eq!(ask(&t, Some(ann()), &[("authorization", "Bearer wrong")]).await.0, 201);
    let (code, answer) = ask(&t, None, &[("authorization", "Bearer wrong")]).await;
    assert_eq!((code, answer["message"].as_str()), (401, Some("Unauthorized")));

    let proxy = || peer(&t, &pki.request_header_ca, FRONT_PROXY, None);
    let named = [("x-remote-user", "bob"), ("x-remote-group", "g"), ("x-remote-extra-scope", "s")];
    let (_, answer) = ask(&t, Some(proxy()), &named).await;
    let expected = json!({"username": "bob", "groups": ["g", "system:authenticated"], "extra": {"scope": ["s"]}});
    assert_eq!(user(&answer), &expected);
    assert_eq!(ask(&t, Some(proxy()), &[]).await.0, 401, "the proxy itself is no user");
    let other = peer(&t, &pki.request_header_ca, "other", None);
    assert_eq!(ask(&t, Some(other), &named).await.0, 401);
    let (code, answer) = ask(&t, None, &named).await;
    assert_eq!(code, 403, "headers alone say nothing");
    let said = answer["message"].as_str().unwrap();
    assert!(said.contains(r#"User "system:anonymous" cannot create resource "selfsubjectreviews""#), "{said}");
}

#[tokio::test]
async fn who_may_impersonate_may_be_every_part_of_somebody() {
    let t = Testing::start().await;
    let pki = t.server.pki().clone();
    let admin = || Some(peer(&t, &pki.client_ca, "admin", Some("system:masters")));
    let headers = [
        ("impersonate-user", "system:serviceaccount:a:b"),
        ("impersonate-uid", "u"),
        ("impersonate-extra-acme.com%2Fproject", "p"),
    ];
    let (_, answer) = ask(&t, admin(), &headers).await;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"];
    let expected = json!({"username": "system:serviceaccount:a:b", "uid": "u", "groups": groups,
        "extra": {"acme.com/project": ["p"]}});
    assert_eq!(user(&answer), &expected);
    let (code, answer) = ask(&t, admin(), &[("impersonate-group", "g")]).await;
    let said = answer["message"].as_str().unwrap();
    assert!(code == 500 && said.contains("requested [{Group  g    }] without impersonating a user"), "{said}");
    let ann = || Some(peer(&t, &pki.client_ca, "ann", None));
    let (code, answer) = ask(&t, ann(), &[("impersonate-user", "bob")]).await;
    let expected = "users \"bob\" is forbidden: User \"ann\" cannot impersonate resource \"users\" in API group \"\" \
                    at the cluster scope";
    assert_eq!((code, answer["message"].as_str()), (403, Some(expected)));
}

#[tokio::test]
async fn reviews_say_why() {
    let t = Testing::start().await;
    let admin = || Some(peer(&t, &t.server.pki().client_ca, "admin", Some("system:masters")));
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let discovery = json!({"spec": {"user": "ann", "groups": ["system:authenticated"],
        "nonResourceAttributes": {"verb": "get", "path": "/apis"}}});
    let (_, answer) = post(&t, admin(), &[], path, &discovery).await;
    let expected = r#"RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated""#;
    assert_eq!(answer["status"], json!({"allowed": true, "reason": expected}));
    let pods = json!({"spec": {"user": "ann", "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let (_, answer) = post(&t, admin(), &[], path, &pods).await;
    assert_eq!(answer["status"], json!({"allowed": false}));
    let nobody = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let (code, answer) = post(&t, admin(), &[], path, &nobody).await;
    assert_eq!((code, answer["reason"].as_str()), (422, Some("Invalid")));

    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (code, answer) = post(&t, admin(), &[], path, &json!({"spec": {}})).await;
    assert_eq!((code, answer["message"].as_str()), (400, Some("no namespace on request")));
    let node = Some(peer(&t, &t.server.pki().client_ca, "system:node:a", Some("system:nodes")));
    let (_, answer) = post(&t, node, &[], path, &json!({"spec": {"namespace": "default"}})).await;
    let status = &answer["status"];
    assert_eq!(status["incomplete"], true);
    assert_eq!(status["evaluationError"], "node authorizer does not support user rule resolution");

    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, answer) = post(&t, admin(), &[], path, &json!({"spec": {"token": "x"}})).await;
    assert_eq!(answer["status"], json!({"user": {}, "error": "invalid bearer token"}));
}
