//! Proxying, as far as it can be seen without pods.

use serde_json::{Value, json};

use super::*;
use crate::testing::{Testing, core};

#[test]
fn names_may_carry_a_scheme_and_a_port() {
    let parse = |id| Named::parse(id, "service").map(|n| (n.scheme, n.name, n.port)).map_err(|s| s.message);
    assert_eq!(parse("a"), Ok(("", "a", "")));
    assert_eq!(parse("a:80"), Ok(("", "a", "80")));
    assert_eq!(parse("https:a:web"), Ok(("https", "a", "web")));
    assert_eq!(parse("ftp:a:web").unwrap_err(), "invalid service request \"ftp:a:web\"");
    assert!(parse(":80").is_err() && parse("a:b:c:d").is_err());
}

#[test]
fn the_servers_own_host_is_not_reached_through_it() {
    for local in ["127.0.0.1", "169.254.0.1", "::1", "fe80::1", "0.0.0.0", "224.0.0.1", "x"] {
        assert_eq!(proxyable(local).unwrap_err().message, "address not allowed", "{local}");
    }
    proxyable("10.0.0.1").unwrap();
}

async fn said(t: &Testing, path: &str) -> (u16, String) {
    let (code, body) = t.http("GET", path, "", &Value::Null).await;
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_upstream_tells_it() {
    let t = Testing::start().await;
    let meta = json!({"name": "web"});
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "other", "port": 81}]);
    let spec = json!({"ports": ports});
    t.create(
        &core("services"),
        "default",
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}),
    )
    .await;
    let root = "/api/v1/namespaces/default/services";
    let at = |id: &str| format!("{root}/{id}/proxy/");
    assert_eq!(said(&t, &at("absent:80")).await, (404, "services \"absent\" not found".to_owned()));
    let (code, message) = said(&t, &at("web:99")).await;
    assert_eq!((code, &*message), (503, "no service port 99 found for service \"web\""));
    let endpoints = |address: Value| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta,
            "subsets": [{"addresses": [address], "ports": [{"name": "http", "port": 8080}]}]})
    };
    t.create(&core("endpoints"), "default", &endpoints(json!({"ip": "10.0.0.9"}))).await;
    let none = |id: &str| (503, format!("no endpoints available for service {id:?}"));
    assert_eq!(said(&t, &at("web:http")).await, none("web:http"), "an address that is no pod's");
    assert_eq!(said(&t, &at("web:other")).await, none("web:other"));
    let (code, message) = said(&t, "/api/v1/namespaces/default/pods/absent/proxy/").await;
    assert_eq!((code, &*message), (404, "pods \"absent\" not found"));
    let moved = axum::body::Body::empty();
    let request = http::Request::get(format!("{root}/web:http/proxy?a=b")).body(moved).unwrap();
    let (code, _) = said(&t, &at("a:b:c:d")).await;
    assert_eq!(code, 400);
    // Even where nobody answers, the root has its slash.
    let reply = t.server.serve_as(crate::testing::admin(), request).await;
    assert_eq!(reply.status(), 503);
}

fn location(reply: &Reply) -> String {
    reply.headers()["location"].to_str().unwrap().to_owned()
}

/// An address of this machine that others could reach.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip().to_string();
    proxyable(&ip).ok().map(|()| ip)
}

/// A server that tells what it was asked, redirects from `/from`, and shows a page at `/page`.
async fn target(address: &str) -> u16 {
    use http_body_util::{BodyExt, Full};
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let reply = hyper::Response::builder().header("access-control-allow-origin", "*");
                let reply = match parts.uri.path() {
                    "/from" => reply.status(302).header("location", "/to?x=y").body(Full::<bytes::Bytes>::default()),
                    "/page" => reply.header("content-type", "text/html").body(Full::from("<a href=\"/x\">")),
                    _ => {
                        let header = |n: &str| parts.headers.get(n).map(|v| v.to_str().unwrap().to_owned());
                        let seen = json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(),
                            "host": header("host"), "authorization": header("authorization"),
                            "body": String::from_utf8_lossy(&body)});
                        reply.header("content-type", "application/json").body(Full::from(seen.to_string()))
                    }
                };
                Ok::<_, hyper::Error>(reply.unwrap())
            });
            let io = hyper_util::rt::TokioIo::new(tcp);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    port
}

#[tokio::test]
async fn a_request_reaches_a_pod_and_its_answer_leads_back() {
    let Some(ip) = own_address() else {
        eprintln!("skipped: this machine has no address that others could reach");
        return;
    };
    let t = Testing::start().await;
    let port = target(&ip).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    t.create(&core("serviceaccounts"), "default", &account).await;
    let mut pod = crate::testing::pod("web", "n1");
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": port}]);
    t.create(&core("pods"), "default", &pod).await;
    let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    let path = "/api/v1/namespaces/default/pods/web/status";
    t.http("PATCH", path, "application/merge-patch+json", &status).await;
    t.server.registry().caches().fresh().await.unwrap();

    for id in ["web".to_owned(), format!("web:{port}"), format!("http:web:{port}")] {
        let root = format!("/api/v1/namespaces/default/pods/{id}/proxy");
        let request = http::Request::builder().method("PUT").uri(format!("{root}/a%2Fb/?q=1%20&r"));
        let request = request.header("host", "server.example.org").header("authorization", "Bearer x");
        let reply =
            t.server.serve_as(crate::testing::admin(), request.body(axum::body::Body::from("in")).unwrap()).await;
        assert_eq!((reply.status().as_u16(), reply.headers().get("access-control-allow-origin")), (200, None));
        let seen = http_body_util::BodyExt::collect(reply.into_body()).await.unwrap().to_bytes();
        let seen: Value = serde_json::from_slice(&seen).unwrap();
        let wanted = json!({"method": "PUT", "uri": "/a%2Fb/?q=1%20&r", "host": "server.example.org",
            "authorization": null, "body": "in"});
        assert_eq!(seen, wanted, "{id}");
        let request = |path: &str| http::Request::get(format!("{root}{path}")).body(axum::body::Body::empty()).unwrap();
        let reply = t.server.serve_as(crate::testing::admin(), request("/from")).await;
        assert_eq!((reply.status().as_u16(), location(&reply)), (302, format!("{root}/to?x=y")));
        let reply = t.server.serve_as(crate::testing::admin(), request("?a=b")).await;
        assert_eq!((reply.status().as_u16(), location(&reply)), (301, format!("{root}/?a=b")));
        let (_, page) = t.http("GET", &format!("{root}/page"), "", &Value::Null).await;
        assert_eq!(page, format!("<a href=\"{root}/x\">"));
    }
}
