//! The objects that a policy is parameterized with, for one write.

use std::sync::Arc;

use api::{Object, Resource};
use serde_json::Value;

use super::binding::{Binding, Chosen, ParamRef};
use super::policy::{ParamKind, Policy};
use crate::Server;
use crate::registry::served;

/// The parameters, each of which the policy is asked with; null where it has none.
///
/// # Errors
/// In upstream's words, when they are not there or cannot be.
pub(super) fn of(
    server: &Arc<Server>,
    policy: &Policy,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let (Some(kind), Some(reference)) = (&policy.param_kind, &binding.param_ref) else { return Ok(vec![Value::Null]) };
    let resource = resource_of(server, kind).ok_or_else(|| {
        format!(
            "failed to configure policy: failed to find resource referenced by paramKind: '{}, Kind={}'",
            kind.api_version, kind.kind
        )
    })?;
    let failed = |why: String| format!("failed to configure binding: {why}");
    let namespace = namespace_of(&resource, reference, namespace).map_err(failed)?;
    let cache = server.registry().cache(&resource).map_err(|s| failed(s.message))?;
    let objects = cache.objects();
    let found: Vec<Arc<Object>> = match &reference.chosen {
        Chosen::ByName(name) => objects.get(api::key_of(namespace, name).as_str()).cloned().into_iter().collect(),
        Chosen::BySelector(selector) => objects
            .values()
            .filter(|o| o.meta().namespace == namespace && selector.matches(o.meta().labels))
            .cloned()
            .collect(),
    };
    if found.is_empty() && !reference.may_be_absent {
        return Err(failed("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()));
    }
    Ok(found.iter().map(|o| served(&resource, &o.to_value()).into_owned()).collect())
}

fn resource_of(server: &Server, kind: &ParamKind) -> Option<Arc<Resource>> {
    let is = |r: &&Arc<Resource>| r.stored && r.api_version() == kind.api_version && r.kind == kind.kind;
    server.resources().iter().find(is).cloned()
}

/// The namespace that the parameters are in.
fn namespace_of<'a>(resource: &Resource, r: &'a ParamRef, request: &'a str) -> Result<&'a str, String> {
    match (resource.namespaced, r.namespace.as_str(), request) {
        (false, "", _) => Ok(""),
        (false, ..) => Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        (true, "", "") => {
            Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned())
        }
        (true, "", namespace) | (true, namespace, _) => Ok(namespace),
    }
}
