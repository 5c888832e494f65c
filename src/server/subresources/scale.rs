//! `/scale`: `autoscaling/v1 Scale` over the replicas of a kind.

use std::sync::Arc;

use api::codec::{Configuration, Decoded};
use api::schema::{Schemas, TypeRef};
use api::selector::LabelSelector;
use api::{Resource, Status};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::Server;
use crate::admission::Operation;
use crate::http::respond::{self, Reply};
use crate::http::{APPLY, Call, decode_applied, decode_tree, negotiate};
use crate::registry::Registry;

fn scale_of(o: &Value, [spec, status, selector]: [&String; 3]) -> Result<Value, Status> {
    let m = &o["metadata"];
    let selector = match o.pointer(selector) {
        Some(Value::String(s)) => s.clone(),
        // A plain map (replication controllers) or a label selector.
        Some(v @ Value::Object(fields)) if fields.values().all(Value::is_string) => {
            let map = serde_json::from_value(v.clone()).map_err(Status::internal)?;
            LabelSelector::from_map(&map).to_string()
        }
        Some(v) => LabelSelector::from_value(v)?.to_string(),
        None => String::new(),
    };
    Ok(json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": m["name"], "namespace": m["namespace"], "uid": m["uid"],
            "resourceVersion": m["resourceVersion"], "creationTimestamp": m["creationTimestamp"],
        },
        "spec": {"replicas": o.pointer(spec).cloned().unwrap_or_else(|| 0.into())},
        "status": {"replicas": o.pointer(status).cloned().unwrap_or_else(|| 0.into()), "selector": selector},
    }))
}

/// Reads or changes the scale.
pub async fn serve(
    server: &Arc<Server>,
    call: &Call,
    resource: &Arc<Resource>,
    paths: [&String; 3],
    body: &Bytes,
) -> Result<Reply, Status> {
    let i = &call.info;
    if i.verb == "get" {
        let o = server.registry().get(resource, &i.namespace, &i.name).await?;
        let o = server.registry().conversions()?.value(resource, &o).await?;
        return Ok(respond::json(200, &scale_of(&o, paths)?));
    }
    if !matches!(i.verb.as_str(), "update" | "patch") {
        return Err(Status::method_not_allowed());
    }
    let mut ctx = server.write_context(call)?;
    let schema = Schemas::builtin()
        .type_of("autoscaling", "v1", "Scale")
        .ok_or_else(|| Status::internal("the schema data has no Scale"))?;
    let current = server.registry().get(resource, &i.namespace, &i.name).await?;
    let old = scale_of(&server.registry().conversions()?.value(resource, &current).await?, paths)?;
    let applied = match i.verb == "patch" && negotiate::media_type(&call.parts.headers) == APPLY {
        true => Some(decode_applied(call, &ctx, &schema, body)?),
        false => None,
    };
    let mut new = match &applied {
        Some(config) => api::patch::merge(&old, &config.decoded.value),
        None => wanted(call, &old, &schema, body)?,
    };
    let attributes = Registry::attributes(&ctx, resource, Operation::Update, &i.namespace, &i.name, "scale");
    server.registry().admit_mutate(&attributes, &mut new, Some(&old)).await?;
    server.registry().admit_validate(&attributes, Some(&new), Some(&old)).await?;
    drop(attributes);
    // What is admitted is the scale, not the object that has it.
    ctx.scaled = true;
    let replicas = new["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let e = api::field::FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", &i.name, &vec![e]));
    }
    if applied.is_some_and(|config| config.sent.pointer("/spec/replicas").is_some()) {
        let config = configuration(resource, &i.name, paths[0], replicas);
        let force = call.query.flag("force");
        let written = server.registry().apply(&ctx, resource, &i.namespace, &i.name, "", config, force).await?;
        let written = server.registry().conversions()?.value(resource, &written.object).await?;
        return Ok(respond::json(200, &scale_of(&written, paths)?));
    }
    let based_on = new["metadata"]["resourceVersion"].as_str().filter(|rv| !rv.is_empty());
    let change = |current: &Value| {
        let mut object = current.clone();
        if let Some(slot) = object.pointer_mut(paths[0]) {
            *slot = replicas.into();
        } else {
            object["spec"]["replicas"] = replicas.into();
        }
        if let Some(rv) = based_on {
            object["metadata"]["resourceVersion"] = rv.into();
        }
        Ok(Decoded { value: object, unknown: Vec::new(), duplicate: Vec::new() })
    };
    let written = server.registry().update(&ctx, resource, &i.namespace, &i.name, "", false, &change).await?;
    let written = server.registry().conversions()?.value(resource, &written.object).await?;
    Ok(respond::json(200, &scale_of(&written, paths)?))
}

/// What an applied scale says of the object that has it.
fn configuration(resource: &Resource, name: &str, path: &str, replicas: i64) -> Configuration {
    let mut value = json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": name}});
    let mut at = &mut value;
    for field in path.split('/').skip(1) {
        at = &mut at[field];
    }
    *at = replicas.into();
    let decoded = Decoded { value: value.clone(), unknown: Vec::new(), duplicate: Vec::new() };
    Configuration { sent: value, decoded }
}

/// The scale that a PUT or PATCH asks for. One that follows from a patch is based on no version,
/// unless the patch names one.
fn wanted(call: &Call, old: &Value, schema: &TypeRef, body: &Bytes) -> Result<Value, Status> {
    const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
    if call.info.verb == "update" {
        return Ok(api::codec::check(decode_tree(call, body)?, schema)?.value);
    }
    let patch = api::codec::parse_tree(body, false)?;
    let mut new = match negotiate::media_type(&call.parts.headers) {
        "application/json-patch+json" => api::patch::json(old, &patch)?,
        "application/merge-patch+json" => api::patch::merge(old, &patch),
        "application/strategic-merge-patch+json" => api::patch::strategic(schema, old, &patch)?,
        _ => return Err(Status::unsupported_media_type(PATCHES)),
    };
    if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
        && let Some(m) = new["metadata"].as_object_mut()
    {
        m.remove("resourceVersion");
    }
    Ok(new)
}
