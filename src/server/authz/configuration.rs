//! `AuthorizationConfiguration` (`apiserver.config.k8s.io`): which authorizers there are, in order
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authorization/#using-configuration-file-for-authorization>).

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::cel::Expression;
use api::field::{ErrorList, FieldError};
use serde::Deserialize;

use super::webhook::{OnFailure, Settings, Webhook};
use crate::authn::aggregate;
use crate::reloaded;
use crate::reviewer::Reviewer;

const TYPES: [&str; 3] = ["Node", "RBAC", "Webhook"];
const AUTHORIZED: Duration = Duration::from_secs(300);
const UNAUTHORIZED: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: f64 = 30.0;
const CONDITIONS_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    authorizers: Vec<Declared>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Declared {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    name: String,
    webhook: Option<DeclaredWebhook>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct DeclaredWebhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    match_conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConnectionInfo {
    r#type: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    expression: String,
}

/// One authorizer that is wanted.
pub(super) enum Wanted {
    Node,
    Rbac,
    Webhook(Box<Webhook>),
}

/// Reads a file in YAML or JSON.
///
/// # Errors
/// Everything that is wrong with it, in upstream's words.
pub(super) fn parse(text: &str) -> Result<Vec<Wanted>, String> {
    let document: Document = reloaded::document(text, "AuthorizationConfiguration")?;
    let mut errors = ErrorList::new();
    if document.authorizers.is_empty() {
        errors.push(FieldError::required("authorizers", "at least one authorization mode must be defined"));
    }
    let mut wanted = Vec::new();
    for (i, declared) in document.authorizers.iter().enumerate() {
        let path = format!("authorizers[{i}]");
        let before = &document.authorizers[..i];
        match wanted_of(declared, before, &path) {
            Ok(w) => wanted.push(w),
            Err(e) => errors.extend(e),
        }
    }
    if errors.is_empty() {
        return Ok(wanted);
    }
    Err(aggregate(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()))
}

fn wanted_of(declared: &Declared, before: &[Declared], path: &str) -> Result<Wanted, ErrorList> {
    let kind = declared.r#type.as_str();
    let field = |f: &str| format!("{path}.{f}");
    if kind.is_empty() {
        return Err(vec![FieldError::required(field("type"), "")]);
    }
    if !TYPES.contains(&kind) {
        return Err(vec![FieldError::not_supported(field("type"), kind, &TYPES)]);
    }
    if kind != "Webhook" && before.iter().any(|b| b.r#type == kind) {
        return Err(vec![FieldError::duplicate(field("type"), kind)]);
    }
    let mut errors = ErrorList::new();
    let name = declared.name.as_str();
    if name.is_empty() {
        errors.push(FieldError::required(field("name"), ""));
    } else if before.iter().any(|b| b.name == name) {
        errors.push(FieldError::duplicate(field("name"), name));
    } else if let Some(why) = api::names::dns1123_subdomain(name) {
        errors.push(FieldError::invalid(field("name"), name, format!("authorizer name is invalid: {why}")));
    }
    let wanted = match (kind, &declared.webhook) {
        ("Webhook", None) => {
            errors.push(FieldError::required(field("webhook"), "required when type=Webhook"));
            None
        }
        ("Webhook", Some(w)) => webhook(w, path, &mut errors).map(|w| Wanted::Webhook(Box::new(w))),
        (_, Some(_)) => {
            let why = "may only be specified when type=Webhook";
            errors.push(FieldError::invalid(field("webhook"), "non-null", why));
            None
        }
        ("Node", None) => Some(Wanted::Node),
        _ => Some(Wanted::Rbac),
    };
    wanted.filter(|_| errors.is_empty()).ok_or(errors)
}

/// A time as it is declared, in seconds; zero when it is not.
fn seconds(text: &str, field: String, errors: &mut ErrorList) -> f64 {
    let read = if text.is_empty() { Some(0.0) } else { api::time::go_duration(text) };
    read.unwrap_or_else(|| {
        errors.push(FieldError::invalid(field, text, format!("time: invalid duration {text:?}")));
        0.0
    })
}

fn one_of(given: &str, field: String, allowed: &[&str], errors: &mut ErrorList) {
    if given.is_empty() {
        errors.push(FieldError::required(field, ""));
    } else if !allowed.contains(&given) {
        errors.push(FieldError::not_supported(field, given, allowed));
    }
}

fn webhook(w: &DeclaredWebhook, path: &str, errors: &mut ErrorList) -> Option<Webhook> {
    let field = |f: &str| format!("{path}.{f}");
    let mut remembered = |text: &str, name: &str, usual: Duration, cached: Option<bool>| {
        let ttl = seconds(text, field(name), errors);
        if ttl < 0.0 {
            errors.push(FieldError::invalid(field(name), text, "must be > 0s"));
        }
        match cached {
            Some(false) => Duration::ZERO,
            _ if ttl == 0.0 => usual,
            _ => Duration::try_from_secs_f64(ttl).unwrap_or(usual),
        }
    };
    let authorized = remembered(&w.authorized_ttl, "authorizedTTL", AUTHORIZED, w.cache_authorized_requests);
    let unauthorized = remembered(&w.unauthorized_ttl, "unauthorizedTTL", UNAUTHORIZED, w.cache_unauthorized_requests);
    let timeout = seconds(&w.timeout, field("timeout"), errors);
    if timeout == 0.0 {
        errors.push(FieldError::required(field("timeout"), ""));
    } else if !(0.0..=TIMEOUT_MAX).contains(&timeout) {
        errors.push(FieldError::invalid(field("timeout"), w.timeout.as_str(), "must be > 0s and <= 30s"));
    }
    let version = &w.subject_access_review_version;
    one_of(version, field("subjectAccessReviewVersion"), &["v1", "v1beta1"], errors);
    one_of(&w.failure_policy, field("failurePolicy"), &["NoOpinion", "Deny"], errors);
    let conditions = conditions(w, path, errors);
    let reviewer = reviewer(&w.connection_info, &format!("{path}.connectionInfo"), errors)?;
    let settings = Settings {
        version: version.clone(),
        timeout: Duration::try_from_secs_f64(timeout).unwrap_or_default(),
        authorized,
        unauthorized,
        on_failure: if w.failure_policy == "Deny" { OnFailure::Deny } else { OnFailure::NoOpinion },
        conditions,
    };
    Some(Webhook::new(reviewer, settings))
}

fn conditions(w: &DeclaredWebhook, path: &str, errors: &mut ErrorList) -> Vec<Expression> {
    let version = format!("{path}.matchConditionSubjectAccessReviewVersion");
    match w.match_condition_subject_access_review_version.as_str() {
        "v1" => {}
        "" if w.match_conditions.is_empty() => {}
        "" => errors.push(FieldError::required(version, "required if match conditions are specified")),
        other => errors.push(FieldError::not_supported(version, other, &["v1"])),
    }
    let declared = &w.match_conditions;
    if declared.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(format!("{path}.matchConditions"), declared.len(), CONDITIONS_MAX));
    }
    let mut compiled = Vec::new();
    for (i, condition) in declared.iter().enumerate() {
        let field = format!("{path}.matchConditions[{i}].expression");
        let text = condition.expression.as_str();
        if text.trim().is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if declared[..i].iter().any(|c| c.expression == text) {
            errors.push(FieldError::duplicate(field, text));
        } else {
            match Expression::compile(text, &[]) {
                Ok(e) => compiled.push(e),
                Err(why) => errors.push(FieldError::invalid(field, text, why)),
            }
        }
    }
    compiled
}

fn reviewer(info: &ConnectionInfo, path: &str, errors: &mut ErrorList) -> Option<Reviewer> {
    let field = format!("{path}.kubeConfigFile");
    let file = info.kube_config_file.as_deref().filter(|f| *f != Path::new(""));
    match (info.r#type.as_str(), file) {
        ("KubeConfigFile", None) => errors.push(FieldError::required(field, "")),
        ("KubeConfigFile", Some(file)) => {
            let shown = file.display().to_string();
            if !file.is_absolute() {
                errors.push(FieldError::invalid(field, shown, "must be an absolute path"));
                return None;
            }
            match Reviewer::from_kubeconfig(file) {
                Ok(r) => return Some(r),
                Err(s) => errors.push(FieldError::invalid(field, shown, format!("error loading file: {}", s.message))),
            }
        }
        ("InClusterConfig", _) => {
            let why = "unable to load in-cluster configuration: the API server of sampan does not run in a pod; use KubeConfigFile";
            errors.push(FieldError::invalid(format!("{path}.type"), "InClusterConfig", why));
        }
        (kind, _) => one_of(kind, format!("{path}.type"), &["InClusterConfig", "KubeConfigFile"], errors),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(authorizers: &str) -> String {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:";
        parse(&format!("{head} {authorizers}")).err().unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_is_said_at_once() {
        assert_eq!(said("[{type: Node, name: node}, {type: RBAC, name: rbac}]"), "");
        assert!(said("[]").contains("at least one authorization mode must be defined"));
        assert_eq!(said("[{name: x}]"), "authorizers[0].type: Required value");
        assert!(said("[{type: ABAC, name: x}]").contains(r#"Unsupported value: "ABAC""#));
        assert!(
            said("[{type: RBAC, name: a}, {type: RBAC, name: b}]").contains("authorizers[1].type: Duplicate value")
        );
        assert!(
            said("[{type: RBAC, name: a}, {type: Node, name: a}]").contains("authorizers[1].name: Duplicate value")
        );
        assert!(said("[{type: RBAC, name: a, webhook: {}}]").contains("may only be specified when type=Webhook"));
        let all = said(
            "[{type: Webhook, name: w, webhook: {timeout: 31s, failurePolicy: Fail, \
            matchConditions: [{expression: \"request.user ==\"}], connectionInfo: {type: KubeConfigFile, kubeConfigFile: x}}}]",
        );
        for part in [
            "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            "authorizers[0].subjectAccessReviewVersion: Required value",
            "authorizers[0].failurePolicy: Unsupported value: \"Fail\"",
            "required if match conditions are specified",
            "authorizers[0].matchConditions[0].expression: Invalid value",
            "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"x\": must be an absolute path",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
}
