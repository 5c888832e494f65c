//! Authorization: may this user do that.
//!
//! [`Masters`] first, always; then what the [`configuration`] wants: [`node`] and [`rbac`], whose
//! [`rules`] are arithmetic, and a [`webhook`].

mod configuration;
pub mod node;
pub mod rbac;
pub mod rules;
mod webhook;

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use api::Status;
use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::configuration::Wanted;
use crate::audit::Record;
use crate::authn::aggregate;
use crate::request::{RequestInfo, User};
use crate::{Server, reloaded};

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

/// Which authorizers there are; without a word of it, [`node`] and [`rbac`].
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// An `AuthorizationConfiguration`, which is followed.
    pub file: Option<PathBuf>,
    /// The text of one, where there is no file.
    pub text: Option<String>,
}

/// One of the authorizers.
enum Step {
    Memory(Box<dyn Authorizer>),
    Webhook(Box<webhook::Webhook>),
}

/// Authorizers in order.
struct Chain(Vec<Step>);

impl Chain {
    /// [`Masters`] and those that a configuration wants.
    fn new(server: &Weak<Server>, wanted: Vec<Wanted>) -> Chain {
        let mut steps = vec![Step::Memory(Box::new(Masters))];
        steps.extend(wanted.into_iter().map(|w| match w {
            Wanted::Node => Step::Memory(Box::new(node::Node(server.clone()))),
            Wanted::Rbac => Step::Memory(Box::new(rbac::Rbac(server.clone()))),
            Wanted::Webhook(w) => Step::Webhook(w),
        }));
        Chain(steps)
    }

    async fn decide(&self, user: &User, request: &RequestInfo) -> Answer {
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for step in &self.0 {
            let decision = match step {
                Step::Memory(a) => a.authorize(user, request),
                Step::Webhook(w) => {
                    let (decision, error) = w.decide(user, request).await;
                    errors.extend(error);
                    decision
                }
            };
            match decision {
                Decision::NoOpinion(r) if r.is_empty() => {}
                Decision::NoOpinion(r) => reasons.push(r),
                decision => return Answer { decision, error: told(&errors) },
            }
        }
        Answer { decision: Decision::NoOpinion(reasons.join("\n")), error: told(&errors) }
    }
}

fn told(errors: &[String]) -> String {
    if errors.is_empty() { String::new() } else { aggregate(errors) }
}

/// The authorizers that are in force.
pub(crate) struct Authorizers {
    chain: ArcSwap<Chain>,
    /// The configuration as it was read.
    text: String,
}

impl Authorizers {
    /// # Errors
    /// A file that cannot be read, or whose contents are wrong.
    pub(crate) fn new(server: &Arc<Server>) -> Result<Authorizers, Status> {
        let settings = &server.config().authorization;
        let given = reloaded::given(settings.file.as_deref(), settings.text.as_deref(), "authorization")?;
        let (text, wanted) = match given {
            None => (String::new(), vec![Wanted::Node, Wanted::Rbac]),
            Some((text, source)) => {
                let wrong = |e| Status::internal_plain(format!("{source} cannot be used: {e}"));
                let wanted = configuration::parse(&text).map_err(wrong)?;
                (text, wanted)
            }
        };
        let chain = Chain::new(&Arc::downgrade(server), wanted);
        Ok(Authorizers { chain: ArcSwap::from_pointee(chain), text })
    }

    /// Whether some of them cannot say beforehand what they will decide.
    pub(crate) fn ask_others(&self) -> bool {
        self.chain.load().0.iter().any(|s| matches!(s, Step::Webhook(_)))
    }
}

/// Follows the configuration file, if there is one.
///
/// # Errors
/// When it cannot be watched.
pub(crate) fn follow(server: &Arc<Server>, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<(), Status> {
    let (Some(path), Some(own)) = (server.config().authorization.file.clone(), server.authorizers()) else {
        return Ok(());
    };
    let weak = Arc::downgrade(server);
    reloaded::follow(path, own.text.clone(), tasks, cancel, move |text| {
        let wanted = configuration::parse(text)?;
        if let Some(authorizers) = weak.upgrade().as_ref().and_then(|s| s.authorizers()) {
            authorizers.chain.store(Arc::new(Chain::new(&weak, wanted)));
        }
        Ok(())
    })
}

impl Server {
    /// Asks the authorizers.
    pub async fn decide(&self, user: &User, request: &RequestInfo) -> Answer {
        match self.authorizers() {
            Some(authorizers) => authorizers.chain.load_full().decide(user, request).await,
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
    /// 403 in upstream's words; 500, as upstream, when an authorizer could not be asked.
    pub async fn authorize(&self, user: &User, request: &RequestInfo) -> Result<(), Status> {
        self.authorize_recorded(user, request, None).await
    }

    /// As [`Server::authorize`], noted in a record of the request.
    ///
    /// # Errors
    /// The same.
    pub async fn authorize_recorded(
        &self,
        user: &User,
        request: &RequestInfo,
        record: Option<&Record>,
    ) -> Result<(), Status> {
        let Answer { decision, error } = self.decide(user, request).await;
        let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = &decision;
        let allowed = matches!(decision, Decision::Allow(_));
        if let Some(record) = record {
            match allowed || error.is_empty() {
                true => record.decided(allowed, reason),
                false => record.undecided(),
            }
        }
        if !allowed && !error.is_empty() {
            let why = format!("Internal Server Error: {:?}: {error}", request.path);
            return Err(Status::internal_plain(why));
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
