//! The reviews: questions to the API server about identity and permission, answered at once
//! and never stored (`authentication.k8s.io`, `authorization.k8s.io`).

use std::sync::Arc;

use api::field::{ErrorList, FieldError};
use api::{Resource, Status};
use bytes::Bytes;
use serde_json::{Value, json};

use super::selectors;
use crate::Server;
use crate::authn::bearer;
use crate::authz::{Decision, rbac};
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
    let mut warnings = Vec::new();
    let mut review =
        prepare::accept(&server.write_context(call)?, resource, decode_body(call, resource, body)?, &mut warnings)?;
    review["apiVersion"] = resource.api_version().into();
    review["kind"] = resource.kind.clone().into();
    // Upstream names no kind here.
    let refused = |errors: ErrorList| Err(Status::invalid(&resource.group, "", "", &errors));
    let spec = &review["spec"];
    review["status"] = match resource.plural.as_str() {
        "tokenreviews" => token_review(server, spec).await?,
        "selfsubjectreviews" => json!({"userInfo": user_value(&call.user)}),
        "selfsubjectaccessreviews" => match access_errors(&review, &call.info, false) {
            errors if errors.is_empty() => access(server, &call.user, spec).await,
            errors => return refused(errors),
        },
        "subjectaccessreviews" | "localsubjectaccessreviews" => match access_errors(&review, &call.info, true) {
            errors if errors.is_empty() => access(server, &user_of(spec), spec).await,
            errors => return refused(errors),
        },
        "selfsubjectrulesreviews" => {
            let namespace = text(spec, "namespace");
            if namespace.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            let status = rbac::rules_of(server, &call.user, &namespace);
            review["spec"] = json!({});
            status
        }
        _ => return Err(Status::no_such_resource()),
    };
    let mut reply = respond::json(201, &review);
    respond::warn(&mut reply, &warnings);
    Ok(reply)
}

async fn token_review(server: &Arc<Server>, spec: &Value) -> Result<Value, Status> {
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences = server.own_audiences();
    }
    match bearer::authenticate(server, &token, &audiences).await {
        Ok(known) => Ok(json!({"authenticated": true, "user": user_value(&known.user), "audiences": known.audiences})),
        Err(why) => Ok(json!({"user": {}, "error": why})),
    }
}

fn user_of(spec: &Value) -> User {
    User {
        name: text(spec, "user"),
        uid: text(spec, "uid"),
        groups: strings(&spec["groups"]),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
    }
}

/// What is wrong with a question, whose answer is about the caller or about a user that it names.
fn access_errors(review: &Value, info: &RequestInfo, names_user: bool) -> ErrorList {
    let spec = &review["spec"];
    let given = |field: &str| spec.get(field).filter(|v| !v.is_null());
    let mut errors = ErrorList::new();
    let (resource, path) = (given("resourceAttributes"), given("nonResourceAttributes"));
    match (resource, path) {
        (Some(_), Some(path)) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if let Some(r) = resource {
        errors.extend(selectors::errors(r, "spec.resourceAttributes"));
    }
    if names_user && text(spec, "user").is_empty() && strings(&spec["groups"]).is_empty() {
        errors.push(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    let local = info.resource == "localsubjectaccessreviews";
    if let Some(metadata) = review["metadata"].as_object() {
        let left_out = |field: &str| field == "managedFields" || (local && field == "namespace");
        if metadata.iter().any(|(field, v)| !left_out(field) && !v.is_null()) {
            let why = if local { "must be empty except for namespace" } else { "must be empty" };
            errors.push(FieldError::invalid("metadata", review["metadata"].clone(), why));
        }
    }
    if local {
        if let Some(r) = resource.filter(|r| text(r, "namespace") != info.namespace) {
            let why = "must match metadata.namespace";
            errors.push(FieldError::invalid("spec.resourceAttributes.namespace", text(r, "namespace"), why));
        }
        if let Some(path) = path {
            let why = "disallowed on this kind of request";
            errors.push(FieldError::invalid("spec.nonResourceAttributes", path.clone(), why));
        }
    }
    errors
}

/// The question that a checked specification asks.
fn question(spec: &Value) -> RequestInfo {
    let Some(r) = spec.get("resourceAttributes").filter(|r| !r.is_null()) else {
        let n = &spec["nonResourceAttributes"];
        return RequestInfo { verb: text(n, "verb"), path: text(n, "path"), ..Default::default() };
    };
    RequestInfo {
        verb: text(r, "verb"),
        is_resource: true,
        group: text(r, "group"),
        version: text(r, "version"),
        resource: text(r, "resource"),
        namespace: text(r, "namespace"),
        name: text(r, "name"),
        subresource: text(r, "subresource"),
        field_selector: selectors::fields(&r["fieldSelector"]),
        label_selector: selectors::labels(&r["labelSelector"]),
        ..Default::default()
    }
}

async fn access(server: &Arc<Server>, user: &User, spec: &Value) -> Value {
    let answer = server.decide(user, &question(spec)).await;
    let (mut status, reason) = match answer.decision {
        Decision::Allow(reason) => (json!({"allowed": true}), reason),
        Decision::Deny(reason) => (json!({"allowed": false, "denied": true}), reason),
        Decision::NoOpinion(reason) => (json!({"allowed": false}), reason),
    };
    for (field, value) in [("reason", reason), ("evaluationError", answer.error)] {
        if !value.is_empty() {
            status[field] = value.into();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(review: Value, resource: &str) -> Vec<String> {
        let info = RequestInfo { resource: resource.into(), namespace: "a".into(), ..Default::default() };
        let errors = access_errors(&review, &info, resource != "selfsubjectaccessreviews");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_question_is_about_one_thing_and_somebody() {
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "a"});
        let path = json!({"verb": "get", "path": "/x"});
        let one = |spec: Value, resource: &str| wrong(json!({"spec": spec}), resource);
        assert!(one(json!({"user": "ann", "resourceAttributes": pods}), "subjectaccessreviews").is_empty());
        assert!(one(json!({"groups": ["g"], "nonResourceAttributes": path}), "subjectaccessreviews").is_empty());
        assert!(one(json!({"resourceAttributes": pods}), "selfsubjectaccessreviews").is_empty());
        let said = one(json!({"resourceAttributes": pods}), "subjectaccessreviews");
        assert_eq!(said, [r#"spec.user: Invalid value: "": at least one of user or group must be specified"#]);
        let said = one(json!({"user": "ann"}), "subjectaccessreviews");
        assert!(said[0].contains("exactly one of nonResourceAttributes or resourceAttributes"), "{said:?}");
        let both = json!({"user": "ann", "resourceAttributes": pods, "nonResourceAttributes": path});
        assert!(one(both, "subjectaccessreviews")[0].contains("cannot be specified in combination"));
        let local = json!({"user": "ann", "resourceAttributes": {"namespace": "b"}});
        assert!(one(local, "localsubjectaccessreviews")[0].contains("must match metadata.namespace"));
        let named = json!({"metadata": {"name": "x"}, "spec": {"resourceAttributes": pods}});
        assert!(wrong(named, "selfsubjectaccessreviews")[0].contains("metadata: Invalid value"));
    }
}
