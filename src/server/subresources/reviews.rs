//! The reviews: questions to the API server about identity and permission, answered at once
//! and never stored (`authentication.k8s.io`, `authorization.k8s.io`).

use std::sync::Arc;

use api::{Resource, Status};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use crate::Server;
use crate::authz::{self, Decision};
use crate::http::respond::{self, Reply};
use crate::http::{Call, decode_body};
use crate::registry::prepare;
use crate::request::{RequestInfo, User};

fn text(v: &Value, field: &str) -> String {
    v[field].as_str().unwrap_or_default().to_owned()
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn user_value(u: &User) -> Value {
    let mut v = json!({"username": u.name, "groups": u.groups});
    if !u.uid.is_empty() {
        v["uid"] = u.uid.clone().into();
    }
    if !u.extra.is_empty() {
        v["extra"] = json!(u.extra);
    }
    v
}

/// Answers a review.
pub async fn serve(server: &Arc<Server>, call: &Call, resource: &Arc<Resource>, body: &Bytes) -> Result<Reply, Status> {
    let ctx = server.write_context(call)?;
    let mut warnings = Vec::new();
    let mut review = prepare::accept(&ctx, resource, decode_body(call, resource, body)?, &mut warnings)?;
    review["apiVersion"] = resource.api_version().into();
    review["kind"] = resource.kind.clone().into();
    review["status"] = match resource.plural.as_str() {
        "tokenreviews" => token_review(server, &review["spec"]).await?,
        "selfsubjectreviews" => json!({"userInfo": user_value(&call.user)}),
        "selfsubjectaccessreviews" => access(server, &call.user, &review["spec"])?,
        "subjectaccessreviews" => access(server, &user_of(&review["spec"])?, &review["spec"])?,
        "localsubjectaccessreviews" => {
            let spec = &review["spec"];
            let namespace = text(&spec["resourceAttributes"], "namespace");
            if namespace != call.info.namespace {
                let why = "must match metadata.namespace";
                return Err(invalid("spec.resourceAttributes.namespace", &namespace, why));
            }
            access(server, &user_of(spec)?, spec)?
        }
        "selfsubjectrulesreviews" if text(&review["spec"], "namespace").is_empty() => {
            return Err(Status::bad_request("no namespace on request"));
        }
        "selfsubjectrulesreviews" => server.rules_of(&call.user, &text(&review["spec"], "namespace")),
        _ => return Err(Status::no_such_resource()),
    };
    let mut reply = respond::json(201, &review);
    respond::warn(&mut reply, &warnings);
    Ok(reply)
}

/// Upstream names no kind in the errors of reviews.
fn invalid(field: &str, value: &str, why: &str) -> Status {
    let e = api::field::FieldError::invalid(field, value, why);
    Status::invalid("authorization.k8s.io", "", "", &vec![e])
}

async fn token_review(server: &Arc<Server>, spec: &Value) -> Result<Value, Status> {
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let mut request = http::Request::new(());
    let value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Status::bad_request("the token has characters that no token has"))?;
    request.headers_mut().insert(AUTHORIZATION, value);
    let (parts, ()) = request.into_parts();
    let wanted = strings(&spec["audiences"]);
    match server.tokens().review(server, &parts, &wanted).await {
        Ok((user, audiences)) => Ok(json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})),
        Err(s) => Ok(json!({"authenticated": false, "error": s.message})),
    }
}

fn user_of(spec: &Value) -> Result<User, Status> {
    let user = User {
        name: text(spec, "user"),
        uid: text(spec, "uid"),
        groups: strings(&spec["groups"]),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    Ok(user)
}

fn access(server: &Arc<Server>, user: &User, spec: &Value) -> Result<Value, Status> {
    let info = match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(r), None) => RequestInfo {
            verb: text(r, "verb"),
            is_resource: true,
            group: text(r, "group"),
            version: text(r, "version"),
            resource: text(r, "resource"),
            namespace: text(r, "namespace"),
            name: text(r, "name"),
            subresource: text(r, "subresource"),
            ..Default::default()
        },
        (None, Some(n)) => RequestInfo { verb: text(n, "verb"), path: text(n, "path"), ..Default::default() },
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(invalid("spec.resourceAttributes", "null", why));
        }
    };
    Ok(match authz::decide(server.authorizers(), user, &info) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    })
}
