//! Component statuses: the health of the components of this process, asked when it is read
//! (upstream: `pkg/registry/core/componentstatus`, deprecated since v1.19).
//!
//! `etcd-0` is the store, which must answer a read. The others are healthy while all of their
//! tasks go on; upstream asks their health endpoints, which are no more than that.

use std::sync::Arc;

use api::{Object, Resource, Status};
use serde_json::{Value, json};

use crate::Server;
use crate::http::negotiate::Accepted;
use crate::http::respond::{self, IncludeObject, Reply};
use crate::http::{Call, list_options};
use crate::registry::Page;

/// What the store is called.
const STORE: &str = "etcd-0";

/// Answers `get` and `list`.
///
/// # Errors
/// A component that there is not; options that are none.
pub async fn serve(
    server: &Server,
    call: &Call,
    resource: &Resource,
    accepted: Accepted,
    include: IncludeObject,
) -> Result<Reply, Status> {
    let all = statuses(server).await?;
    let name = &call.info.name;
    if call.info.verb == "get" {
        let found = all.iter().find(|o| o.meta().name == *name);
        let found = found.ok_or_else(|| Status::new(500, "", format!("Component not found: {name}")))?;
        return Ok(respond::object(200, accepted, resource, found, include));
    }
    list_options::ListOptions::parse(&call.query, false)?;
    let selection = server.selection(call, resource)?;
    let items = all.into_iter().filter(|o| selection.selects(resource, o)).collect();
    let page = Page { items, revision: 0, next: None, remaining: None };
    Ok(respond::list(accepted, resource, &page, "", include))
}

async fn statuses(server: &Server) -> Result<Vec<Arc<Object>>, Status> {
    let of_tasks = |check: Result<(), String>| match check {
        Ok(()) => json!({"status": "True", "message": "ok"}),
        Err(why) => json!({"status": "False", "message": why}),
    };
    let mut all: Vec<(&str, Value)> =
        server.config().components.iter().map(|(name, liveness)| (*name, of_tasks(liveness.check()))).collect();
    let store = match server.registry().storage().ping().await {
        Ok(()) => json!({"status": "True", "message": "ok"}),
        Err(s) => json!({"status": "False", "error": s.message}),
    };
    all.push((STORE, store));
    let object = |(name, mut condition): (&str, Value)| {
        condition["type"] = "Healthy".into();
        let value = json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name},
            "conditions": [condition]});
        Object::from_value(&value).map(Arc::new).map_err(Status::internal)
    };
    all.into_iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use client::liveness::Liveness;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::testing::Testing;

    const PATH: &str = "/api/v1/componentstatuses";

    #[tokio::test]
    async fn components_are_healthy_while_their_tasks_go_on() {
        let (scheduler, cancel) = (Liveness::default(), CancellationToken::new());
        let t = Testing::configured(|c| c.components = vec![("scheduler", scheduler.clone())]).await;
        let condition = |list: &Value| list["items"][0]["conditions"][0].clone();
        let (_, list) = t.http("GET", PATH, "", &Value::Null).await;
        assert_eq!(list["metadata"], json!({}));
        assert_eq!(condition(&list), json!({"type": "Healthy", "status": "False", "message": "not started"}));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(scheduler.keep("cycle", &cancel, async { drop(stopped.await) }));
        let (_, list) = t.http("GET", PATH, "", &Value::Null).await;
        assert_eq!(condition(&list), json!({"type": "Healthy", "status": "True", "message": "ok"}));
        stop.send(()).unwrap();
        task.await.unwrap();
        let (_, one) = t.http("GET", &format!("{PATH}/scheduler"), "", &Value::Null).await;
        assert_eq!(one["conditions"][0]["message"], "tasks have ended: cycle");
    }

    #[tokio::test]
    async fn the_store_is_asked_and_the_kind_is_read_only() {
        let t = Testing::start().await;
        let (code, store) = t.http("GET", &format!("{PATH}/etcd-0"), "", &Value::Null).await;
        assert_eq!((code, &store["conditions"][0]["status"]), (200, &json!("True")), "{store}");
        let (code, none) = t.http("GET", &format!("{PATH}/nope"), "", &Value::Null).await;
        assert_eq!((code, &none["message"]), (500, &json!("Component not found: nope")));
        let (_, watched) = t.http("GET", &format!("{PATH}?watch=1"), "", &Value::Null).await;
        assert_eq!(watched["message"], "watch is not supported on resources of kind \"componentstatuses\"");
        let (_, list) = t.http("GET", &format!("{PATH}?fieldSelector=metadata.name%3Dx"), "", &Value::Null).await;
        assert_eq!(list["items"], json!([]));
        for (method, path) in [("GET", "?watch=true"), ("POST", ""), ("DELETE", "/etcd-0"), ("DELETE", "")] {
            let (code, _) = t.http(method, &format!("{PATH}{path}"), "application/json", &json!({})).await;
            assert_eq!(code, 405, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn whoever_asks_is_warned() {
        let t = Testing::start().await;
        let request = http::Request::builder().uri(PATH).body(crate::http::RequestBody::empty()).unwrap();
        let reply = t.server.serve_as(crate::testing::admin(), request).await;
        assert_eq!(reply.headers()["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    }
}
