//! AdmissionReview: what a webhook is asked, and what it answers.

use std::collections::BTreeMap;

use api::Status;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::dynamic::request::Request;

const GROUP: &str = "admission.k8s.io";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Answer>,
}

/// What a webhook says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Answer {
    uid: String,
    pub(super) allowed: bool,
    pub(super) status: Option<Value>,
    /// A JSON patch in base64.
    pub(super) patch: Option<String>,
    pub(super) patch_type: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) audit_annotations: BTreeMap<String, String>,
}

/// The body of a call.
pub(super) fn question(version: &str, request: &Request<'_>, uid: &str) -> Bytes {
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request.to_value(uid),
    });
    review.to_string().into()
}

/// Reads the answer to the question of this version and UID.
pub(super) fn answer(body: &[u8], version: &str, uid: &str) -> Result<Answer, String> {
    let review: Review = serde_json::from_slice(body).map_err(|e| format!("it is not an AdmissionReview: {e}"))?;
    let wanted = format!("{GROUP}/{version}");
    // Webhooks of the first version may leave these out.
    let lax = version == "v1beta1" && review.kind.is_empty() && review.api_version.is_empty();
    if !lax && (review.kind != "AdmissionReview" || review.api_version != wanted) {
        return Err(format!(
            "expected webhook response of {wanted}, Kind=AdmissionReview, got {}, Kind={}",
            review.api_version, review.kind
        ));
    }
    let response = review.response.ok_or("webhook response was absent")?;
    if version == "v1" && response.uid != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
    }
    let patched = response.patch.as_deref().is_some_and(|p| !p.is_empty());
    match response.patch_type.as_deref() {
        Some("JSONPatch") if patched || version == "v1beta1" => {}
        Some("JSONPatch") => return Err("webhook returned response.patchType but not response.patch".to_owned()),
        Some(other) => return Err(format!("invalid response.patchType: {other:?}, expected \"JSONPatch\"")),
        None if patched && version == "v1" => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        None => {}
    }
    Ok(response)
}

/// A webhook's no, as its client is told.
pub(super) fn refusal(webhook: &str, status: Option<Value>) -> Status {
    let mut s: Status = status.and_then(|s| serde_json::from_value(s).ok()).unwrap_or_default();
    if s.code < 400 {
        s.code = 400;
    }
    s.status = "Failure".to_owned();
    let denied = format!("admission webhook {webhook:?} denied the request");
    s.message = match (s.message.as_str(), s.reason.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_what_the_webhook_says() {
        let s = refusal("a.b.c", Some(json!({"message": "no", "reason": "Odd", "code": 418})));
        assert_eq!((s.code, s.reason.as_str()), (418, "Odd"));
        assert_eq!(s.message, "admission webhook \"a.b.c\" denied the request: no");
        let s = refusal("a.b.c", Some(json!({"reason": "Odd", "code": 200})));
        assert_eq!((s.code, s.message.as_str()), (400, "admission webhook \"a.b.c\" denied the request: Odd"));
        assert!(refusal("a.b.c", None).message.ends_with("denied the request without explanation"));
    }

    #[test]
    fn an_answer_must_be_to_the_question() {
        let review = |response: Value| {
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string()
        };
        let said = |body: &str| answer(body.as_bytes(), "v1", "u").map(|a| a.allowed).map_err(|e| e.to_string());
        assert_eq!(said(&review(json!({"uid": "u", "allowed": true}))), Ok(true));
        assert_eq!(said(&review(json!({"uid": "v"}))).unwrap_err(), "expected response.uid=\"u\", got \"v\"");
        assert_eq!(said(&review(Value::Null)).unwrap_err(), "webhook response was absent");
        let patch = said(&review(json!({"uid": "u", "patch": "W10="}))).unwrap_err();
        assert_eq!(patch, "webhook returned response.patch but not response.patchType");
        assert!(said(r#"{"kind": "Pod"}"#).unwrap_err().contains("got , Kind=Pod"));
    }
}
