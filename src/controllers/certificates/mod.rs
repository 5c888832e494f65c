//! Certificate signing requests are approved, signed and cleaned away.
//!
//! * [`approver`] – approves the client certificates of kubelets, where RBAC lets them be.
//! * [`signer`] – signs what is approved for one of Kubernetes' own signers.
//! * [`cleaner`] – deletes requests that are over.
//! * [`request`] – what is read from a request, and what each signer asks of it.
//!
//! Upstream: `pkg/controller/certificates`. All three act as `certificate-controller`.

pub mod approver;
pub mod cleaner;
mod request;
pub mod signer;

use std::sync::Arc;

use api::k8s::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use client::Informer;

use crate::runtime::{self, Context, Controller, Queue};

const IDENTITY: &str = "certificate-controller";

/// Starts the controllers of certificates.
pub fn start(context: &Context) {
    approver::start(context);
    signer::start(context);
    cleaner::start(context);
}

/// Starts a controller whose keys are the names of requests.
fn run<C: Controller>(context: &Context, controller: impl FnOnce(Informer) -> C) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = Queue::default();
    runtime::enqueue_own(&requests, &queue);
    runtime::run(context, Arc::new(controller(requests.clone())), queue, vec![requests], 1);
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    conditions(request).iter().any(|c| c.type_ == condition)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).map(|c| c.0.as_slice()).filter(|c| !c.is_empty())
}

fn add_condition(request: &mut CertificateSigningRequest, condition: CertificateSigningRequestCondition) {
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
}
