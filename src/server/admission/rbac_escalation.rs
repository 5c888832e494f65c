//! RbacEscalation: nobody gives rights by a role or a binding that they do not have, unless they
//! may `escalate` the role or `bind` it
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>;
//! upstream: `pkg/registry/rbac/*/policybased`, where it is part of the registry).

use std::sync::{Arc, Weak};

use api::Status;
use api::k8s::rbac::v1::{PolicyRule, RoleRef};
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::authz::rbac::{GROUP, held_rules, rules_for};
use crate::authz::rules;
use crate::request::RequestInfo;

pub(super) struct RbacEscalation(pub(super) Weak<Server>);

#[async_trait]
impl Admission for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(new) = new.filter(|_| a.resource.group == GROUP) else { return Ok(()) };
        if a.user.in_group("system:masters") || old.is_some_and(|old| only_lets_go(new, old)) {
            return Ok(());
        }
        let server = alive(&self.0)?;
        // A role is often bound in the moment after it was made.
        server.registry().caches().fresh().await?;
        match a.resource.plural.as_str() {
            "roles" | "clusterroles" => role(&server, a, new, old).await,
            "rolebindings" | "clusterrolebindings" => binding(&server, a, new).await,
            _ => Ok(()),
        }
    }
}

/// Whether an update changes at most what holds or owns the object: that must stay
/// possible for the garbage collector, which does not have the rights that the role gives.
fn only_lets_go(new: &Value, old: &Value) -> bool {
    let rest = |o: &Value| {
        let mut o = o.clone();
        if let Some(m) = o["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                m.remove(field);
            }
        }
        o
    };
    rest(new) == rest(old)
}

async fn may(server: &Server, a: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let request = RequestInfo {
        verb: verb.to_owned(),
        is_resource: true,
        group: GROUP.to_owned(),
        version: a.resource.version.clone(),
        resource: resource.to_owned(),
        namespace: a.namespace.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    server.allows(a.user, &request).await
}

async fn role(server: &Arc<Server>, a: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    // The name of something new is not known when a request is authorized.
    let name = if a.operation == Operation::Create { "" } else { a.name };
    if may(server, a, "escalate", &a.resource.plural, name).await {
        return Ok(());
    }
    let wanted: Vec<PolicyRule> = serde_json::from_value(
        new.get("rules").filter(|r| !r.is_null()).cloned().unwrap_or_else(|| Value::Array(vec![])),
    )
    .map_err(Status::internal)?;
    confirm(server, a, &wanted)?;
    let aggregates = |o: &Value| o.get("aggregationRule").is_some_and(|r| !r.is_null());
    if aggregates(new) || old.is_some_and(aggregates) {
        let star = || vec!["*".to_owned()];
        let everything = [
            PolicyRule { verbs: star(), api_groups: Some(star()), resources: Some(star()), ..Default::default() },
            PolicyRule { verbs: star(), non_resource_urls: Some(star()), ..Default::default() },
        ];
        confirm(server, a, &everything)
            .map_err(|_| refuse(a, "must have cluster-admin privileges to use the aggregationRule"))?;
    }
    Ok(())
}

async fn binding(server: &Arc<Server>, a: &Attributes<'_>, new: &Value) -> Result<(), Status> {
    let role: RoleRef = serde_json::from_value(new["roleRef"].clone()).map_err(Status::internal)?;
    let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(server, a, "bind", resource, &role.name).await {
        return Ok(());
    }
    confirm(server, a, &rules_for(server, &role, a.namespace)?)
}

fn refuse(a: &Attributes<'_>, why: &str) -> Status {
    Status::forbidden(&a.resource.group, &a.resource.plural, a.name, why)
}

/// The user has all of these rights.
fn confirm(server: &Server, a: &Attributes<'_>, wanted: &[PolicyRule]) -> Result<(), Status> {
    let missing = rules::missing(&held_rules(server, a.user, a.namespace), wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(rules::describe).collect();
    lines.sort();
    lines.dedup();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        a.user.name,
        rules::quoted(&a.user.groups),
        lines.join("\n")
    );
    Err(refuse(a, &why))
}

#[cfg(test)]
mod tests;
