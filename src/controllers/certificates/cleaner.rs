//! Deletes requests that are over: an hour after they were issued, denied or failed, a day after
//! they were made when nobody decided, and when their certificate has expired
//! (upstream: `pkg/controller/certificates/cleaner`).
//!
//! Nothing polls: each request is looked at again when its time comes.

use std::time::Duration;

use api::Status;
use api::k8s::certificates::v1::CertificateSigningRequest;
use api::meta::apis::meta::v1::Time;
use async_trait::async_trait;
use client::{Client, Informer};
use jiff::Timestamp;
use serde_json::json;
use x509_parser::pem::Pem;

use super::{IDENTITY, certificate, conditions};
use crate::runtime::{Action, Context, Controller};

const DECIDED: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

struct Cleaner {
    client: Client,
    requests: Informer,
}

/// Starts the controller.
pub(super) fn start(context: &Context) {
    let client = (context.client_for)(IDENTITY);
    super::run(context, |requests| Cleaner { client, requests });
}

/// When a request is over; `None` while that depends on others.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |t: Option<&Time>, d: Duration| t.and_then(|t| t.0.checked_add(d).ok());
    if conditions(request).is_empty() {
        return after(request.metadata.creation_timestamp.as_ref(), PENDING);
    }
    let issued = certificate(request);
    let decided = conditions(request).iter().filter(|c| match c.type_.as_str() {
        "Approved" => issued.is_some(),
        "Denied" | "Failed" => true,
        _ => false,
    });
    let decided = decided.filter_map(|c| after(c.last_update_time.as_ref(), DECIDED)).min();
    decided.into_iter().chain(issued.and_then(expiry)).min()
}

fn expiry(certificate: &[u8]) -> Option<Timestamp> {
    let block = Pem::iter_from_buffer(certificate).next()?.ok()?;
    let until = block.parse_x509().ok()?.validity().not_after.timestamp();
    Timestamp::from_second(until).ok()
}

#[async_trait]
impl Controller for Cleaner {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(request) = self.requests.get::<CertificateSigningRequest>(key) else { return Ok(Action::Done) };
        let Some(end) = end(&request) else { return Ok(Action::Done) };
        let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let same = json!({"preconditions": {"uid": request.metadata.uid}});
        match self.client.delete_with::<CertificateSigningRequest>("", key, &same).await {
            Err(s) if !s.is_not_found() => Err(s),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::ByteString;
    use api::k8s::certificates::v1::CertificateSigningRequestCondition;
    use rcgen::{CertificateParams, KeyPair};

    use super::super::add_condition;
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap()
    }

    fn request(condition: &str) -> CertificateSigningRequest {
        let mut r = CertificateSigningRequest::default();
        r.metadata.creation_timestamp = Some(Time(at(0)));
        if !condition.is_empty() {
            let (type_, last_update_time) = (condition.to_owned(), Some(Time(at(5))));
            add_condition(&mut r, CertificateSigningRequestCondition { type_, last_update_time, ..Default::default() });
        }
        r
    }

    #[test]
    fn each_state_has_its_end() {
        assert_eq!(end(&request("")), Some(at(24)));
        assert_eq!(end(&request("Denied")), Some(at(6)));
        assert_eq!(end(&request("Failed")), Some(at(6)));
        assert_eq!(end(&request("Approved")), None, "its signer may still come");
        let mut issued = request("Approved");
        issued.status.get_or_insert_default().certificate = Some(ByteString(b"any".to_vec()));
        assert_eq!(end(&issued), Some(at(6)));
        let mut p = CertificateParams::new(Vec::new()).unwrap();
        p.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let expired = p.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        issued.status.get_or_insert_default().certificate = Some(ByteString(expired.into_bytes()));
        assert!(end(&issued).unwrap() < at(0), "its certificate is no good any more");
    }
}
