//! `Status`: the one failure type of the API, with upstream's reasons, codes and messages.
//!
//! Upstream: `k8s.io/apimachinery/pkg/api/errors`, `metav1.Status`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::field::ErrorList;

/// One cause inside [`Details`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Human-readable description.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (plural) or kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds to wait before the request is tried again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// An API failure (or, for deletions, success) as it travels on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// `Success` or `Failure`.
    pub status: String,
    /// For people.
    pub message: String,
    /// For programs: `NotFound`, `Conflict`, `Invalid` ...
    pub reason: String,
    /// More about it.
    pub details: Option<Details>,
    /// The HTTP status code.
    pub code: u16,
    /// With what an expired list can go on, though not consistently.
    #[serde(skip)]
    pub continue_token: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `pods` or `deployments.apps`: how messages name a resource.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A failure with the given code, reason and message, without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Status {
        let (message, reason) = (message.into(), reason.into());
        Status { status: "Failure".into(), message, reason, details: None, code, continue_token: String::new() }
    }

    /// The wire form with `kind` and `apiVersion`.
    pub fn to_value(&self) -> Value {
        let mut v =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": self.status, "code": self.code});
        if !self.message.is_empty() {
            v["message"] = json!(self.message);
        }
        if !self.reason.is_empty() {
            v["reason"] = json!(self.reason);
        }
        if !self.continue_token.is_empty() {
            v["metadata"]["continue"] = json!(self.continue_token);
        }
        if let Some(d) = &self.details {
            v["details"] = serde_json::to_value(d).unwrap_or(Value::Null);
        }
        v
    }

    fn about(mut self, group: &str, resource: &str, name: &str) -> Status {
        self.details =
            Some(Details { name: name.into(), group: group.into(), kind: resource.into(), ..Default::default() });
        self
    }

    /// 404: the object does not exist.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        Status::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource)))
            .about(group, resource, name)
    }

    /// 404 for a path or resource that the server does not serve.
    pub fn no_such_resource() -> Status {
        let mut s = Status::new(404, "NotFound", "the server could not find the requested resource");
        s.details = Some(Details::default());
        s
    }

    /// 409: an object of this name exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        Status::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, resource)))
            .about(group, resource, name)
    }

    /// 409: the object is not as the writer believed.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        Status::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource)),
        )
        .about(group, resource, name)
    }

    /// 409 with upstream's words for a stale resourceVersion.
    pub fn stale(group: &str, resource: &str, name: &str) -> Status {
        Status::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422: validation failed. `kind` is the Kind, as upstream has it here.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Status {
        let mut list: Vec<String> = Vec::new();
        // What is found twice is a cause twice, but told once.
        for text in errors.iter().map(ToString::to_string) {
            if !list.contains(&text) {
                list.push(text);
            }
        }
        let text = match list.len() {
            1 => list[0].clone(),
            _ => format!("[{}]", list.join(", ")),
        };
        let mut s = Status::new(422, "Invalid", format!("{} {name:?} is invalid: {text}", qualified(group, kind)))
            .about(group, kind, name);
        if let Some(d) = &mut s.details {
            d.causes = errors
                .iter()
                .map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.field.clone() })
                .collect();
        }
        s
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 with a message in upstream's words, made by the authorizer or by admission.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let what = qualified(group, resource);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {name:?} is forbidden: {why}")
        };
        Status::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 405.
    pub fn method_not_allowed() -> Status {
        let mut s =
            Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        s.details = Some(Details::default());
        s
    }

    /// 405 for a verb that a resource does not have.
    pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> Status {
        let message = format!("{verb} is not supported on resources of kind {:?}", qualified(group, resource));
        Status::new(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &str) -> Status {
        Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &str) -> Status {
        Status::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
        )
    }

    /// 410: history has been compacted.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Status {
        Status::new(413, "RequestEntityTooLarge", message)
    }

    /// 429 with a wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut s = Status::new(429, "TooManyRequests", message);
        s.details = Some(Details { retry_after_seconds, ..Default::default() });
        s
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Status {
        let text = message.to_string();
        let mut s = Status::new(500, "InternalError", format!("Internal error occurred: {text}"));
        s.details = Some(Details { causes: vec![Cause { message: text, ..Default::default() }], ..Default::default() });
        s
    }

    /// 500 with a message of its own, without upstream's prefix.
    pub fn internal_plain(message: impl Into<String>) -> Status {
        Status::new(500, "InternalError", message)
    }

    /// 501: something this version does not do.
    pub fn not_implemented(what: impl Into<String>) -> Status {
        Status::new(501, "NotImplemented", what)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message)
    }

    /// 504: the request did not finish in time.
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut s = Status::new(504, "Timeout", format!("Timeout: {}", message.into()));
        s.details = Some(Details { retry_after_seconds, ..Default::default() });
        s
    }

    /// Whether this is a 404.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether this is a 409 because of a stale resourceVersion or precondition.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// Whether this is a 409 because the object exists.
    pub fn is_already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }

    /// Whether history has been compacted (410).
    pub fn is_gone(&self) -> bool {
        self.code == 410
    }
}
