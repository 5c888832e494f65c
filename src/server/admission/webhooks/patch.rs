//! A webhook's patch: applied in the version that the webhook saw, checked against the schema,
//! and made an object of the storage version again.

use api::Status;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::super::dynamic::request::{Request, carries_object, type_of};
use super::review::Answer;

/// What a patch makes of an object, and the patch.
pub(super) struct Patched {
    pub(super) object: Value,
    pub(super) operations: Value,
}

/// The object that an answer asks for; `None` when it asks for no change.
///
/// # Errors
/// 500 when the patch cannot be applied, or what it makes is no object of the kind.
pub(super) fn apply(answer: &Answer, request: &Request<'_>) -> Result<Option<Patched>, Status> {
    let Some(patch) = answer.patch.as_deref().filter(|p| !p.is_empty()) else { return Ok(None) };
    let a = request.attributes;
    let shown = request.shown.resource(a);
    // The options of a connection have no schema, and the connection is made as it was asked for.
    let (Some(schema), Some(object)) = (type_of(shown, a.subresource), request.object()) else { return Ok(None) };
    let patch = BASE64_STANDARD.decode(patch).map_err(Status::internal)?;
    let patch: Value = serde_json::from_slice(&patch).map_err(Status::internal)?;
    if patch.as_array().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    let why = |s: Status| {
        let causes = s.details.iter().flat_map(|d| &d.causes).map(|c| c.message.clone()).collect::<Vec<_>>();
        Status::internal(if causes.is_empty() { s.message } else { causes.join(", ") })
    };
    let patched = api::patch::json(&object, &patch).map_err(why)?;
    let mut new = api::codec::check(patched, &schema).map_err(why)?.value;
    if carries_object(a.resource, a.subresource) {
        if new["kind"] != object["kind"] || new["apiVersion"] != object["apiVersion"] || !new["metadata"].is_object() {
            return Err(Status::internal("the patch leaves no object of the same kind"));
        }
        if let Some(c) = &shown.convert {
            c.to_storage(shown, &mut new);
        }
        shown.strategy.default(&mut new);
    }
    Ok(Some(Patched { object: new, operations: patch }))
}
