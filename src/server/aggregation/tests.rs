//! The whole way: an API server of the test behind a service of the cluster.

use std::sync::Mutex;

use bytes::Bytes;
use client::api::{Gvr, ListParams, Verb};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::request::User;
use crate::testing::webhook::acceptor;
use crate::testing::{Testing, admin, core};

const GROUP: &str = "flowers.example.org";
const ROOT: &str = "/apis/flowers.example.org/v1";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.flowers.example.org";

/// What the other server was asked.
type Seen = Arc<Mutex<Vec<(String, http::HeaderMap)>>>;

fn json_reply(value: &Value) -> Response<Full<Bytes>> {
    Response::builder().header("content-type", "application/json").body(Full::from(value.to_string())).unwrap()
}

fn answer(path: &str) -> Response<Full<Bytes>> {
    let flower = json!({"apiVersion": "flowers.example.org/v1", "kind": "Flower",
        "metadata": {"name": "rose", "namespace": "default", "uid": "u", "resourceVersion": "1"}});
    let verbs = json!(["get", "list", "watch", "delete"]);
    json_reply(&match path {
        ROOT => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "flowers.example.org/v1", "resources": [
            {"name": "flowers", "singularName": "flower", "namespaced": true, "kind": "Flower", "verbs": verbs, "shortNames": ["fl"]},
            {"name": "flowers/status", "singularName": "", "namespaced": true, "kind": "Flower", "verbs": ["get"]}]})
        }
        "/openapi/v3" => {
            json!({"paths": {"apis/flowers.example.org/v1": {"serverRelativeURL": "/openapi/v3/apis/flowers.example.org/v1?hash=ABC"}}})
        }
        "/openapi/v3/apis/flowers.example.org/v1" => {
            json!({"openapi": "3.0.0", "paths": {"/apis/flowers.example.org/v1/flowers": {}}})
        }
        "/openapi/v2" => {
            json!({"swagger": "2.0", "paths": {"/apis/flowers.example.org/v1/flowers": {"get": {}}, "/version": {}},
            "definitions": {"org.example.Flower": {"type": "object"}}})
        }
        "/apis/flowers.example.org/v1/namespaces/default/flowers" => {
            json!({"kind": "FlowerList", "apiVersion": "flowers.example.org/v1", "metadata": {"resourceVersion": "1"}, "items": [flower]})
        }
        "/apis/flowers.example.org/v1/away" => {
            return Response::builder()
                .status(302)
                .header("location", "https://example.org/")
                .body(Full::default())
                .unwrap();
        }
        _ => return Response::builder().status(404).body(Full::from("nothing here")).unwrap(),
    })
}

/// An echo on an upgraded connection.
async fn echo(upgraded: hyper::upgrade::Upgraded) {
    let mut stream = TokioIo::new(upgraded);
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    stream.write_all(&buffer).await.unwrap();
    stream.shutdown().await.unwrap();
}

/// Starts the other server: its port, authority, and what it sees.
async fn other(t: &Testing) -> (u16, String, Seen) {
    let front_proxy = t.server.pki().request_header_ca.certificate_pem.clone();
    let (acceptor, authority) = acceptor(&["garden.default.svc"], Some(&front_proxy));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                // Whoever does not prove to be the front proxy is not believed.
                let proven = stream.get_ref().1.peer_certificates().is_some();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        seen.lock().unwrap().push((request.uri().to_string(), request.headers().clone()));
                        if !proven {
                            return Ok(Response::builder().status(401).body(Full::default()).unwrap());
                        }
                        if path.ends_with("/echo") {
                            let upgrade = hyper::upgrade::on(&mut request);
                            tokio::spawn(async move { echo(upgrade.await.unwrap()).await });
                            let switched = Response::builder().status(101).header("upgrade", "echo");
                            return Ok(switched.header("connection", "Upgrade").body(Full::default()).unwrap());
                        }
                        Ok::<_, hyper::Error>(answer(&path))
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
        }
    });
    (port, authority, kept)
}

fn registration(authority: &str) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME}, "spec": {
        "group": GROUP, "version": "v1", "groupPriorityMinimum": 17_900, "versionPriority": 10,
        "caBundle": authority, "service": {"name": "garden", "namespace": "default"}}})
}

async fn condition(t: &Testing, reason: &str) -> Value {
    let of = |o: &Value| o["status"]["conditions"][0].clone();
    of(&t.get_until(&format!("{SERVICES}/{NAME}"), |o| of(o)["reason"] == reason).await)
}

async fn service(t: &Testing, port: u16) {
    let kind = |k: &str, more: Value| {
        let mut o = json!({"apiVersion": "v1", "kind": k, "metadata": {"name": "garden"}});
        o.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        o
    };
    t.create(
        &core("services"),
        "default",
        &kind("Service", json!({"spec": {"ports": [{"port": 443, "targetPort": port}]}})),
    )
    .await;
    t.endpoints_here("garden", &json!([{"port": port}])).await;
}

/// A server with another one behind it, which is available.
async fn started() -> (Testing, Seen) {
    let t = Testing::start().await;
    let (port, authority, seen) = other(&t).await;
    service(&t, port).await;
    let (code, made) = t.http("POST", SERVICES, "application/json", &registration(&authority)).await;
    assert_eq!(code, 201, "{made}");
    condition(&t, "Passed").await;
    (t, seen)
}

#[tokio::test]
async fn availability_is_told_step_by_step() {
    let t = Testing::start().await;
    let (port, authority, _) = other(&t).await;
    t.http("POST", SERVICES, "application/json", &registration(&authority)).await;
    let said = condition(&t, "ServiceNotFound").await;
    assert_eq!(
        (&said["status"], &said["message"]),
        (&json!("False"), &json!("service/garden in \"default\" is not present"))
    );
    let (code, text) = t.http("GET", ROOT, "", &Value::Null).await;
    assert_eq!((code, text), (503, json!("service unavailable\n")));

    let service = |port: u16| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "garden"}, "spec": {"ports": [{"port": port, "targetPort": 1}]}});
    t.create(&core("services"), "default", &service(444)).await;
    let said = condition(&t, "ServicePortError").await;
    assert_eq!(said["message"], "service/garden in \"default\" is not listening on port 443");
    t.http(
        "PATCH",
        "/api/v1/namespaces/default/services/garden",
        "application/merge-patch+json",
        &json!({"spec": {"ports": [{"name": "api", "port": 443, "targetPort": 1}]}}),
    )
    .await;
    let said = condition(&t, "EndpointsNotFound").await;
    assert_eq!(said["message"], "cannot find endpoints for service/garden in \"default\"");
    t.endpoints_here("garden", &json!([{"name": "x", "port": 1}])).await;
    let said = condition(&t, "MissingEndpoints").await;
    assert_eq!(said["message"], "endpoints for service/garden in \"default\" have no addresses with port name \"api\"");
    let put = async |ports: Value| t.endpoints_here("garden", &ports).await;
    put(json!([{"name": "api", "port": 1}])).await;
    let said = condition(&t, "FailedDiscoveryCheck").await;
    let message = said["message"].as_str().unwrap();
    assert!(message.starts_with("failing or missing response from https://10.43."), "{message}");
    assert!(message.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"), "{message}");
    put(json!([{"name": "api", "port": port}])).await;
    let said = condition(&t, "Passed").await;
    assert_eq!((&said["status"], &said["message"]), (&json!("True"), &json!("all checks passed")));
    let (_, table) = t.http("GET", ROOT, "", &Value::Null).await;
    assert_eq!(table["resources"][0]["name"], "flowers");

    t.http("DELETE", &format!("{SERVICES}/{NAME}"), "application/json", &Value::Null).await;
    t.get_until(ROOT, |o| o["code"] == 404).await;
}

#[tokio::test]
async fn a_request_is_passed_on_with_who_makes_it() {
    let (t, seen) = started().await;
    let mut user = User::authenticated("rose/é", &["gardeners"]);
    user.groups.push("system:masters".into());
    user.extra.insert("Example.org/a b".into(), vec!["1".into(), "2".into()]);
    let request = Request::get(format!("{ROOT}/namespaces/default/flowers?labelSelector=a%3Db"))
        .header("authorization", "Bearer secret")
        .header("x-remote-user", "somebody-else")
        .header("x-remote-extra-scope", "all");
    let reply = t.server.serve_as(user, request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(reply.status(), 200);
    let (uri, headers) = seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!(uri, format!("{ROOT}/namespaces/default/flowers?labelSelector=a%3Db"));
    let all = |n: &str| {
        headers.get_all(n).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-remote-user"), ["rose/é"]);
    assert_eq!(all("x-remote-group"), ["gardeners", "system:authenticated", "system:masters"]);
    assert_eq!(all("x-remote-extra-example.org%2fa%20b"), ["1", "2"]);
    assert!(all("authorization").is_empty() && all("x-remote-extra-scope").is_empty());

    // Who may not is not passed on.
    let nobody = Request::get(format!("{ROOT}/namespaces/default/flowers")).body(axum::body::Body::empty()).unwrap();
    assert_eq!(t.server.serve_as(User::authenticated("nobody", &[]), nobody).await.status(), 403);
    let (code, text) = t.http("GET", &format!("{ROOT}/away"), "", &Value::Null).await;
    let refused = "the backend attempted to redirect this request, which is not permitted";
    assert_eq!((code, text), (502, json!(refused)));
    let (code, text) = t.http("GET", &format!("{ROOT}/else"), "", &Value::Null).await;
    assert_eq!((code, text), (404, json!("nothing here")));
}

#[tokio::test]
async fn discovery_shows_what_others_serve() {
    let (t, _) = started().await;
    let (_, groups) = t.http("GET", "/apis", "", &Value::Null).await;
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["apiregistration.k8s.io", GROUP, "apps"], "by priority");
    let (_, group) = t.http("GET", &format!("/apis/{GROUP}"), "", &Value::Null).await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "flowers.example.org/v1");
    let request =
        Request::get("/apis").header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let reply = t.server.serve_as(admin(), request.body(axum::body::Body::empty()).unwrap()).await;
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    let all: Value = serde_json::from_slice(&body).unwrap();
    let ours = all["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == GROUP).unwrap();
    let kind = json!({"group": GROUP, "version": "v1", "kind": "Flower"});
    assert_eq!(
        ours["versions"],
        json!([{"version": "v1", "freshness": "Current", "resources": [{
        "resource": "flowers", "scope": "Namespaced", "singularResource": "flower", "shortNames": ["fl"], "responseKind": kind,
        "verbs": ["get", "list", "watch", "delete"],
        "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get"]}]}]}])
    );
}

#[tokio::test]
async fn openapi_shows_what_others_say() {
    let (t, _) = started().await;
    let (_, index) = t.http("GET", "/openapi/v3", "", &Value::Null).await;
    let url = index["paths"]["apis/flowers.example.org/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(url, "/openapi/v3/apis/flowers.example.org/v1?hash=ABC");
    let (_, document) = t.http("GET", url, "", &Value::Null).await;
    assert!(document["paths"]["/apis/flowers.example.org/v1/flowers"].is_object(), "{document}");
    let (_, v2) = t.http("GET", "/openapi/v2", "", &Value::Null).await;
    assert!(v2["paths"]["/apis/flowers.example.org/v1/flowers"]["get"].is_object());
    assert!(v2["paths"]["/api/v1/pods"].is_object());
}

#[tokio::test]
async fn callers_in_process_reach_what_others_serve() {
    let (t, _) = started().await;
    let flowers = Gvr::dynamic(GROUP, "v1", "flowers");
    let api = t.server.client(admin());
    let params = ListParams { namespace: "default".into(), ..Default::default() };
    let list = api.api().list(&flowers, &params).await.unwrap();
    assert_eq!((list.items[0].key(), list.resource_version), ("default/rose", "1".to_owned()));
    let gone = t.call(&admin(), Verb::Get, &flowers, "default/tulip", &Value::Null).await.unwrap_err();
    assert_eq!(gone.code, 404);
}

#[tokio::test]
async fn an_upgraded_connection_goes_through() {
    let (t, _) = started().await;
    let (client, server) = tokio::io::duplex(1024);
    let own = t.server.clone();
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let own = own.clone();
            async move { Ok::<_, std::convert::Infallible>(own.serve_as(admin(), request.map(axum::body::Body::new)).await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        http.serve_connection(TokioIo::new(server), service).with_upgrades().await.unwrap();
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("{ROOT}/namespaces/default/flowers/rose/echo"))
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    let reply = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(reply.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(reply).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
}
