//! Approves the client certificates of kubelets: who may create `selfnodeclient` renews its own,
//! who may create `nodeclient` gets one for any node
//! (upstream: `pkg/controller/certificates/approver`).
//!
//! Invariant: a request that somebody has decided about is never touched.

use std::collections::BTreeMap;

use api::Status;
use api::k8s::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use api::k8s::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use async_trait::async_trait;
use client::api::{Call, Gvr, Verb};
use client::{Client, Informer};

use super::request::{KUBELET_CLIENT, Requested};
use super::{IDENTITY, add_condition, certificate, has};
use crate::runtime::{Action, Context, Controller};

struct Approver {
    client: Client,
    requests: Informer,
}

/// Starts the controller.
pub(super) fn start(context: &Context) {
    let client = (context.client_for)(IDENTITY);
    super::run(context, |requests| Approver { client, requests });
}

/// The rights that would approve a request, with what is then said.
fn rights(request: &CertificateSigningRequest) -> Result<Vec<(&'static str, &'static str)>, String> {
    if certificate(request).is_some() || has(request, "Approved") || has(request, "Denied") {
        return Ok(Vec::new());
    }
    let spec = &request.spec;
    let requested = Requested::parse(&spec.request.0)?;
    let usages = spec.usages.as_deref().unwrap_or_default();
    if spec.signer_name != KUBELET_CLIENT || requested.is_kubelet_client(usages).is_err() {
        return Ok(Vec::new());
    }
    let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let any = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    let is_own = spec.username.as_deref() == Some(&requested.common_name);
    Ok(if is_own { vec![own, any] } else { vec![any] })
}

impl Approver {
    async fn may_create(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, Status> {
        let spec = &request.spec;
        let text = |s: &str| Some(s.to_owned());
        let question = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone().map(|e| e.into_iter().collect::<BTreeMap<_, _>>()),
                resource_attributes: Some(ResourceAttributes {
                    group: text("certificates.k8s.io"),
                    resource: text("certificatesigningrequests"),
                    verb: text("create"),
                    subresource: text(subresource),
                    version: text("*"),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        Ok(self.client.create(&question).await?.status.as_ref().is_some_and(|s| s.allowed))
    }

    async fn approve(&self, request: &CertificateSigningRequest, message: &str) -> Result<(), Status> {
        let mut approved = request.clone();
        add_condition(
            &mut approved,
            CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(message.into()),
                ..Default::default()
            },
        );
        let call = Call {
            verb: Verb::Update,
            gvr: Gvr::of::<CertificateSigningRequest>(),
            namespace: String::new(),
            name: request.metadata.name.clone().unwrap_or_default(),
            subresource: "approval".into(),
            query: Vec::new(),
            body: Some(serde_json::to_vec(&approved).map_err(Status::internal)?.into()),
        };
        self.client.api().call(call).await?;
        Ok(())
    }
}

#[async_trait]
impl Controller for Approver {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(request) = self.requests.get::<CertificateSigningRequest>(key) else { return Ok(Action::Done) };
        let rights = match rights(&request) {
            Ok(r) => r,
            Err(why) => {
                // It will not become better: the specification of a request never changes.
                tracing::warn!(request = key, why, "a certificate signing request cannot be read");
                return Ok(Action::Done);
            }
        };
        for (subresource, message) in &rights {
            if self.may_create(&request, subresource).await? {
                self.approve(&request, message).await?;
                return Ok(Action::Done);
            }
        }
        if !rights.is_empty() {
            tracing::debug!(request = key, "no subject access review approved a kubelet's request");
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use api::ByteString;

    use super::super::request::tests::{pem, usages};
    use super::*;

    #[test]
    fn a_nodes_own_request_may_be_approved_by_either_right() {
        let mut r = CertificateSigningRequest::default();
        r.spec.signer_name = KUBELET_CLIENT.into();
        r.spec.request = ByteString(pem("system:node:a", "system:nodes", &[]).into_bytes());
        r.spec.usages = Some(usages(&["digital signature", "client auth"]));
        let asked = |r: &CertificateSigningRequest| -> Vec<&str> {
            rights(r).unwrap().into_iter().map(|(subresource, _)| subresource).collect()
        };
        assert_eq!(asked(&r), ["nodeclient"]);
        r.spec.username = Some("system:node:a".into());
        assert_eq!(asked(&r), ["selfnodeclient", "nodeclient"]);
        let mut other = r.clone();
        other.spec.signer_name = "kubernetes.io/kubelet-serving".into();
        assert!(asked(&other).is_empty());
        add_condition(
            &mut r,
            CertificateSigningRequestCondition { type_: "Denied".into(), status: "True".into(), ..Default::default() },
        );
        assert!(asked(&r).is_empty());
        r.spec.request = ByteString(b"nothing".to_vec());
        other.spec.request = r.spec.request.clone();
        assert!(rights(&r).unwrap().is_empty() && rights(&other).is_err());
    }
}
