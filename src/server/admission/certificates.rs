//! Certificate signing requests: who asked is written down by the server, and only who may use a
//! signer approves and signs for it (upstream: CertificateApproval, CertificateSigning,
//! CertificateSubjectRestriction, and what the kind's own strategy does with the user).

use std::sync::Weak;

use api::Status;
use api::field::FieldError;
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::request::RequestInfo;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub(super) struct Certificates(pub(super) Weak<Server>);

#[async_trait]
impl Admission for Certificates {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if !is_request(a) {
            return Ok(());
        }
        match (a.operation, old) {
            (Operation::Create, _) => set_requestor(a, object),
            (Operation::Update, Some(old)) if !a.subresource.is_empty() => {
                set_condition_times(object, old, &api::time::rfc3339(Timestamp::now()));
            }
            _ => {}
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| is_request(a)) else { return Ok(()) };
        match (a.operation, a.subresource) {
            (Operation::Create, "") => check_request(a, object),
            (Operation::Update, "approval") => self.may_use_signer(a, "approve", old.unwrap_or(object)).await,
            (Operation::Update, "status") if old.is_some_and(|old| is_signed(object, old)) => {
                self.may_use_signer(a, "sign", old.unwrap_or(object)).await
            }
            _ => Ok(()),
        }
    }
}

fn is_request(a: &Attributes<'_>) -> bool {
    a.resource.group == GROUP && a.resource.plural == "certificatesigningrequests"
}

fn set_requestor(a: &Attributes<'_>, object: &mut Value) {
    let Some(spec) = object["spec"].as_object_mut() else { return };
    spec.insert("username".into(), a.user.name.clone().into());
    spec.insert("groups".into(), json!(a.user.groups));
    for (field, value) in [("uid", json!(a.user.uid)), ("extra", json!(a.user.extra))] {
        if value == "" || value == json!({}) {
            spec.remove(field);
        } else {
            spec.insert(field.into(), value);
        }
    }
}

/// Conditions without times get them; one whose status is what it was keeps its transition.
fn set_condition_times(object: &mut Value, old: &Value, now: &str) {
    let had = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for c in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if c["lastUpdateTime"].is_null() {
            c["lastUpdateTime"] = now.into();
        }
        if c["lastTransitionTime"].is_null() {
            let before = had.iter().find(|o| o["type"] == c["type"] && o["status"] == c["status"]);
            let time = before.map(|o| o["lastTransitionTime"].clone()).filter(Value::is_string);
            c["lastTransitionTime"] = time.unwrap_or_else(|| now.into());
        }
    }
}

/// Whether an update of the status is a signer's: a certificate, or the news that there is none.
fn is_signed(new: &Value, old: &Value) -> bool {
    let failed = |o: &Value| -> Vec<Value> {
        let all = o["status"]["conditions"].as_array();
        all.into_iter().flatten().filter(|c| c["type"] == "Failed").cloned().collect()
    };
    new["status"]["certificate"] != old["status"]["certificate"] || failed(new) != failed(old)
}

/// The request must be one PEM block of PKCS#10, signed with the key that it is for.
fn check_request(a: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let given = object["spec"]["request"].as_str().unwrap_or_default();
    let invalid = |why: String| {
        let e = FieldError::invalid("spec.request", given, why);
        Status::invalid(GROUP, &a.resource.kind, a.name, &vec![e])
    };
    let text = BASE64_STANDARD.decode(given).map_err(|e| invalid(e.to_string()))?;
    let wrong_block = || invalid("PEM block type must be CERTIFICATE REQUEST".to_owned());
    let block = Pem::iter_from_buffer(&text).next().and_then(Result::ok).ok_or_else(wrong_block)?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(wrong_block());
    }
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|e| invalid(format!("not a PKCS#10 request: {e}")))?;
    request.verify_signature().map_err(|e| invalid(e.to_string()))?;
    let organizations = request.certification_request_info.subject.iter_organization();
    let mut organizations = organizations.filter_map(|o| o.as_str().ok());
    if object["spec"]["signerName"] == CLIENT_SIGNER && organizations.any(|o| o == MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(Status::forbidden(GROUP, &a.resource.plural, a.name, &why));
    }
    Ok(())
}

/// The common name that a request, which has been checked, is for.
pub(super) fn common_name(object: &Value) -> Option<String> {
    let text = BASE64_STANDARD.decode(object["spec"]["request"].as_str()?).ok()?;
    let block = Pem::iter_from_buffer(&text).next()?.ok()?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let mut names = request.certification_request_info.subject.iter_common_name();
    names.next()?.as_str().ok().map(str::to_owned)
}

impl Certificates {
    /// Whether the user has a verb on the signer by name, or on all of its domain.
    async fn may_use_signer(&self, a: &Attributes<'_>, verb: &str, object: &Value) -> Result<(), Status> {
        let server = alive(&self.0)?;
        let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
        let domain = signer.split('/').next().unwrap_or_default();
        for name in [signer.to_owned(), format!("{domain}/*")] {
            let question = RequestInfo {
                verb: verb.to_owned(),
                is_resource: true,
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..Default::default()
            };
            if server.allows(a.user, &question).await {
                return Ok(());
            }
        }
        let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(Status::forbidden(GROUP, &a.resource.plural, a.name, &why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_stays_keeps_the_time_of_its_transition() {
        let old = json!({"status": {"conditions": [
            {"type": "A", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}});
        set_condition_times(&mut new, &old, "2021-01-01T00:00:00Z");
        let time = |i: usize, f: &str| new["status"]["conditions"][i][f].as_str().unwrap().to_owned();
        assert_eq!(time(0, "lastTransitionTime"), "2020-01-01T00:00:00Z");
        assert_eq!(time(0, "lastUpdateTime"), "2021-01-01T00:00:00Z");
        assert_eq!(time(1, "lastTransitionTime"), "2021-01-01T00:00:00Z");
    }
}
