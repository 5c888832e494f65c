//! Authorization: may this user do that.

use crate::request::{RequestInfo, User};

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, whatever others say.
    Deny(String),
    /// Not by me; the reason joins the message when nobody allows.
    NoOpinion(String),
}

/// One way to authorize. They are asked in order; the first that allows or denies decides.
pub trait Authorizer: Send + Sync {
    /// Decides from memory: authorizers read caches, never the store.
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision;
}

/// Allows members of `system:masters` everything.
#[derive(Debug)]
pub struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, user: &User, _: &RequestInfo) -> Decision {
        if user.in_group("system:masters") { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

/// Asks a list of authorizers in order.
pub fn decide(authorizers: &[std::sync::Arc<dyn Authorizer>], user: &User, request: &RequestInfo) -> Decision {
    let mut reasons = Vec::new();
    for a in authorizers {
        match a.authorize(user, request) {
            Decision::NoOpinion(r) => {
                if !r.is_empty() {
                    reasons.push(r);
                }
            }
            decided => return decided,
        }
    }
    Decision::NoOpinion(reasons.join(", "))
}

/// Upstream's words for a refusal.
pub fn forbidden(user: &User, r: &RequestInfo, reason: &str) -> api::Status {
    let suffix = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !r.is_resource {
        return api::Status::new(
            403,
            "Forbidden",
            format!("forbidden: User {:?} cannot {} path {:?}{suffix}", user.name, r.verb, r.path),
        );
    }
    let resource =
        if r.subresource.is_empty() { r.resource.clone() } else { format!("{}/{}", r.resource, r.subresource) };
    let scope = if r.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", r.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}{suffix}",
        user.name, r.verb, r.group
    );
    api::Status::forbidden(&r.group, &r.resource, &r.name, &why)
}

pub mod node;
pub mod rbac;
pub mod rules;

use std::sync::Arc;

/// The authorizers in order.
pub fn authorizers(server: &Arc<crate::Server>) -> Vec<Arc<dyn Authorizer>> {
    vec![Arc::new(Masters), Arc::new(node::Node(Arc::downgrade(server))), Arc::new(rbac::Rbac(Arc::downgrade(server)))]
}
