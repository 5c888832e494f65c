//! Requests that nobody should send: their parts, and whole through the pipeline.

use fuzzing::Decoder;
use fuzzing::decoder::{check, scales};
use fuzzing::inputs::altered;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::list_options::{ListOptions, get_position};
use super::{PANICKED, deadline, negotiate};
use crate::request::{Query, RequestInfo};
use crate::testing::{Testing, admin};

const PARTS: &[&str] = &[
    "/",
    "//",
    "api",
    "apis",
    "v1",
    "apps",
    "namespaces",
    "default",
    "pods",
    "watch",
    "proxy",
    "status",
    "nodes",
    "n",
    ":",
    "%",
    "%2",
    "%2F",
    "%00",
    "%ff",
    "..",
    "?",
    "&",
    "=",
    "watch=1",
    "limit=",
    "continue=",
    "resourceVersion=",
    "resourceVersionMatch=Exact",
    "labelSelector=",
    "fieldSelector=metadata.name%3D",
    "timeout=",
    "timeoutSeconds=",
    "sendInitialEvents=true",
    "-1",
    "18446744073709551616",
    "1e400h",
    "9999999h",
    "é",
    "+",
    "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0",
];

#[test]
fn addresses_are_read_whatever_they_are() {
    let examples = [
        "/api/v1/namespaces/default/pods/a/log?follow=true&container=c",
        "/apis/apps/v1/watch/namespaces/a/deployments?watch=1&resourceVersion=5&timeoutSeconds=10&allowWatchBookmarks=true",
        "/api/v1/namespaces/a/services/https:s:443/proxy/x//y/?a=b",
        "/api/v1/pods?limit=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0&timeout=5s",
        "/api/v1/pods?resourceVersion=7&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da",
    ];
    Decoder::of(examples).words(PARTS).run_text(|text| {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let query = Query::parse(query);
        for method in [Method::GET, Method::DELETE, Method::PATCH] {
            let info = RequestInfo::new(&method, path, &query);
            let _ = deadline::of(&query, &info);
        }
        for watch in [false, true] {
            if let Ok(options) = ListOptions::parse(&query, watch) {
                let _ = options.position("pods/default/");
            }
        }
        let _ = get_position(&query);
        let _ = negotiate::is_pretty(&HeaderMap::new(), &query);
    });
    let address = |n: usize| (format!("/api/v1{}", "/a".repeat(n)), Query::parse(&"a=b&".repeat(n)));
    scales("an address", 5_000, address, |(path, query)| drop(RequestInfo::new(&Method::GET, &path, &query)));
}

#[test]
fn media_types_are_read_whatever_they_are() {
    let words = &[
        "application/",
        "json",
        "*/*",
        "*",
        ",",
        ";",
        "q=",
        "NaN",
        "inf",
        "-1",
        "0.5",
        "as=Table",
        "g=meta.k8s.io",
        "v=v1",
        "stream=watch",
        " ",
        "yaml",
        "gzip",
        "/",
        "=",
    ];
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/vnd.kubernetes.protobuf;q=0.5,*/*;q=0.1";
    Decoder::of([kubectl, "text/html, application/yaml;q=0.9"]).words(words).run(|input| {
        let value = HeaderValue::from_bytes(input).ok()?;
        let mut headers = HeaderMap::new();
        for name in
            [http::header::ACCEPT, http::header::CONTENT_TYPE, http::header::ACCEPT_ENCODING, http::header::USER_AGENT]
        {
            headers.insert(name, value.clone());
        }
        negotiate::accepts_gzip(&headers);
        let _ = (
            negotiate::body(&headers),
            negotiate::media_type(&headers),
            negotiate::is_pretty(&headers, &Query::default()),
        );
        negotiate::accepted(&headers, true).and_then(negotiate::streamed).ok()
    });
    let mut headers = HeaderMap::new();
    let many = (0..100).map(|i| if i % 3 == 0 { "a/b;q=NaN".to_owned() } else { format!("a/b;q=0.{i}") });
    headers.insert(http::header::ACCEPT, many.collect::<Vec<_>>().join(",").parse().unwrap());
    assert!(negotiate::accepted(&headers, false).is_err(), "what is no number has no place in an order, and no panic");
}

/// One request, as random as it can be while it still means something.
fn request() -> impl Strategy<Value = (Method, String, String, Vec<u8>)> {
    let examples: Vec<Value> = fuzzing::golden::yaml()
        .iter()
        .map(|y| api::codec::parse_documents(y).unwrap().remove(0)["object"].take())
        .collect();
    let all = api::registry::builtin();
    let collection = move |o: &Value| {
        let found = all.iter().find(|r| o["apiVersion"] == r.api_version() && o["kind"] == r.kind.as_str());
        let Some(r) = found else { return "/api/v1/pods".to_owned() };
        let root = if r.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", r.group) };
        let namespace = if r.namespaced { "/namespaces/default" } else { "" };
        format!("{root}/{}{namespace}/{}", r.version, r.plural)
    };
    let methods = vec![Method::POST, Method::PUT, Method::PATCH, Method::GET, Method::DELETE];
    let media = vec![
        "application/json",
        "application/yaml",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/vnd.kubernetes.protobuf",
        "text/plain",
    ];
    let queries = vec![
        "",
        "fieldManager=m&force=true",
        "dryRun=All",
        "fieldValidation=Strict",
        "watch=1&timeoutSeconds=1",
        "limit=1",
        "fieldManager=m",
    ];
    let subresources = vec![
        "",
        "",
        "",
        "/gold",
        "/gold",
        "/gold/status",
        "/gold/scale",
        "/gold/binding",
        "/gold/eviction",
        "/gold/token",
        "/gold/finalize",
        "/gold/approval",
    ];
    (select(methods), altered(examples), select(media), select(queries), select(subresources)).prop_map(
        move |(method, mut object, media, query, sub)| {
            let path = format!("{}{sub}?{query}", collection(&object));
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.insert("namespace".into(), "default".into());
            }
            (method, path, media.to_owned(), object.to_string().into_bytes())
        },
    )
}

#[test]
fn requests_are_answered_whatever_they_are() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let t = runtime.block_on(Testing::start());
    check(100, request(), |(method, path, media, body)| {
        let watches = path.contains("watch=1");
        let request = http::Request::builder().method(&method).uri(&path).header("content-type", &media);
        let (code, answer) = runtime.block_on(async {
            let reply = t.server.serve_as(admin(), request.body(body.into()).unwrap()).await;
            let code = reply.status().as_u16();
            // A stream has no end worth waiting for.
            let body = if watches { Default::default() } else { reply.into_body().collect().await.unwrap().to_bytes() };
            (code, String::from_utf8_lossy(&body).into_owned())
        });
        assert!(!answer.contains(PANICKED), "{method} {path} {media}");
        // Strategic merges answer so, as upstream, what makes no sense to them; proxies have nobody behind them.
        let known = media.contains("patch") || answer.contains("ServiceUnavailable");
        assert!(code < 500 || known, "{method} {path} {media}: {code} {answer}");
    });
    runtime.block_on(t.end());
}

#[test]
fn damaged_tokens_are_nobodys() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let t = runtime.block_on(Testing::start());
    let token = runtime.block_on(async {
        let maps = crate::testing::core("serviceaccounts");
        t.create(&maps, "default", &json!({"metadata": {"name": "a"}})).await;
        let (code, answer) =
            t.http("POST", "/api/v1/namespaces/default/serviceaccounts/a/token", "application/json", &json!({})).await;
        assert_eq!(code, 201, "{answer}");
        answer["status"]["token"].as_str().unwrap().to_owned()
    });
    let ask = |name: &'static str, value: &[u8]| {
        let value = HeaderValue::from_bytes(value).ok()?;
        let request =
            http::Request::builder().uri("/api/v1/namespaces").header(name, value).body(Default::default()).unwrap();
        Some(runtime.block_on(t.server.serve(request)).status().as_u16())
    };
    assert_eq!(ask("authorization", format!("Bearer {token}").as_bytes()), Some(403));
    let words = &[
        "Bearer ",
        "bearer",
        "Basic ",
        ".",
        "eyJ",
        "e30",
        "..",
        "abcdef.0123456789abcdef",
        "K10",
        "::",
        "=",
        "-",
        "_",
        " ",
    ];
    let examples =
        [format!("Bearer {token}"), "Bearer abcdef.0123456789abcdef".to_owned(), "Bearer e30.e30.".to_owned()];
    let good = format!("Bearer {token}").into_bytes();
    Decoder::of(examples).words(words).cases(64).memory(64 << 20, 1_000).run(|input| {
        let code = ask("authorization", input);
        assert!(matches!(code, None | Some(401)) || input == good || code == Some(403), "{code:?}");
    });
    let protocol = "base64url.bearer.authorization.k8s.io.ZTMw, v5.channel.k8s.io";
    Decoder::of([protocol]).cases(32).memory(64 << 20, 1_000).run(|input| ask("sec-websocket-protocol", input));
    for header in ["impersonate-user", "impersonate-group", "impersonate-extra-%zz", "x-remote-user"] {
        Decoder::of(["system:serviceaccount:a:b", "system:masters"])
            .words(words)
            .cases(16)
            .memory(64 << 20, 1_000)
            .run(|input| ask(header, input));
    }
    runtime.block_on(t.end());
}
