//! The API as it stands on the wire: paths of collections, lists, and the events of a watch.

use std::sync::Arc;

use api::{Object, Status};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::api::{Event, Gvr, List, ListParams, percent_encode};

/// Longest event of a watch; servers take no object of more than 3 MiB.
const EVENT_MAX: usize = 16 << 20;

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: ListHead,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListHead {
    resource_version: String,
    r#continue: String,
}

#[derive(Deserialize)]
struct Frame<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn object_of(raw: &RawValue) -> Result<Arc<Object>, Status> {
    // A copy: a small object must not keep a large answer in memory.
    let bytes = Bytes::copy_from_slice(raw.get().as_bytes());
    Ok(Arc::new(Object::from_bytes(bytes).map_err(|e| Status::internal(format!("the server sent no object: {e}")))?))
}

/// What a connection that ended early means.
pub fn lost(e: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the connection to the server was lost: {e}"))
}

/// A path with the parameters that have a value.
pub fn with_query(mut path: String, query: &[(&str, &str)]) -> String {
    for (i, (k, v)) in query.iter().filter(|(_, v)| !v.is_empty()).enumerate() {
        path.push(if i == 0 { '?' } else { '&' });
        path += &format!("{k}={}", percent_encode(v));
    }
    path
}

/// The path of a list or watch, with further parameters.
pub fn collection(gvr: &Gvr, params: &ListParams, more: &[(&str, &str)]) -> String {
    let limit = if params.limit == 0 { String::new() } else { params.limit.to_string() };
    let mut query = vec![
        ("labelSelector", params.label_selector.as_str()),
        ("fieldSelector", &params.field_selector),
        ("limit", &limit),
        ("continue", &params.continue_token),
        ("resourceVersion", &params.resource_version),
    ];
    query.extend(more);
    with_query(gvr.path(&params.namespace, "", ""), &query)
}

/// Reads a list.
///
/// # Errors
/// When it is none.
pub fn list(bytes: &[u8]) -> Result<List, Status> {
    let list: RawList<'_> = serde_json::from_slice(bytes).map_err(Status::internal)?;
    let items = list.items.into_iter().flatten().map(object_of).collect::<Result<Vec<_>, _>>()?;
    Ok(List { items, resource_version: list.metadata.resource_version, continue_token: list.metadata.r#continue })
}

/// Reads a watch, one JSON document a line, until it ends or nobody listens.
///
/// # Errors
/// When the connection is lost, or an event is too large.
pub async fn follow<B>(mut body: B, events: &mpsc::Sender<Result<Event, Status>>) -> Result<(), Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut buffer = BytesMut::new();
    let mut searched = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(lost)?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer[searched..].iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(searched + end + 1);
            searched = 0;
            if line.trim_ascii().is_empty() {
                continue;
            }
            if events.send(event(&line)).await.is_err() {
                return Ok(());
            }
        }
        searched = buffer.len();
        if searched > EVENT_MAX {
            return Err(Status::internal("an event of the watch is too large"));
        }
    }
    Ok(())
}

fn event(line: &[u8]) -> Result<Event, Status> {
    let frame: Frame<'_> = serde_json::from_slice(line).map_err(Status::internal)?;
    match frame.r#type {
        "ADDED" => Ok(Event::Added(object_of(frame.object)?)),
        "MODIFIED" => Ok(Event::Modified(object_of(frame.object)?)),
        "DELETED" => Ok(Event::Deleted(object_of(frame.object)?)),
        "BOOKMARK" => Ok(Event::Bookmark(object_of(frame.object)?.meta().resource_version.to_owned())),
        "ERROR" => Err(serde_json::from_str(frame.object.get()).map_err(Status::internal)?),
        other => Err(Status::internal(format!("the watch sent an event of the unknown type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_watch() {
        let read = |s: &str| event(s.as_bytes());
        let object = r#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}"#;
        let added = read(&format!(r#"{{"type":"ADDED","object":{object}}}"#)).unwrap();
        assert!(matches!(added, Event::Added(o) if o.key() == "n/a" && o.revision() == 7));
        let mark = read(&format!(r#"{{"type":"BOOKMARK","object":{object}}}"#)).unwrap();
        assert!(matches!(mark, Event::Bookmark(rv) if rv == "7"));
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#;
        assert!(read(gone).unwrap_err().is_gone());
        assert!(read(r#"{"type":"?","object":{}}"#).is_err());
    }

    #[test]
    fn paths_of_collections() {
        let pods = Gvr::new("", "v1", "pods");
        assert_eq!(collection(&pods, &ListParams::all(), &[]), "/api/v1/pods");
        let own = ListParams { namespace: "a".into(), ..ListParams::field("spec.nodeName", "n1") };
        let path = collection(&pods, &own, &[("watch", "true")]);
        assert_eq!(path, "/api/v1/namespaces/a/pods?fieldSelector=spec.nodeName%3Dn1&watch=true");
    }
}
