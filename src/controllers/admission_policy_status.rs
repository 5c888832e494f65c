//! Says in the status of an admission policy which generation of it has been looked at
//! (upstream: `pkg/controller/validatingadmissionpolicystatus`).
//!
//! Expressions are compiled before a policy is stored; their types are not checked against the
//! schemas of what they match, so that there are never warnings to tell.

use std::sync::Arc;

use api::Status;
use api::k8s::admissionregistration::v1::ValidatingAdmissionPolicy;
use async_trait::async_trait;
use client::api::PatchKind;
use client::{Client, Informer};
use serde_json::json;

use crate::pod_control::{self as pods, name};
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "validatingadmissionpolicy-status-controller";

struct AdmissionPolicyStatus {
    client: Client,
    policies: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let queue = Queue::default();
    {
        let queue = queue.clone();
        policies.on_change(move |c| queue.add(c.object().key().to_owned()));
    }
    let caches = vec![policies.clone()];
    runtime::run(context, Arc::new(AdmissionPolicyStatus { client, policies }), queue, caches, 1);
}

/// The generation that is yet to be observed.
fn unobserved(policy: &ValidatingAdmissionPolicy) -> Option<i64> {
    let generation = policy.metadata.generation?;
    let status = policy.status.as_ref();
    let seen = status.and_then(|s| s.observed_generation).filter(|_| status.is_some_and(|s| s.type_checking.is_some()));
    (seen != Some(generation)).then_some(generation)
}

#[async_trait]
impl Controller for AdmissionPolicyStatus {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "validatingadmissionpolicy-status"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(policy) = self.policies.get::<ValidatingAdmissionPolicy>(key) else { return Ok(Action::Done) };
        let Some(generation) = unobserved(&policy) else { return Ok(Action::Done) };
        let patch = json!({"status": {"observedGeneration": generation, "typeChecking": {}}});
        let written = self
            .client
            .patch::<ValidatingAdmissionPolicy>("", name(&*policy), "status", PatchKind::Merge, &patch)
            .await;
        pods::ignore_absent(written)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_observed_once() {
        let policy = |v| serde_json::from_value::<ValidatingAdmissionPolicy>(v).unwrap();
        assert_eq!(unobserved(&policy(json!({"metadata": {"generation": 2}}))), Some(2));
        let seen =
            |n: i64| json!({"metadata": {"generation": 2}, "status": {"observedGeneration": n, "typeChecking": {}}});
        assert_eq!(unobserved(&policy(seen(1))), Some(2));
        assert_eq!(unobserved(&policy(seen(2))), None);
    }
}
