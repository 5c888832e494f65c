//! Authorization: may this user do that.
//!
//! [`Masters`] first, always; then [`node`] and [`rbac`], whose [`rules`] are arithmetic.

pub mod node;
pub mod rbac;
pub mod rules;

use std::sync::Arc;

use api::Status;

use crate::Server;
use crate::audit::Record;
use crate::request::{RequestInfo, User};

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Not by me; the reason joins the message when nobody allows.
    NoOpinion(String),
}

/// What all authorizers together say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The decision.
    pub decision: Decision,
    /// What kept some of them from deciding; empty when nothing did.
    pub error: String,
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
        let allowed = user.in_group("system:masters");
        if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Authorizers in order.
pub(crate) struct Chain(Vec<Box<dyn Authorizer>>);

impl Chain {
    /// The authorizers of a cluster for which nothing else was configured.
    pub(crate) fn usual(server: &Arc<Server>) -> Chain {
        let weak = Arc::downgrade(server);
        Chain(vec![Box::new(Masters), Box::new(node::Node(weak.clone())), Box::new(rbac::Rbac(weak))])
    }

    async fn decide(&self, user: &User, request: &RequestInfo) -> Answer {
        let mut reasons = Vec::new();
        for a in &self.0 {
            match a.authorize(user, request) {
                Decision::NoOpinion(r) if r.is_empty() => {}
                Decision::NoOpinion(r) => reasons.push(r),
                decision => return Answer { decision, error: String::new() },
            }
        }
        Answer { decision: Decision::NoOpinion(reasons.join("\n")), error: String::new() }
    }
}

impl Server {
    /// Asks the authorizers.
    pub async fn decide(&self, user: &User, request: &RequestInfo) -> Answer {
        match self.authorizers() {
            Some(chain) => chain.decide(user, request).await,
            None => Answer { decision: Decision::NoOpinion(String::new()), error: String::new() },
        }
    }

    /// Whether a user may do something.
    pub async fn allows(&self, user: &User, request: &RequestInfo) -> bool {
        matches!(self.decide(user, request).await.decision, Decision::Allow(_))
    }

    /// Lets those pass who may do something.
    ///
    /// # Errors
    /// 403 in upstream's words.
    pub async fn authorize(&self, user: &User, request: &RequestInfo) -> Result<(), Status> {
        self.authorize_recorded(user, request, None).await
    }

    /// As [`Server::authorize`], noted in a record of the request.
    ///
    /// # Errors
    /// 403 in upstream's words.
    pub async fn authorize_recorded(
        &self,
        user: &User,
        request: &RequestInfo,
        record: Option<&Record>,
    ) -> Result<(), Status> {
        let decision = self.decide(user, request).await.decision;
        let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = &decision;
        let allowed = matches!(decision, Decision::Allow(_));
        if let Some(record) = record {
            record.decided(allowed, reason);
        }
        if allowed { Ok(()) } else { Err(forbidden(user, request, reason)) }
    }
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
