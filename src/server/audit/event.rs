//! `audit.k8s.io/v1` `Event`, with upstream's fields in upstream's order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::policy::{Level, Stage};
use crate::request::{RequestInfo, User};

/// What is known of a request from its beginning.
pub(super) struct Source {
    pub(super) id: Arc<str>,
    pub(super) uri: String,
    pub(super) verb: String,
    pub(super) user: User,
    pub(super) impersonated: Option<User>,
    pub(super) addresses: Vec<String>,
    pub(super) user_agent: String,
    pub(super) object: Option<ObjectRef>,
    pub(super) received: Timestamp,
}

impl Source {
    pub(super) fn new(user: &User, info: &RequestInfo, id: Arc<str>, uri: &str) -> Source {
        Source {
            id,
            uri: uri.to_owned(),
            verb: info.verb.clone(),
            user: user.clone(),
            impersonated: None,
            addresses: Vec::new(),
            user_agent: String::new(),
            object: info.is_resource.then(|| ObjectRef {
                resource: info.resource.clone(),
                namespace: info.namespace.clone(),
                name: info.name.clone(),
                api_group: info.group.clone(),
                api_version: info.version.clone(),
                subresource: info.subresource.clone(),
            }),
            received: Timestamp::now(),
        }
    }
}

/// What only an event that stands alone begins with.
const ALONE: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
/// What a list begins with.
const LIST: &[u8] = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectRef {
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

impl ObjectRef {
    pub(super) fn named(&self, name: &str) -> ObjectRef {
        ObjectRef { name: name.to_owned(), ..self.clone() }
    }
}

/// Upstream's `UserInfo`.
#[derive(Serialize)]
struct UserInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> From<&'a User> for UserInfo<'a> {
    fn from(u: &'a User) -> UserInfo<'a> {
        UserInfo { username: &u.name, uid: &u.uid, groups: &u.groups, extra: &u.extra }
    }
}

#[derive(Serialize)]
struct Nothing {}

/// The part of a Status that is recorded.
#[derive(Serialize)]
struct ResponseStatus<'a> {
    metadata: Nothing,
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a api::status::Details>,
    code: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: UserInfo<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<UserInfo<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[_]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<&'a ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<ResponseStatus<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'a RawValue>,
    #[serde(serialize_with = "microseconds")]
    request_received_timestamp: Timestamp,
    #[serde(serialize_with = "microseconds")]
    stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

fn microseconds<S: Serializer>(t: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&api::time::rfc3339_micro(*t))
}

/// What is known of a request later.
#[derive(Default)]
pub(super) struct Known {
    pub(super) object: Option<ObjectRef>,
    pub(super) failure: Option<api::Status>,
    pub(super) request: Option<Box<RawValue>>,
    pub(super) response: Option<Box<RawValue>>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// The event of a stage as one line. `code`: of the answer, once there is one.
pub(super) fn line(source: &Source, known: &Known, level: Level, stage: Stage, code: Option<u16>) -> Vec<u8> {
    let failure = known.failure.as_ref();
    let text = |of: fn(&api::Status) -> &str| failure.map(of).unwrap_or_default();
    let event = Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level,
        audit_id: &source.id,
        stage,
        request_uri: &source.uri,
        verb: &source.verb,
        user: (&source.user).into(),
        impersonated_user: source.impersonated.as_ref().map(UserInfo::from),
        source_ips: &source.addresses,
        user_agent: &source.user_agent,
        object_ref: known.object.as_ref().or(source.object.as_ref()),
        response_status: code.map(|code| ResponseStatus {
            metadata: Nothing {},
            status: text(|s| &s.status),
            message: text(|s| &s.message),
            reason: text(|s| &s.reason),
            details: failure.and_then(|s| s.details.as_ref()),
            code,
        }),
        request_object: known.request.as_deref(),
        response_object: known.response.as_deref(),
        request_received_timestamp: source.received,
        stage_timestamp: if stage == Stage::RequestReceived { source.received } else { Timestamp::now() },
        annotations: &known.annotations,
    };
    // Plain structs of texts: there is nothing in them that has no JSON.
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The event of a line as it stands in a list.
pub(super) fn item(line: &[u8]) -> Bytes {
    let line = line.trim_ascii_end();
    match line.strip_prefix(ALONE) {
        Some(rest) => [b"{", rest].concat().into(),
        None => Bytes::copy_from_slice(line),
    }
}

/// The list of some events.
pub(super) fn list(items: &[Bytes]) -> Bytes {
    let mut list = LIST.to_vec();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            list.push(b',');
        }
        list.extend_from_slice(item);
    }
    list.extend_from_slice(b"]}\n");
    list.into()
}
