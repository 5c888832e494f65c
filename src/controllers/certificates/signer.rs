//! Signs approved requests for Kubernetes' own four signers
//! (upstream: `pkg/controller/certificates/signer`).
//!
//! The keys are not here: whoever composes the process hands in a [`CertificateSigner`]. A request
//! that a signer does not allow fails for good, with the reason `SignerValidationFailure`.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use api::meta::apis::meta::v1::Time;
use api::{ByteString, Status};
use async_trait::async_trait;
use client::{Client, Informer};
use jiff::Timestamp;

use super::request::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Requested, are_of_client};
use super::{IDENTITY, add_condition, certificate, conditions, has};
use crate::runtime::{Action, Config, Context, Controller};

/// How long certificates live when nobody asks for less.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long they live at least.
const SHORTEST: Duration = Duration::from_secs(600);

/// Which of the cluster's authorities signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The one that the API server trusts clients by.
    Clients,
    /// The one that the API server trusts kubelets by.
    Kubelets,
}

/// Signs with the cluster's authorities.
pub trait CertificateSigner: std::fmt::Debug + Send + Sync {
    /// A certificate, in PEM, for subject, key and names of a PKCS#10 request.
    ///
    /// # Errors
    /// Why none can be made.
    fn sign(
        &self,
        authority: Authority,
        request_pem: &[u8],
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, String>;
}

/// What a signer asks of a request.
type Check = fn(&Requested, &[String]) -> Result<(), String>;

/// The signers. What `legacy-unknown` signed was never good for anything in particular: it must
/// not open the API server's doors.
const SIGNERS: [(&str, Authority, Check); 4] = [
    (CLIENT, Authority::Clients, |_, usages| are_of_client(usages)),
    (KUBELET_CLIENT, Authority::Clients, Requested::is_kubelet_client),
    (KUBELET_SERVING, Authority::Kubelets, Requested::is_kubelet_serving),
    (LEGACY, Authority::Kubelets, |_, _| Ok(())),
];

struct Signer {
    client: Client,
    requests: Informer,
    config: Arc<Config>,
}

/// Starts the controller.
pub(super) fn start(context: &Context) {
    let client = (context.client_for)(IDENTITY);
    let config = context.config.clone();
    super::run(context, |requests| Signer { client, requests, config });
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Sign(Authority, Duration),
    Fail(String),
}

fn decide(request: &CertificateSigningRequest) -> Result<Plan, String> {
    let approved = conditions(request).iter().any(|c| c.type_ == "Approved") && !has(request, "Denied");
    if !approved || has(request, "Failed") || certificate(request).is_some() {
        return Ok(Plan::Nothing);
    }
    let Some((_, authority, check)) = SIGNERS.iter().find(|s| s.0 == request.spec.signer_name) else {
        return Ok(Plan::Nothing);
    };
    let requested = Requested::parse(&request.spec.request.0)?;
    match check(&requested, request.spec.usages.as_deref().unwrap_or_default()) {
        Ok(()) => Ok(Plan::Sign(*authority, lifetime(request.spec.expiration_seconds))),
        Err(why) => Ok(Plan::Fail(why)),
    }
}

fn lifetime(seconds: Option<i32>) -> Duration {
    let asked = seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
    asked.map_or(LONGEST, |d| d.clamp(SHORTEST, LONGEST))
}

#[async_trait]
impl Controller for Signer {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(request) = self.requests.get::<CertificateSigningRequest>(key) else { return Ok(Action::Done) };
        let mut request = (*request).clone();
        let spec = &request.spec;
        match decide(&request) {
            Ok(Plan::Nothing) => return Ok(Action::Done),
            Ok(Plan::Sign(authority, lifetime)) => {
                let usages = spec.usages.as_deref().unwrap_or_default();
                let signed = self.config.certificate_signer.sign(authority, &spec.request.0, usages, lifetime);
                let pem = signed.map_err(|e| Status::internal(format!("error auto signing csr: {e}")))?;
                request.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
            }
            Ok(Plan::Fail(why)) => add_condition(
                &mut request,
                CertificateSigningRequestCondition {
                    type_: "Failed".into(),
                    status: "True".into(),
                    reason: Some("SignerValidationFailure".into()),
                    message: Some(why),
                    last_update_time: Some(Time(Timestamp::now())),
                    ..Default::default()
                },
            ),
            Err(why) => return Err(Status::internal(format!("unable to parse csr {key:?}: {why}"))),
        }
        self.client.update_status(&request).await?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::{pem, usages};
    use super::*;

    fn request(signer: &str, names: &[&str], wanted: &[&str]) -> CertificateSigningRequest {
        let mut r = CertificateSigningRequest::default();
        r.spec.signer_name = signer.into();
        r.spec.request = ByteString(pem("system:node:a", "system:nodes", names).into_bytes());
        r.spec.usages = Some(usages(wanted));
        r
    }

    fn with(mut r: CertificateSigningRequest, condition: &str) -> CertificateSigningRequest {
        let (type_, status) = (condition.to_owned(), "True".to_owned());
        add_condition(&mut r, CertificateSigningRequestCondition { type_, status, ..Default::default() });
        r
    }

    #[test]
    fn only_what_is_approved_for_a_signer_of_ours_is_signed() {
        let client = || request(CLIENT, &[], &["client auth"]);
        assert_eq!(decide(&client()), Ok(Plan::Nothing));
        assert_eq!(decide(&with(client(), "Approved")), Ok(Plan::Sign(Authority::Clients, LONGEST)));
        assert_eq!(decide(&with(with(client(), "Approved"), "Failed")), Ok(Plan::Nothing));
        let other = request("example.com/a", &[], &["client auth"]);
        assert_eq!(decide(&with(other, "Approved")), Ok(Plan::Nothing));
        let serving = request(KUBELET_SERVING, &["a"], &["digital signature", "server auth"]);
        assert_eq!(decide(&with(serving, "Approved")), Ok(Plan::Sign(Authority::Kubelets, LONGEST)));
        let kubelet = request(KUBELET_CLIENT, &[], &["digital signature", "server auth"]);
        let Ok(Plan::Fail(why)) = decide(&with(kubelet, "Approved")) else { panic!("it is not valid") };
        assert!(why.starts_with("usages did not match"), "{why}");
    }

    #[test]
    fn less_life_can_be_asked_for_but_not_more() {
        assert_eq!(lifetime(None), LONGEST);
        assert_eq!(lifetime(Some(3600)), Duration::from_secs(3600));
        assert_eq!(lifetime(Some(1)), SHORTEST);
        assert_eq!(lifetime(Some(i32::MAX)), LONGEST);
    }
}
