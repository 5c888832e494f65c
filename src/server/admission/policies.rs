//! Validating admission policies: rules in CEL that the cluster's owner declares
//! (<https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>).
//!
//! * [`policy`] – a policy, compiled.  [`binding`] – where and how it is in force.
//! * [`params`] – the objects that it is parameterized with.

mod binding;
mod params;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use api::Status;
use api::status::Cause;
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use self::binding::{Action, Binding};
use self::policy::{Finding, Policy, Verdict};
use super::dynamic::authorizer::answered;
use super::dynamic::compiled::Compiled;
use super::dynamic::is_exempt;
use super::dynamic::matching::{Shown, namespace};
use super::dynamic::request::Request;
use super::{Admission, Attributes, alive};
use crate::Server;

/// All `ValidatingAdmissionPolicy`s that are bound.
pub(super) struct Policies {
    server: Weak<Server>,
    policies: Compiled<Policy>,
    bindings: Compiled<Binding>,
}

impl Policies {
    pub(super) fn new(server: Weak<Server>) -> Policies {
        Policies {
            server,
            policies: Compiled::new("validatingadmissionpolicies", Policy::new),
            bindings: Compiled::new("validatingadmissionpolicybindings", Binding::new),
        }
    }
}

/// What is recorded of a write that a binding wants audited.
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure<'a> {
    message: &'a str,
    policy: &'a str,
    binding: &'a str,
    expression_index: usize,
    validation_actions: &'a [Action],
}

/// A write, with what is looked up for it.
struct Write<'a> {
    server: &'a Arc<Server>,
    attributes: &'a Attributes<'a>,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
    /// Why it is refused, most important first; all policies are asked nevertheless.
    refused: Option<Status>,
}

#[async_trait]
impl Admission for Policies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        if is_exempt(a) {
            return Ok(());
        }
        let server = alive(&self.server)?;
        let policies = self.policies.all(&server)?;
        if policies.is_empty() {
            return Ok(());
        }
        let bindings = self.bindings.all(&server)?;
        let mut write = Write { server: &server, attributes: a, object, old, refused: None };
        for policy in &policies {
            let bound = bindings.iter().filter(|b| b.policy == policy.name);
            let bound: Vec<&Binding> = bound.map(Arc::as_ref).collect();
            if !bound.is_empty() {
                write.judge(policy, &bound).await?;
            }
        }
        write.refused.map_or(Ok(()), Err)
    }
}

impl Write<'_> {
    async fn judge(&mut self, policy: &Policy, bindings: &[&Binding]) -> Result<(), Status> {
        let Some(shown) = policy.matching.matches(self.server, self.attributes, self.object, self.old).await? else {
            return Ok(());
        };
        // A key may get several values, from bindings with other parameters.
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in bindings {
            if let Some(m) = &binding.matching
                && !m.narrows(self.server, self.attributes, self.object, self.old).await?
            {
                continue;
            }
            for verdict in self.verdicts(policy, binding, &shown).await? {
                for finding in &verdict.findings {
                    self.act(policy, binding, finding);
                }
                for (key, value) in verdict.annotations {
                    let of_key = annotations.entry(key).or_default();
                    if !of_key.contains(&value) {
                        of_key.push(value);
                    }
                }
                for error in &verdict.errors {
                    self.refuse(policy, binding, error);
                }
            }
        }
        for (key, values) in annotations {
            self.attributes.annotate(&format!("{}/{key}", policy.name), values.join(", "));
        }
        Ok(())
    }

    /// What a policy, as it is bound, says with each of its parameters.
    async fn verdicts(&self, policy: &Policy, binding: &Binding, shown: &Shown) -> Result<Vec<Verdict>, Status> {
        let a = self.attributes;
        let params = match params::of(self.server, policy, binding, a.namespace) {
            Ok(params) => params,
            Err(_) if policy.ignores_failures => return Ok(Vec::new()),
            Err(why) => return Ok(vec![Verdict { errors: vec![Finding::error(why)], ..Verdict::default() }]),
        };
        let namespace = match a.namespace {
            "" => Value::Null,
            name => namespace(self.server, name).await?.to_value(),
        };
        let request = Request { attributes: a, shown: shown.clone(), object: self.object, old: self.old };
        let mut verdicts = Vec::new();
        for param in params {
            let judged = answered(self.server, a.user, |questions| {
                let mut environment = request.environment(questions);
                environment.bind("namespaceObject", &namespace);
                environment.bind("params", &param);
                policy.judge(&mut environment)
            });
            verdicts.push(judged.await);
        }
        Ok(verdicts)
    }

    fn refuse(&mut self, policy: &Policy, binding: &Binding, finding: &Finding) {
        self.refused.get_or_insert_with(|| denied(self.attributes, policy, binding, finding));
    }

    /// Does about a finding what the binding says.
    fn act(&mut self, policy: &Policy, binding: &Binding, finding: &Finding) {
        let (a, message) = (self.attributes, &finding.message);
        for action in &binding.actions {
            match action {
                Action::Deny => self.refuse(policy, binding, finding),
                Action::Warn => a.warnings.add(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                    policy.name, binding.name
                )),
                // Upstream's list has one entry: of the first failure, as annotations are not replaced.
                Action::Audit => {
                    let failure = Failure {
                        message,
                        policy: &policy.name,
                        binding: &binding.name,
                        expression_index: finding.expression,
                        validation_actions: &binding.actions,
                    };
                    // Texts and a number: there is nothing in it that has no JSON.
                    a.annotate(FAILURE, serde_json::to_string(&[failure]).unwrap_or_default());
                }
            }
        }
    }
}

/// The refusal of a write.
fn denied(a: &Attributes<'_>, policy: &Policy, binding: &Binding, finding: &Finding) -> Status {
    let message = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
        policy.name, binding.name, finding.message
    );
    let mut status = Status::forbidden(&a.resource.group, &a.resource.plural, a.name, &message);
    status.reason.clone_from(&finding.reason);
    status.code = match finding.reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    if let Some(d) = &mut status.details {
        d.causes.push(Cause { message, ..Default::default() });
    }
    status
}
