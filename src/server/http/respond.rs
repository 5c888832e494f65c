//! Bodies: objects, lists, tables, metadata, errors.

use std::sync::Arc;

use api::{Convert, Object, Resource, Status};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::json_list::JsonList;
use super::negotiate::{Accepted, Form, Media, PROTOBUF};
use crate::registry::Page;

/// The body type of every response.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;
/// The response of every handler.
pub type Reply = Response<Body>;

/// A body of bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).boxed_unsync()
}

/// A response with a body of a media type.
pub fn bytes(code: u16, media: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut r = Response::new(full(body));
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r
}

/// A JSON response.
pub fn json(code: u16, value: &Value) -> Reply {
    bytes(code, "application/json", value.to_string())
}

/// An error.
pub fn status(s: &Status) -> Reply {
    let mut r = json(s.code, &s.to_value());
    if let Some(d) = &s.details
        && d.retry_after_seconds > 0
    {
        r.headers_mut().insert(RETRY_AFTER, HeaderValue::from(d.retry_after_seconds));
    }
    r
}

/// Adds `Warning: 299` headers.
pub fn warn(reply: &mut Reply, warnings: &[String]) {
    for w in warnings {
        let quoted = w.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ");
        if let Ok(v) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            reply.headers_mut().append(WARNING, v);
        }
    }
}

/// JSON in the accepted encoding; objects in protobuf are encoded where their kind is known.
fn rendered(code: u16, accepted: Accepted, body: Bytes) -> Reply {
    let (media, text) = match accepted.media {
        Media::Json | Media::Protobuf => return bytes(code, "application/json", body),
        Media::Pretty => ("application/json", serde_json::from_slice(&body).ok().and_then(|v| pretty(&v))),
        Media::Yaml => {
            let value = serde_json::from_slice::<Value>(&body).ok();
            ("application/yaml", value.and_then(|v| serde_saphyr::to_string(&v).ok()))
        }
    };
    match text {
        Some(t) => bytes(code, media, t),
        None => status(&Status::internal("the object cannot be written in the accepted encoding")),
    }
}

fn pretty(value: &Value) -> Option<String> {
    serde_json::to_string_pretty(value).ok().map(|t| t + "\n")
}

fn protobuf(code: u16, body: Result<Bytes, Status>) -> Reply {
    match body {
        Ok(b) => bytes(code, PROTOBUF, b),
        Err(s) => status(&s),
    }
}

/// The protobuf form of the kind of a resource, if it has one.
pub fn protobuf_kind(resource: &Resource) -> Option<api::protobuf::Kind> {
    // A custom resource may bear the name of a built-in kind.
    resource.schema.is_typed().then(|| api::protobuf::Kind::of(&resource.api_version(), &resource.kind)).flatten()
}

/// An object in protobuf; `None` for forms and kinds that have none.
pub fn protobuf_body(form: Form, resource: &Resource, json: &[u8]) -> Option<Result<Bytes, Status>> {
    match form {
        Form::Object => Some(protobuf_kind(resource)?.encode(&resource.api_version(), &resource.kind, json)),
        Form::Metadata(version) => {
            let kind = api::protobuf::Kind::of(version, "PartialObjectMetadata")?;
            Some(kind.encode(version, "PartialObjectMetadata", json))
        }
        Form::Table(_) => None,
    }
}

/// What a Table's rows carry besides their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata; the default.
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` parameter.
    pub fn parse(s: Option<&str>) -> IncludeObject {
        match s {
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        }
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial_metadata(object: &Value, api_version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": object["metadata"]})
}

/// A Table of objects. The column definitions are left out of all but a watch's first event.
pub fn table(
    resource: &Resource,
    objects: &[Arc<Object>],
    include: IncludeObject,
    columns: bool,
    list_meta: Value,
    api_version: &str,
) -> Value {
    let now = jiff::Timestamp::now();
    let definitions: Vec<Value> = resource
        .columns
        .iter()
        .map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let value = o.to_value();
            let mut row = json!({"cells": resource.strategy.cells(&value, now)});
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => row["object"] = partial_metadata(&value, api_version),
                IncludeObject::Object => row["object"] = crate::registry::served(resource, &value).into_owned(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": api_version,
        "metadata": list_meta,
        "columnDefinitions": if columns { Value::Array(definitions) } else { Value::Null },
        "rows": rows,
    })
}

/// The JSON of an object in the version that the resource serves; shared when it is the stored one.
pub fn served_bytes(resource: &Resource, o: &Object) -> Bytes {
    let version = match &resource.convert {
        None => return o.json(),
        Some(Convert::Custom(version)) if version.leaves(o) => return o.json(),
        Some(Convert::Custom(version)) => Some(version),
        Some(Convert::Builtin { .. }) => None,
    };
    let stored = o.to_value();
    let served = crate::registry::served(resource, &stored);
    match version {
        // Most objects are stored as they are served; of these it is found out once.
        Some(version) if *served == stored => {
            version.found_to_leave(o);
            o.json()
        }
        _ => Bytes::from(served.to_string()),
    }
}

/// One object in the accepted form.
pub fn object(code: u16, accepted: Accepted, resource: &Resource, o: &Arc<Object>, include: IncludeObject) -> Reply {
    if accepted.media == Media::Protobuf
        && let Some(body) = protobuf_body(accepted.form, resource, &served_bytes(resource, o))
    {
        return protobuf(code, body);
    }
    let body = match accepted.form {
        Form::Object => served_bytes(resource, o),
        Form::Metadata(version) => Bytes::from(partial_metadata(&o.to_value(), version).to_string()),
        Form::Table(version) => {
            let meta = json!({"resourceVersion": o.meta().resource_version});
            Bytes::from(table(resource, std::slice::from_ref(o), include, true, meta, version).to_string())
        }
    };
    rendered(code, accepted, body)
}

/// A page of a list in the accepted form.
pub fn list(
    accepted: Accepted,
    resource: &Resource,
    page: &Page,
    continue_token: &str,
    include: IncludeObject,
) -> Reply {
    let mut meta = json!({});
    // What is made up when it is read is of no revision.
    if page.revision != 0 {
        meta["resourceVersion"] = page.revision.to_string().into();
    }
    if !continue_token.is_empty() {
        meta["continue"] = continue_token.into();
        if let Some(n) = page.remaining {
            meta["remainingItemCount"] = n.into();
        }
    }
    if accepted.media == Media::Protobuf
        && let Some(body) = protobuf_list(accepted.form, resource, page, &meta)
    {
        return protobuf(200, body);
    }
    let body = match accepted.form {
        Form::Table(version) => Bytes::from(table(resource, &page.items, include, true, meta, version).to_string()),
        Form::Metadata(version) => {
            let items: Vec<Value> = page.items.iter().map(|o| partial_metadata(&o.to_value(), version)).collect();
            Bytes::from(
                json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": meta, "items": items})
                    .to_string(),
            )
        }
        Form::Object => match JsonList::new(resource, page, &meta) {
            list if matches!(accepted.media, Media::Json | Media::Protobuf) => return list.reply(),
            list => list.into_bytes(),
        },
    };
    rendered(200, accepted, body)
}

fn protobuf_list(form: Form, resource: &Resource, page: &Page, meta: &Value) -> Option<Result<Bytes, Status>> {
    let meta = meta.to_string();
    let items = page.items.iter().map(|o| served_bytes(resource, o));
    match form {
        Form::Object => {
            let kind = protobuf_kind(resource)?;
            Some(kind.encode_list(&resource.api_version(), &resource.list_kind, meta.as_bytes(), items))
        }
        Form::Metadata(version) => {
            let kind = api::protobuf::Kind::of(version, "PartialObjectMetadata")?;
            Some(kind.encode_list(version, "PartialObjectMetadataList", meta.as_bytes(), items))
        }
        Form::Table(_) => None,
    }
}
