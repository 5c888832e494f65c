//! Certificate signing requests: what may be asked, and who may change which part of one
//! (upstream: `pkg/apis/certificates/validation`). That the request is a PKCS#10 document with a
//! valid signature is checked by the server's admission, which has the libraries for it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, name};
use super::{list, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

/// Conditions that are only ever `True`.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];
const SHORTEST_SECONDS: i64 = 600;
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn keeps_spec(&self) -> bool {
        true
    }

    fn prepare_create(&self, o: &mut Value) {
        o["status"] = json!({});
    }
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        new["spec"] = old["spec"].clone();
    }
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        for kind in ["Approved", "Denied"] {
            keep_conditions(new, old, kind);
        }
    }
    fn prepare_aspect(&self, _aspect: &str, new: &mut Value, old: &Value) {
        new["spec"] = old["spec"].clone();
        new["status"]["certificate"] = old["status"]["certificate"].clone();
        if new["status"]["certificate"].is_null()
            && let Some(s) = new["status"].as_object_mut()
        {
            s.remove("certificate");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let spec = &o["spec"];
        let mut errors = usages(spec);
        errors.extend(signer_name(text(spec, "signerName")));
        if let Some(n) = spec["expirationSeconds"].as_i64().filter(|n| *n < SHORTEST_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid("spec.expirationSeconds", n, detail));
        }
        errors.extend(conditions(o));
        errors
    }
    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(new);
        errors.extend(decisions_kept(new, old));
        errors.extend(decisions_unchanged(new, old));
        let had = text(&old["status"], "certificate");
        if !had.is_empty() && had != text(&new["status"], "certificate") {
            let detail = "updates may not modify existing certificate content";
            errors.push(FieldError::forbidden("status.certificate", detail));
        }
        errors
    }
    fn validate_aspect(&self, _aspect: &str, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(new);
        errors.extend(decisions_kept(new, old));
        errors
    }
    fn name_error(&self, _name: &str) -> Option<String> {
        None
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &o["spec"];
        let duration = spec["expirationSeconds"].as_i64().map_or("<none>".to_owned(), crate::time::human_duration);
        vec![
            name(o),
            age(o, now),
            text(spec, "signerName").into(),
            text(spec, "username").into(),
            duration.into(),
            phase(o).into(),
        ]
    }
}

fn phase(o: &Value) -> String {
    let has = |t: &str| of_type(o, t).next().is_some();
    let mut phase = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        phase.push_str(",Failed");
    }
    if !text(&o["status"], "certificate").is_empty() {
        phase.push_str(",Issued");
    }
    phase
}

fn of_type<'a>(o: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(&o["status"], "conditions").filter(move |c| text(c, "type") == kind)
}

/// Gives conditions of a type their old contents, unless some were added or removed: that is an error.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let had: Vec<&Value> = of_type(old, kind).collect();
    let Some(all) = new["status"]["conditions"].as_array_mut() else { return };
    let mut places: Vec<&mut Value> = all.iter_mut().filter(|c| c["type"] == kind).collect();
    if places.len() == had.len() {
        for (place, value) in places.iter_mut().zip(had) {
            **place = value.clone();
        }
    }
}

fn usages(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let given: Vec<&str> = list(spec, "usages").filter_map(Value::as_str).collect();
    if given.is_empty() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    for (i, usage) in given.iter().enumerate() {
        let field = format!("spec.usages[{i}]");
        if !USAGES.contains(usage) {
            errors.push(FieldError::not_supported(field.clone(), *usage, &USAGES));
        }
        if given[..i].contains(usage) {
            errors.push(FieldError::duplicate(field, *usage));
        }
    }
    errors
}

fn signer_name(given: &str) -> ErrorList {
    const FIELD: &str = "spec.signerName";
    let one = |detail: &str| vec![FieldError::invalid(FIELD, given, detail)];
    if given.is_empty() {
        return vec![FieldError::required(FIELD, "")];
    }
    if given == LEGACY {
        return one("the legacy signerName is not allowed via this API version");
    }
    let mut parts = given.split('/');
    let (Some(domain), Some(path), None) = (parts.next(), parts.next(), parts.next()) else {
        return one("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    let bad_label = |part: &str, check: fn(&str) -> Option<String>| {
        let found = part.split('.').find_map(|l| check(l).map(|e| format!("validating label {l:?}: {e}")));
        found.map(|e| FieldError::invalid(FIELD, part, e))
    };
    let mut errors = ErrorList::new();
    if domain.len() > LONGEST_NAME {
        errors.push(FieldError::too_long(FIELD, LONGEST_NAME));
    }
    errors.extend(bad_label(domain, names::dns1123_label));
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(FIELD, domain, detail));
    }
    errors.extend(bad_label(path, names::dns1123_subdomain));
    // A domain, a slash, and room for <namespace>.<name>.
    let longest = 2 * LONGEST_NAME + LONGEST_LABEL + 2;
    if given.len() > longest {
        errors.push(FieldError::too_long(FIELD, longest));
    }
    errors
}

fn conditions(o: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, c) in list(&o["status"], "conditions").enumerate() {
        let field = |f: &str| format!("status.conditions[{i}].{f}");
        let (kind, status) = (text(c, "type"), text(c, "status"));
        if kind.is_empty() {
            errors.push(FieldError::required(field("type"), ""));
        }
        let allowed: &[&str] = if DECISIONS.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(FieldError::required(field("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(FieldError::not_supported(field("status"), status, allowed));
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && seen.contains(&other) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(field("type"), kind, detail));
        }
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(field("type"), kind));
        }
        seen.push(kind);
    }
    errors
}

fn decisions_kept(new: &Value, old: &Value) -> ErrorList {
    let removed = DECISIONS.iter().filter(|t| of_type(new, t).count() < of_type(old, t).count());
    removed
        .map(|t| {
            FieldError::forbidden("status.conditions", format!("updates may not remove a condition of type {t:?}"))
        })
        .collect()
}

fn decisions_unchanged(new: &Value, old: &Value) -> ErrorList {
    let added = ["Approved", "Denied"].into_iter().filter(|t| of_type(new, t).count() > of_type(old, t).count());
    added
        .map(|t| FieldError::forbidden("status.conditions", format!("updates may not add a condition of type {t:?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        json!({"spec": {"signerName": "example.com/a", "usages": ["client auth"], "request": "x"}, "status": {}})
    }

    #[test]
    fn a_signer_is_a_domain_and_a_path() {
        assert!(CertificateSigningRequest.validate(&request()).is_empty());
        for wrong in ["", "a", "a/b", "a.b/c/d", "A.b/c", LEGACY] {
            let mut o = request();
            o["spec"]["signerName"] = wrong.into();
            assert_eq!(CertificateSigningRequest.validate(&o).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn only_the_approval_adds_a_decision_and_nothing_takes_one_back() {
        let old = request();
        let mut approved = old.clone();
        approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
        assert_eq!(CertificateSigningRequest.validate_status(&approved, &old).len(), 1);
        assert!(CertificateSigningRequest.validate_aspect("approval", &approved, &old).is_empty());
        assert_eq!(CertificateSigningRequest.validate_aspect("approval", &old, &approved).len(), 1);
        let mut both = approved.clone();
        both["status"]["conditions"] =
            json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]);
        assert_eq!(CertificateSigningRequest.validate_aspect("approval", &both, &old).len(), 1);
    }

    #[test]
    fn a_status_update_keeps_decisions_as_they_were() {
        let mut old = request();
        old["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "mine"}]);
        let mut new = old.clone();
        new["status"]["conditions"][0]["reason"] = "other".into();
        CertificateSigningRequest.prepare_status(&mut new, &old);
        assert_eq!(new, old);
    }
}
