//! Requests for what an API server beside this one serves: passed on with the caller's identity in
//! headers, which it believes as this server proves to be the front proxy
//! (upstream: `kube-aggregator/pkg/apiserver/handler_proxy.go`).

use std::sync::Arc;

use http::StatusCode;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};

use super::Backend;
use crate::Server;
use crate::forward::{self, Tls, rewrite};
use crate::http::respond::{self, Reply};
use crate::http::{Call, RequestBody};
use crate::request::User;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Says who a request is of, and that alone: what came with it counts for nothing.
pub(super) fn identify(headers: &mut HeaderMap, user: &User) {
    let theirs: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with("x-remote-")).cloned().collect();
    theirs.iter().for_each(|n| {
        headers.remove(n);
    });
    let mut add = |name: &str, value: &str| {
        // A name that no header can hold is told as none: the other server then knows nobody.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    user.groups.iter().for_each(|g| add(GROUP, g));
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escaped(key));
        values.iter().for_each(|v| add(&name, v));
    }
}

/// A key as a part of a header's name: what cannot stand there is percent-encoded.
fn escaped(key: &str) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes()
        .fold(String::new(), |s, b| if legal(b) { s + &char::from(b).to_string() } else { s + &format!("%{b:02X}") })
}

/// An error in plain text.
fn plain(code: u16, text: &str) -> Reply {
    let mut reply = respond::bytes(code, "text/plain; charset=utf-8", format!("{text}\n"));
    reply.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    reply
}

/// Passes a request on.
pub async fn serve(server: &Arc<Server>, mut call: Call, backend: &Backend, body: RequestBody) -> Reply {
    if !backend.is_available() {
        return plain(503, "service unavailable");
    }
    let tls = match backend.outbound.as_ref().map_err(String::clone).and_then(|o| o.tls()) {
        Ok(config) => Tls { config, name: backend.service.host() },
        Err(e) => return plain(500, &e),
    };
    let Ok((address, port)) = backend.address(server).await else { return plain(503, "service unavailable") };
    let uri = call.parts.uri.clone();
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let client = call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut request = match forward::request(&call.parts, path, body) {
        Ok(request) => request,
        Err(e) => return plain(400, &e),
    };
    identify(request.headers_mut(), &call.user);
    if let Ok(path) = HeaderValue::from_str(uri.path()) {
        request.headers_mut().insert("x-forwarded-uri", path);
    }
    let asked = request.headers().get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let upgrade = forward::is_upgrade(&call.parts.headers);
    let passed = match forward::connect(&address, port, Some(&tls)).await {
        Ok(stream) => forward::exchange(stream, request, client).await,
        Err(e) => Err(e),
    };
    let reply = match passed {
        Ok(reply) => reply,
        Err(e) if upgrade => return plain(503, &format!("error dialing backend: {e}")),
        Err(e) => return plain(503, &format!("error trying to reach service: {e}")),
    };
    if reply.status().is_redirection() && reply.headers().contains_key(LOCATION) {
        let text = "the backend attempted to redirect this request, which is not permitted";
        return respond::bytes(StatusCode::BAD_GATEWAY.as_u16(), "text/plain; charset=utf-8", text);
    }
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        return reply;
    }
    rewrite::answer(reply, &rewrite::Place { prefix: "", target: &format!("{address}:{port}"), asked: &asked }).await
}
