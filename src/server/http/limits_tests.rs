//! What a request may ask for at most, and what is said then: measured against upstream's server.

use serde_json::{Value, json};

use crate::testing::{Testing, admin};
use http_body_util::BodyExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";

/// Code and message of the answer to a body as it is.
async fn said(t: &Testing, method: &str, path: &str, media: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    let reply = t.server.serve_as(admin(), request.body(body.into().into()).unwrap()).await;
    let code = reply.status().as_u16();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

fn map(more: Value) -> String {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object.to_string()
}

fn revision(data: &str) -> String {
    format!(
        r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"r"}},"revision":1,"data":{data}}}"#
    )
}

#[tokio::test]
async fn what_is_too_large_is_refused_in_upstreams_words() {
    let t = Testing::start().await;
    let json = "application/json";
    let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(3 << 20));
    let too_large = (413, "Request entity too large: limit is 3145728".to_owned());
    assert_eq!(said(&t, "POST", MAPS, json, body).await, too_large);
    let object = revision(&format!("{{\"a\":\"{}\"}}", "x".repeat(1_600_000)));
    assert_eq!(said(&t, "POST", REVISIONS, json, object).await, (500, "etcdserver: request is too large".to_owned()));
    let annotated = map(json!({"metadata": {"name": "m", "annotations": {"a": "x".repeat(256 << 10)}}}));
    let (code, message) = said(&t, "POST", MAPS, json, annotated).await;
    assert!(
        code == 422 && message.contains("metadata.annotations: Too long: may not be more than 262144 bytes"),
        "{message}"
    );
    let (code, message) = said(&t, "POST", MAPS, json, map(json!({"data": {"a": "x".repeat(1_100_000)}}))).await;
    assert!(code == 422 && message.contains("Too long: may not be more than 1048576 bytes"), "{message}");
    let compressed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];
    let (code, message) = said(&t, "POST", MAPS, json, compressed).await;
    assert!(code == 400 && message.contains("(1f8b08"), "bodies are not decompressed: {message}");
    t.end().await;
}

#[tokio::test]
async fn patches_are_held_in_number_and_effect() {
    let t = Testing::start().await;
    let json_patch = "application/json-patch+json";
    assert_eq!(said(&t, "POST", REVISIONS, "application/json", revision("{}")).await.0, 201);
    let one = format!("{REVISIONS}/r");
    let many: Value = vec![json!({"op": "test", "path": "/revision", "value": 1}); 10_001].into();
    let message = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!(said(&t, "PATCH", &one, json_patch, many.to_string()).await, (413, message.to_owned()));
    let mut copies = vec![json!({"op": "add", "path": "/data/a", "value": "x".repeat(10_000)})];
    copies.extend((0..40).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/{i}")})));
    let (code, message) = said(&t, "PATCH", &one, json_patch, Value::from(copies).to_string()).await;
    assert_eq!((code, message.as_str()), (422, "the server rejected our request due to an error in our request"));
    let manager = format!("{one}?fieldManager={}", "m".repeat(129));
    let (code, message) = said(&t, "PATCH", &manager, "application/merge-patch+json", "{}").await;
    assert!(code == 422 && message.contains("fieldManager: Too long"), "{message}");
    t.end().await;
}

/// Everything that was stored can be read again, whatever the way it came in by.
#[tokio::test]
async fn what_nests_too_deeply_is_refused_and_what_was_taken_can_be_read() {
    let t = Testing::start().await;
    let nested = |depth: usize| fuzzing::inputs::nested("{\"a\":", "1", "}", depth);
    for media in ["application/json", "application/yaml"] {
        for depth in [api::codec::NESTING_MAX, 1_000, 100_000] {
            let (code, message) = said(&t, "POST", REVISIONS, media, revision(&nested(depth))).await;
            assert_eq!(code, 400, "{depth} in {media}: {message}");
        }
    }
    assert_eq!(
        said(&t, "POST", REVISIONS, "application/json", revision(&nested(api::codec::NESTING_MAX - 1))).await.0,
        201
    );
    let one = format!("{REVISIONS}/r");
    let deeper = format!(r#"{{"data":{}}}"#, nested(125));
    for (media, body) in [
        ("application/merge-patch+json", deeper.clone()),
        ("application/strategic-merge-patch+json", deeper),
        (
            "application/json-patch+json",
            format!(r#"[{{"op":"add","path":"/data{}","value":{}}}]"#, "/a".repeat(50), nested(100)),
        ),
        ("application/apply-patch+yaml", revision(&nested(120))),
    ] {
        let (code, message) = said(&t, "PATCH", &format!("{one}?fieldManager=m&force=true"), media, body).await;
        assert!((400..500).contains(&code), "{media}: {code} {message}");
    }
    let (code, _) = said(&t, "GET", &one, "", "").await;
    let (of_list, _) = said(&t, "GET", REVISIONS, "", "").await;
    assert_eq!((code, of_list), (200, 200));
    let block = "- ".repeat(5_000);
    assert_eq!(said(&t, "POST", MAPS, "application/yaml", block).await.0, 400);
    let laughs: String =
        (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))).collect();
    let (code, message) = said(&t, "POST", MAPS, "application/yaml", format!("a0: &a0 [lol]\n{laughs}")).await;
    assert!(code == 400 && message.contains("yaml: document contains excessive aliasing"), "{message}");
    t.end().await;
}

#[tokio::test]
async fn definitions_cannot_cost_what_upstreams_cannot() {
    let t = Testing::start().await;
    let with = |field: Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "ws.fuzz.io"},
            "spec": {"group": "fuzz.io", "scope": "Namespaced", "names": {"plural": "ws", "kind": "W"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": field}}}}]}})
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
    let rule =
        |text: String| with(json!({"type": "integer", "x-kubernetes-validations": [{"rule": text}]})).to_string();
    let nested = |open: &str, inner: &str, close: &str, n| rule(fuzzing::inputs::nested(open, inner, close, n));
    for (body, expected) in [
        (nested("(", "true", ")", 300), "expression recursion limit exceeded: 250"),
        (nested("1+", "1 > 0", "", 300), "expression recursion limit exceeded: 250"),
        (
            rule("true || ".repeat(15_000) + "true"),
            "expression code point size exceeds limit: size: 120004, limit 100000",
        ),
        (
            with(json!({"type": "string", "pattern": "(((a{100}){100}){100}){100}"})).to_string(),
            "must be a valid regular expression",
        ),
        (rule("lists.range(1000000000).size() > self".into()), "exceeds budget"),
    ] {
        let (code, message) = said(&t, "POST", path, "application/json", body).await;
        assert!(code == 422 && message.contains(expected), "{code} {message}");
    }
    let mut status = with(json!({"type": "integer"}));
    status["spec"]["versions"][0]["subresources"] = json!({"status": false});
    let (code, message) = said(&t, "POST", path, "application/json", status.to_string()).await;
    let expected = "json: cannot unmarshal bool into Go struct field CustomResourceSubresources.spec.versions.subresources.status of type v1.CustomResourceSubresourceStatus";
    assert!(code == 400 && message.ends_with(expected), "{code} {message}");
    t.end().await;
}
