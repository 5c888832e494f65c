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

use std::sync::{Arc, Mutex, PoisonError, Weak};

use api::Status;
use api::status::Cause;
use async_trait::async_trait;
use serde_json::{Value, json};

use self::binding::{Action, Binding};
use self::policy::{Finding, Policy};
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

/// A write, with what is looked up for it.
struct Write<'a> {
    server: &'a Arc<Server>,
    attributes: &'a Attributes<'a>,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
    /// What is to be noted in the record of the request.
    audited: Mutex<Vec<Value>>,
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
        let write = Write { server: &server, attributes: a, object, old, audited: Mutex::default() };
        for policy in &policies {
            let bound = bindings.iter().filter(|b| b.policy == policy.name);
            let bound: Vec<&Binding> = bound.map(Arc::as_ref).collect();
            if !bound.is_empty() {
                write.judge(policy, &bound).await?;
            }
        }
        let audited = write.audited.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !audited.is_empty() {
            a.annotate("validation.policy.admission.k8s.io/validation_failure", Value::from(audited).to_string());
        }
        Ok(())
    }
}

impl Write<'_> {
    async fn judge(&self, policy: &Policy, bindings: &[&Binding]) -> Result<(), Status> {
        let Some(shown) = policy.matching.matches(self.server, self.attributes, self.object, self.old).await? else {
            return Ok(());
        };
        for binding in bindings {
            if let Some(m) = &binding.matching
                && !m.narrows(self.server, self.attributes, self.object, self.old).await?
            {
                continue;
            }
            for finding in self.findings(policy, binding, &shown).await? {
                self.act(policy, binding, finding)?;
            }
        }
        Ok(())
    }

    /// All that a policy, as it is bound, finds wrong.
    async fn findings(&self, policy: &Policy, binding: &Binding, shown: &Shown) -> Result<Vec<Finding>, Status> {
        let a = self.attributes;
        let params = match params::of(self.server, policy, binding, a.namespace) {
            Ok(params) => params,
            Err(_) if policy.ignores_failures => return Ok(Vec::new()),
            Err(why) => return Err(denied(a, policy, binding, &Finding::error(why))),
        };
        let namespace = match a.namespace {
            "" => Value::Null,
            name => namespace(self.server, name).await?.to_value(),
        };
        let request = Request { attributes: a, shown: shown.clone(), object: self.object, old: self.old };
        let mut findings = Vec::new();
        for param in params {
            let mut environment = request.environment();
            environment.bind("namespaceObject", &namespace);
            environment.bind("params", &param);
            findings.extend(policy.findings(&mut environment));
        }
        Ok(findings)
    }

    /// Does about a finding what the binding says.
    fn act(&self, policy: &Policy, binding: &Binding, finding: Finding) -> Result<(), Status> {
        let (a, message) = (self.attributes, &finding.message);
        for action in &binding.actions {
            match action {
                Action::Deny => return Err(denied(a, policy, binding, &finding)),
                Action::Warn => a.warnings.add(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                    policy.name, binding.name
                )),
                Action::Audit => self.audited.lock().unwrap_or_else(PoisonError::into_inner).push(json!({
                    "message": message, "policy": policy.name, "binding": binding.name,
                    "expressionIndex": finding.expression, "validationActions": binding.actions,
                })),
            }
        }
        Ok(())
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
