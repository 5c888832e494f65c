//! HTTP: from a request to the registry and back.
//!
//! * [`deadline`] – how long it may take; [`list_options`] – the options of lists and watches; [`negotiate`] – representations; [`respond`], [`json_list`] – bodies; [`encoding`] – how they travel; [`watch`] – watch streams.
//! * here – the chain identity → authorization → dispatch, and the verbs.

pub mod deadline;
pub mod encoding;
#[cfg(test)]
mod fuzz_tests;
pub mod json_list;
#[cfg(test)]
mod limits_tests;
pub mod list_options;
pub mod negotiate;
pub mod respond;
#[cfg(test)]
mod tests;
pub mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use api::codec::{Configuration, Decoded};
use api::field::FieldError;
use api::schema::TypeRef;
use api::{Resource, Status, Subresource};
use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use self::list_options::ListOptions;
use self::negotiate::{Accepted, Media};
use self::respond::{IncludeObject, Reply};
use crate::Server;
use crate::admission::Warnings;
use crate::aggregation;
use crate::audit::{self, Record};
use crate::registry::{At, DeleteOptions, Deleted, FieldValidation, Selection, WriteContext, Written};
use crate::request::{Query, RequestInfo, User, single_name};
use crate::subresources;

/// What a client is told whose request ended in a panic; the log has the rest.
pub const PANICKED: &str = "This request caused apiserver to panic. Look in the logs for details.";
/// Server-side apply.
pub const APPLY: &str = "application/apply-patch+yaml";
/// Longest name of a field manager.
const MANAGER_MAX: usize = 128;

/// Largest request body that is read, as upstream.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// A request as it came, before anybody knows whose it is.
struct Arrival {
    parts: Parts,
    query: Query,
    info: RequestInfo,
}

impl Arrival {
    fn of(parts: Parts) -> Arrival {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let info = RequestInfo::new(&parts.method, parts.uri.path(), &query);
        Arrival { parts, query, info }
    }
}

/// A request on its way through the handlers.
#[derive(Debug)]
pub struct Call {
    /// Method, URI, headers, extensions.
    pub parts: Parts,
    /// The query parameters.
    pub query: Query,
    /// What is asked for.
    pub info: RequestInfo,
    /// Who asks.
    pub user: User,
    /// What admission warns of; the reply carries it, whatever comes of the request.
    pub warnings: Arc<Warnings>,
    /// Where the request is recorded, if it is.
    pub audit: Option<Arc<Record>>,
}

impl Call {
    /// How the client wants objects of a resource shown.
    ///
    /// # Errors
    /// 406.
    pub fn accepted(&self, resource: &Resource) -> Result<Accepted, Status> {
        let headers = &self.parts.headers;
        let accepted = negotiate::accepted(headers, respond::protobuf_kind(resource).is_some())?;
        if accepted.media == Media::Json && negotiate::is_pretty(headers, &self.query) {
            return Ok(Accepted { media: Media::Pretty, ..accepted });
        }
        Ok(accepted)
    }
}

/// The request's body type: anything hyper or a test brings.
pub type RequestBody = axum::body::Body;

impl Server {
    /// Serves one request.
    pub async fn serve(self: &Arc<Self>, request: Request<RequestBody>) -> Reply {
        let (mut parts, body) = request.into_parts();
        let id = audit::name(&mut parts);
        let wishes = encoding::Wishes::of(&parts.headers);
        let arrival = Arrival::of(parts);
        let limit = deadline::of(&arrival.query, &arrival.info);
        let requests = &self.metrics().requests;
        let observed = requests.begin(self, &arrival.parts, &arrival.info, &arrival.query);
        let server = self.clone();
        let answer = async move { server.route(arrival, body).await.unwrap_or_else(|s| respond::status(&s)) };
        let mut reply = match limit {
            Ok(Some(limit)) => deadline::within(limit, answer).await,
            Ok(None) => answer.await,
            Err(s) => respond::status(&s),
        };
        requests.end(&observed, &reply);
        audit::show_name(&mut reply, id);
        wishes.fulfil(reply).await
    }

    /// Serves a request of a user that is known already: a caller in the same process.
    pub async fn serve_as(self: &Arc<Self>, user: User, request: Request<RequestBody>) -> Reply {
        let (parts, body) = request.into_parts();
        self.route_as(user, Arrival::of(parts), body).await
    }

    async fn route(self: &Arc<Self>, mut arrival: Arrival, body: RequestBody) -> Result<Reply, Status> {
        let user = match self.identify(&mut arrival.parts).await {
            Ok(user) => user,
            Err(s) => {
                self.audit().unidentified(&arrival.parts, &s).await;
                return Err(s);
            }
        };
        let admitted = match self.flow_control().admit(self, &user, &arrival.info, &arrival.query).await {
            Ok(admitted) => admitted,
            Err(refused) => {
                return Ok(match self.audit().begin(&user, &arrival.info, &arrival.parts).await? {
                    Some(record) => record.answer(refused, false).await,
                    None => refused,
                });
            }
        };
        // Of a watch, only the beginning takes a seat: that of its answer.
        let mut reply = self.route_as(user, arrival, body).await;
        if let Some(admitted) = admitted {
            admitted.mark(&mut reply);
        }
        Ok(reply)
    }

    async fn route_as(self: &Arc<Self>, user: User, arrival: Arrival, body: RequestBody) -> Reply {
        let Arrival { parts, query, info } = arrival;
        let audit = match self.audit().begin(&user, &info, &parts).await {
            Ok(audit) => audit,
            Err(s) => return respond::status(&s),
        };
        let long = deadline::is_long_running(&info);
        let call = Call { parts, query, info, user, warnings: Arc::default(), audit: audit.clone() };
        let served = AssertUnwindSafe(self.dispatch(call, body)).catch_unwind().await;
        let Some(record) = audit else {
            let panicked = |_| Err(Status::internal_plain(PANICKED));
            return served.unwrap_or_else(panicked).unwrap_or_else(|s| respond::status(&s));
        };
        let Ok(reply) = served else { return record.panicked().await };
        let reply = reply.unwrap_or_else(|s| {
            record.failed(&s);
            respond::status(&s)
        });
        record.answer(reply, long).await
    }

    async fn dispatch(self: &Arc<Self>, mut call: Call, body: RequestBody) -> Result<Reply, Status> {
        self.authorize_recorded(&call.user, &call.info, call.audit.as_deref()).await?;
        if let Some(backend) = self.aggregation().backend_of(&call.info.path) {
            // Boxed, here and below, is what happens rarely: each request has room for what is not.
            return Ok(Box::pin(aggregation::proxy::serve(self, call, &backend, body)).await);
        }
        if !call.info.is_resource {
            return Box::pin(self.serve_path(call, body)).await;
        }
        let resource = self.resource(&call.info.group, &call.info.version, &call.info.resource)?;
        if let Some(warning) = &resource.deprecation {
            call.warnings.add(warning.clone());
        }
        if !resource.namespaced {
            // The path of a namespace names it as both; authorization has seen that.
            call.info.namespace.clear();
        }
        if call.info.subresource == "proxy" || subresources::is_connect(&call.info.subresource) {
            return Box::pin(subresources::connect(self, call, &resource, body)).await;
        }
        let body = read_body(body).await?;
        if let Some(record) = &call.audit {
            record.request(&body, |b| decode_tree(&call, b).ok());
        }
        // The name in a field selector is for authorization only; that in an old watch path selects.
        if !call.info.field_selector.is_empty() {
            call.info.name.clear();
        }
        let (warnings, record) = (call.warnings.clone(), call.audit.clone());
        let mut reply = self.verb(call, resource, body).await.unwrap_or_else(|s| {
            if let Some(r) = &record {
                r.failed(&s);
            }
            respond::status(&s)
        });
        respond::warn(&mut reply, &warnings.all());
        Ok(reply)
    }

    async fn verb(self: &Arc<Self>, call: Call, resource: Arc<Resource>, body: Bytes) -> Result<Reply, Status> {
        let accepted = call.accepted(&resource)?;
        let include = IncludeObject::parse(call.query.get("includeObject"));
        let i = &call.info;
        if resource.namespaced
            && i.namespace.is_empty()
            && !matches!(i.verb.as_str(), "list" | "watch")
            && resource.stored
        {
            return Err(Status::no_such_resource());
        }
        if !i.subresource.is_empty() {
            match resource.subresource(&i.subresource) {
                None => return Err(Status::no_such_resource()),
                Some(Subresource::Status | Subresource::Aspect(_)) => {}
                Some(other) => return Box::pin(subresources::serve(self, &call, &resource, other, &body)).await,
            }
        } else if !resource.stored {
            return Box::pin(subresources::serve_virtual(self, &call, &resource, &body, accepted, include)).await;
        }
        let allowed = if i.subresource.is_empty() {
            resource.verbs.contains(&i.verb.as_str())
        } else {
            matches!(i.verb.as_str(), "get" | "update" | "patch")
        };
        if !allowed {
            return Err(Status::method_not_allowed());
        }
        match i.verb.as_str() {
            "get" => {
                let at = list_options::get_position(&call.query)?;
                let o = self.registry().get_at(&resource, &i.namespace, &i.name, at).await?;
                let o = self.registry().conversions()?.served_one(&resource, o).await?;
                Ok(respond::object(200, accepted, &resource, &o, include))
            }
            "list" => self.list(&call, &resource, accepted, include).await,
            "watch" => {
                let options = ListOptions::parse(&call.query, true)?;
                let selection = self.selection(&call, &resource)?;
                let accepted = negotiate::streamed(accepted)?;
                let (open, events) = self.metrics().requests.watch(&resource, i);
                let counted = (open, events, self.flow_control().watching(i, &call.query));
                let registry = self.registry();
                Box::pin(watch::serve(registry, &resource, selection, &options, accepted, include, counted)).await
            }
            "create" | "update" | "patch" => {
                let written = self.write(&call, &resource, &body).await?;
                if let Some(record) = &call.audit {
                    record.names(&written.object);
                }
                let code = if written.created { 201 } else { 200 };
                let object = self.registry().conversions()?.served_one(&resource, written.object).await?;
                let mut reply = respond::object(code, accepted, &resource, &object, include);
                respond::warn(&mut reply, &written.warnings);
                Ok(reply)
            }
            "delete" => {
                let options = self.delete_options(&call, &body)?;
                let mut ctx = self.write_context(&call)?;
                ctx.dry_run |= options.dry_run;
                let deleted = self.registry().delete(&ctx, &resource, &i.namespace, &i.name, &options).await?;
                if let Some(gone) = delete_reply(&deleted, &resource) {
                    return Ok(gone);
                }
                let object = self.registry().conversions()?.served_one(&resource, deleted.object().clone()).await?;
                Ok(respond::object(200, accepted, &resource, &object, include))
            }
            "deletecollection" => Box::pin(self.delete_collection(&call, &resource, &body, accepted)).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// The selection that a request's parameters name.
    ///
    /// # Errors
    /// 400.
    pub fn selection(&self, call: &Call, resource: &Resource) -> Result<Selection, Status> {
        let mut fields = call.query.get("fieldSelector").unwrap_or_default().to_owned();
        // A watch of one object, by the old path form.
        if !call.info.name.is_empty() {
            if single_name(&fields).is_none_or(|n| n != call.info.name) && !fields.is_empty() {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
            fields = format!("metadata.name={}", call.info.name);
        }
        Selection::new(resource, &call.info.namespace, call.query.get("labelSelector").unwrap_or_default(), &fields)
    }

    async fn list(
        &self,
        call: &Call,
        resource: &Arc<Resource>,
        accepted: Accepted,
        include: IncludeObject,
    ) -> Result<Reply, Status> {
        let options = ListOptions::parse(&call.query, false)?;
        let selection = self.selection(call, resource)?;
        let prefix = selection.key_prefix();
        let position = options.position(&prefix)?;
        let mut page = self
            .registry()
            .list(resource, &selection, position.at, position.limit, position.start.as_deref())
            .await
            .map_err(|s| list_options::gone(s, &position, &prefix))?;
        page.items = self.registry().conversions()?.served(resource, page.items).await?;
        let token = list_options::continue_token(&page, &prefix);
        Ok(respond::list(accepted, resource, &page, &token, include))
    }

    /// The circumstances that a request's parameters name.
    ///
    /// # Errors
    /// 400 for bad values.
    pub fn write_context(&self, call: &Call) -> Result<WriteContext, Status> {
        let mut ctx = WriteContext::new(call.user.clone());
        ctx.warnings = call.warnings.clone();
        ctx.audit = call.audit.clone();
        ctx.field_validation = match call.query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
                )));
            }
        };
        for v in call.query.all("dryRun") {
            match v {
                "All" => ctx.dry_run = true,
                "" => {}
                other => {
                    return Err(Status::bad_request(format!(
                        "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                    )));
                }
            }
        }
        let agent = call.parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match call.query.get("fieldManager").filter(|m| !m.is_empty()) {
            Some(m) => ctx.field_manager = field_manager(m)?,
            // As upstream: the program's name. In-process callers have one by who they are.
            None if !agent.is_empty() => ctx.field_manager = agent.split('/').next().unwrap_or_default().to_owned(),
            None => {}
        }
        Ok(ctx)
    }

    async fn write(self: &Arc<Self>, call: &Call, resource: &Arc<Resource>, body: &Bytes) -> Result<Written, Status> {
        let ctx = self.write_context(call)?;
        let i = &call.info;
        match i.verb.as_str() {
            "create" => {
                let decoded = decode_body(call, resource, body)?;
                self.registry().create(&ctx, resource, &i.namespace, &i.name, decoded).await
            }
            "update" => {
                let decoded = decode_body(call, resource, body)?;
                let create = i.subresource.is_empty() && resource.strategy.creates_on_update();
                // Nearly always it is wanted once; another attempt decodes it again.
                let first = Mutex::new(Some(decoded));
                let change = |_: &Value| match first.lock().unwrap_or_else(|e| e.into_inner()).take() {
                    Some(decoded) => Ok(decoded),
                    None => decode_body(call, resource, body),
                };
                self.registry().update(&ctx, resource, &i.namespace, &i.name, &i.subresource, create, &change).await
            }
            _ if negotiate::media_type(&call.parts.headers) == APPLY => {
                let config = decode_applied(call, &ctx, &resource.schema, body)?;
                let force = call.query.flag("force");
                let (ns, name, sub) = (&i.namespace, &i.name, &i.subresource);
                Box::pin(self.registry().apply(&ctx, resource, ns, name, sub, config, force)).await
            }
            _ => {
                if call.query.flag("force") {
                    let e = FieldError::forbidden("force", "may not be specified for non-apply patch");
                    return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &vec![e]));
                }
                let change = patch_of(call, resource, body)?;
                self.registry().update(&ctx, resource, &i.namespace, &i.name, &i.subresource, false, &*change).await
            }
        }
    }

    fn delete_options(&self, call: &Call, body: &Bytes) -> Result<DeleteOptions, Status> {
        let mut v = if body.is_empty() { json!({}) } else { decode_tree(call, body)? };
        let q = &call.query;
        if let Some(n) = q.get("gracePeriodSeconds") {
            let n: i64 = n.parse().map_err(|_| Status::bad_request("gracePeriodSeconds must be a number"))?;
            v["gracePeriodSeconds"] = n.into();
        }
        if let Some(p) = q.get("propagationPolicy") {
            v["propagationPolicy"] = p.into();
        }
        if q.get("orphanDependents").is_some() {
            v["orphanDependents"] = q.flag("orphanDependents").into();
        }
        DeleteOptions::from_value(&v)
    }

    async fn delete_collection(
        &self,
        call: &Call,
        resource: &Arc<Resource>,
        body: &Bytes,
        accepted: Accepted,
    ) -> Result<Reply, Status> {
        let options = self.delete_options(call, body)?;
        let mut ctx = self.write_context(call)?;
        ctx.dry_run |= options.dry_run;
        let selection = self.selection(call, resource)?;
        let mut page = self.registry().list(resource, &selection, At::Consistent, 0, None).await?;
        let mut items = Vec::with_capacity(page.items.len());
        for o in &page.items {
            let m = o.meta();
            match self.registry().delete(&ctx, resource, m.namespace, m.name, &options).await {
                Ok(d) => items.push(d.object().clone()),
                // Somebody else was faster.
                Err(s) if s.is_not_found() => {}
                Err(s) => return Err(s),
            }
        }
        page.items = self.registry().conversions()?.served(resource, items).await?;
        Ok(respond::list(accepted, resource, &page, "", IncludeObject::Metadata))
    }
}

/// What is told of an object that is gone; `None` where that is the object.
fn delete_reply(deleted: &Deleted, resource: &Resource) -> Option<Reply> {
    match deleted {
        Deleted::Gone(o) if !resource.strategy.returns_deleted() => {
            let m = o.meta();
            let details = details(resource, m.name, m.uid);
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Some(respond::json(200, &status))
        }
        _ => None,
    }
}

fn details(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut d = json!({"name": name, "kind": resource.plural, "uid": uid});
    if !resource.group.is_empty() {
        d["group"] = resource.group.clone().into();
    }
    d
}

/// Reads a whole body.
///
/// # Errors
/// 413, or 400 when the client went away.
pub async fn read_body(body: RequestBody) -> Result<Bytes, Status> {
    let limited = Limited::new(body, MAX_BODY).collect().await;
    limited.map(http_body_util::Collected::to_bytes).map_err(|e| {
        if e.is::<http_body_util::LengthLimitError>() {
            Status::too_large(format!("Request entity too large: limit is {MAX_BODY}"))
        } else {
            Status::bad_request(format!("the body of the request could not be read: {e}"))
        }
    })
}

/// Decodes a body as an object of a resource.
///
/// # Errors
/// 400, 415.
pub fn decode_body(call: &Call, resource: &Resource, body: &[u8]) -> Result<Decoded, Status> {
    match negotiate::body(&call.parts.headers)? {
        negotiate::Body::Protobuf => api::codec::check(api::protobuf::decode(body)?, &resource.schema),
        format => api::codec::decode(body, format == negotiate::Body::Yaml, &resource.schema),
    }
}

/// Decodes a body as a configuration that is to be applied to an object of a type.
///
/// # Errors
/// 400, 422, 500 as upstream.
pub fn decode_applied(call: &Call, ctx: &WriteContext, t: &TypeRef, body: &[u8]) -> Result<Configuration, Status> {
    if call.query.get("fieldManager").is_none_or(str::is_empty) {
        let e = FieldError::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &vec![e]));
    }
    api::codec::decode_applied(body, t, ctx.field_validation == FieldValidation::Strict)
}

/// Decodes a body as a tree, whatever it is of.
///
/// # Errors
/// 400, 415.
pub fn decode_tree(call: &Call, body: &[u8]) -> Result<Value, Status> {
    match negotiate::body(&call.parts.headers)? {
        negotiate::Body::Protobuf => api::protobuf::decode(body),
        format => api::codec::parse_tree(body, format == negotiate::Body::Yaml),
    }
}

/// The name of a field manager, checked as upstream does.
fn field_manager(name: &str) -> Result<String, Status> {
    let invalid = |e: FieldError| Status::invalid("meta.k8s.io", "PatchOptions", "", &vec![e]);
    if name.len() > MANAGER_MAX {
        return Err(invalid(FieldError::too_long("fieldManager", MANAGER_MAX)));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(FieldError::invalid("fieldManager", name, "should only contain printable characters")));
    }
    Ok(name.to_owned())
}

type Change = dyn Fn(&Value) -> Result<Decoded, Status> + Send + Sync;

/// The change that a PATCH asks for.
///
/// # Errors
/// 415 for patch types that are not served, 400 for a body that is no patch.
pub fn patch_of(call: &Call, resource: &Resource, body: &[u8]) -> Result<Box<Change>, Status> {
    const PATCHES: [&str; 3] =
        ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];
    let schema = resource.schema.clone();
    let kind = negotiate::media_type(&call.parts.headers).to_owned();
    // Only Go types have the keys that a strategic merge needs.
    let served = if schema.is_typed() { &PATCHES[..] } else { &PATCHES[..2] };
    if !served.contains(&kind.as_str()) {
        return Err(Status::unsupported_media_type(&[served, &[APPLY]].concat().join(", ")));
    }
    let strict = call.query.get("fieldValidation") == Some("Strict");
    let of = (resource.storage_group.clone(), resource.kind.clone());
    let patch = api::codec::parse_tree(body, false)?;
    let (fits, prefix, go_type) = match kind.as_str() {
        "application/json-patch+json" => (patch.is_array(), "error decoding patch: ", "[]handlers.jsonPatchOp"),
        _ => (patch.is_object(), "", "map[string]interface {}"),
    };
    if !fits {
        let is = api::codec::json_kind(&patch);
        return Err(Status::bad_request(format!(
            "{prefix}json: cannot unmarshal {is} into Go value of type {go_type}"
        )));
    }
    Ok(Box::new(move |current| {
        let merged = match kind.as_str() {
            "application/json-patch+json" => api::patch::json(current, &patch)?,
            "application/merge-patch+json" => api::patch::merge(current, &patch),
            _ => api::patch::strategic(&schema, current, &patch)?,
        };
        let uid = merged["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && merged["metadata"]["uid"] != current["metadata"]["uid"] {
            let e = FieldError::invalid("metadata.uid", uid, "field is immutable");
            let name = current["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::invalid(&of.0, &of.1, name, &vec![e]));
        }
        if kind == "application/strategic-merge-patch+json" {
            return api::codec::check(merged, &schema).map_err(|e| bad_strategic_patch(&patch, &e));
        }
        let text = merged.to_string();
        let decoded = api::codec::check(merged, &schema).map_err(|e| bad_patch(&text, e.message))?;
        if strict && !decoded.unknown.is_empty() {
            let unknown: Vec<String> = decoded.unknown.iter().map(|f| format!("unknown field {f:?}")).collect();
            return Err(bad_patch(&text, format!("strict decoding error: {}", unknown.join(", "))));
        }
        Ok(decoded)
    }))
}

/// What upstream says of a strategic merge patch that makes an object which cannot be read.
fn bad_strategic_patch(patch: &Value, e: &Status) -> Status {
    let said = e.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
    let why = api::codec::unconvertible(&e.message).or(said.map(|(_, why)| why.to_owned()));
    let e = FieldError::invalid("patch", api::printed(patch), why.unwrap_or_else(|| e.message.clone()));
    Status::invalid("", "", "", &vec![e])
}

/// What upstream says of a patch that makes an object which cannot be read.
fn bad_patch(patched: &str, why: String) -> Status {
    // Only what the decoder said.
    let why = why.split_once(": json: ").map_or(why.clone(), |(_, of)| format!("json: {of}"));
    Status::invalid("", "", "", &vec![FieldError::invalid("patch", patched, why)])
}
