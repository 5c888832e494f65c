//! Admission webhooks: services of the cluster's owner that change or refuse writes
//! (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>).
//!
//! * [`hook`] – a webhook, compiled.  [`review`] – what is said.  [`patch`] – what becomes of its
//!   answer.  [`crate::webhook_client`] – how it is reached.
//!
//! Mutating webhooks are called one after the other, in the order of their configurations' names;
//! validating ones all at once.

mod hook;
mod patch;
mod review;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};
use std::time::Instant;

use api::Status;
use async_trait::async_trait;
use futures::future::join_all;
use serde_json::{Value, json};

use self::hook::{Failure, Hook};
use self::patch::Patched;
use super::dynamic::compiled::Compiled;
use super::dynamic::is_exempt;
use super::dynamic::matching::Shown;
use super::dynamic::request::Request;
use super::{Admission, Attributes, alive};
use crate::Server;
use crate::metrics::admission::{Answer, Phase};

/// The webhooks of all `MutatingWebhookConfiguration`s.
pub(super) struct Mutating {
    server: Weak<Server>,
    hooks: Compiled<Vec<Hook>>,
}

impl Mutating {
    pub(super) fn new(server: Weak<Server>) -> Mutating {
        Mutating { server, hooks: Compiled::new("mutatingwebhookconfigurations", hook::all_of) }
    }

    /// Calls one webhook, if it is about this write.
    async fn one(
        &self,
        server: &Arc<Server>,
        (index, hook): (usize, &Hook),
        a: &Attributes<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(shown) = hook.matches(server, a, Some(object), old).await? else { return Ok(()) };
        let request = Request { attributes: a, shown: shown.clone(), object: Some(object), old };
        let round = round_of(a, index);
        let mutated = |mutated: bool| {
            let said = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": mutated});
            a.annotate(&format!("mutation.webhook.admission.k8s.io/{round}"), said.to_string());
        };
        let answer = match asked(server, hook, Phase::Admit, &request).await {
            Ok(answer) => answer,
            Err(failure) => {
                mutated(false);
                return settle(hook, &format!("mutation.webhook.admission.k8s.io/{round}"), a, failure);
            }
        };
        let patched = match &answer {
            Some(answer) => patch::apply(answer, &request).inspect_err(|_| mutated(false))?,
            None => None,
        };
        let mut changed = patched.map(|Patched { object, operations }| {
            let said = json!({"configuration": hook.configuration, "webhook": hook.name,
                "patch": operations, "patchType": "JSONPatch"});
            a.annotate_contents(&format!("patch.webhook.admission.k8s.io/{round}"), said.to_string());
            object
        });
        if let (Shown::Converted(r, ..), Some(new)) = (&shown, &mut changed)
            && let Some(webhook) = r.webhook()
        {
            let conversions = server.registry().conversions()?;
            *new = conversions.convert_one(webhook, &a.resource.api_version(), new.take()).await?;
        }
        let changed = changed.filter(|new| new != object);
        mutated(changed.is_some());
        if let Some(new) = changed {
            *object = new;
            a.reinvocation.changed(&hook.id);
        }
        if hook.again && !a.reinvocation.is_second() {
            a.reinvocation.watch(&hook.id);
        }
        a.reinvocation.leave(object);
        Ok(())
    }
}

#[async_trait]
impl Admission for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if is_exempt(a) {
            return Ok(());
        }
        let server = alive(&self.server)?;
        let second = a.reinvocation.is_second();
        if second {
            a.reinvocation.compare(object);
        }
        let configurations = self.hooks.all(&server)?;
        for (index, hook) in configurations.iter().flat_map(|c| c.iter()).enumerate() {
            if !second || a.reinvocation.wants(&hook.id) {
                self.one(&server, (index, hook), a, object, old).await?;
            }
        }
        Ok(())
    }
}

/// The webhooks of all `ValidatingWebhookConfiguration`s.
pub(super) struct Validating {
    server: Weak<Server>,
    hooks: Compiled<Vec<Hook>>,
}

impl Validating {
    pub(super) fn new(server: Weak<Server>) -> Validating {
        Validating { server, hooks: Compiled::new("validatingwebhookconfigurations", hook::all_of) }
    }
}

#[async_trait]
impl Admission for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        if is_exempt(a) {
            return Ok(());
        }
        let server = alive(&self.server)?;
        let configurations = self.hooks.all(&server)?;
        let mut about = Vec::new();
        for hook in configurations.iter().flat_map(|c| c.iter()) {
            if let Some(shown) = hook.matches(&server, a, object, old).await? {
                about.push((hook, Request { attributes: a, shown, object, old }));
            }
        }
        let answers =
            join_all(about.iter().map(|(hook, request)| asked(&server, hook, Phase::Validate, request))).await;
        // Upstream counts those that are asked, where it counts all that mutate.
        for (index, ((hook, _), answer)) in about.iter().zip(answers).enumerate() {
            if let Err(failure) = answer {
                settle(hook, &format!("validating.webhook.admission.k8s.io/round_0_index_{index}"), a, failure)?;
            }
        }
        Ok(())
    }
}

/// A call, as audit annotations name it.
fn round_of(a: &Attributes<'_>, index: usize) -> String {
    format!("round_{}_index_{index}", u8::from(a.reinvocation.is_second()))
}

/// Asks a webhook, and counts how that went.
async fn asked(
    server: &Arc<Server>,
    hook: &Hook,
    phase: Phase,
    request: &Request<'_>,
) -> Result<Option<review::Answer>, Failure> {
    let begun = Instant::now();
    let answer = hook.ask(server, request).await;
    let outcome = match &answer {
        Ok(_) => Answer::Allowed,
        Err(Failure::Refused(s)) => Answer::Refused(s.code),
        Err(Failure::Call(_)) if hook.ignores_failures => Answer::Ignored,
        Err(Failure::Call(_)) => Answer::Failed,
    };
    let operation = request.attributes.operation;
    server.metrics().admission.webhook(&hook.name, phase, operation, outcome, begun.elapsed());
    answer
}

/// What a failure of a webhook means for the write; `key` names the call in annotations.
fn settle(hook: &Hook, key: &str, a: &Attributes<'_>, failure: Failure) -> Result<(), Status> {
    match failure {
        Failure::Refused(status) => Err(status),
        Failure::Call(why) if hook.ignores_failures => {
            tracing::warn!(webhook = hook.name, error = why, "a webhook failed; its failure policy ignores that");
            a.annotate(&format!("failed-open.{key}"), hook.name.clone());
            Ok(())
        }
        Failure::Call(why) => Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name))),
    }
}
