//! `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{default_matching, list, list_mut, match_conditions, one_of, rule, selectors, set, text};
use crate::cel::authorizer::NAMES;
use crate::field::{ErrorList, FieldError};
use crate::kinds::cells::{age, name};
use crate::names;
use crate::resource::Strategy;

/// The forms of AdmissionReview that the server can speak.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const URL_FORM: &str = "; desired format: https://host[/path]";

/// Either kind: mutating webhooks have a `reinvocationPolicy` more.
pub(in crate::kinds) struct WebhookConfiguration {
    pub(in crate::kinds) mutating: bool,
}

impl Strategy for WebhookConfiguration {
    fn default(&self, o: &mut Value) {
        for hook in list_mut(o, "webhooks") {
            let Some(m) = hook.as_object_mut() else { continue };
            set(m, "failurePolicy", "Fail");
            set(m, "timeoutSeconds", 10);
            if self.mutating {
                set(m, "reinvocationPolicy", "Never");
            }
            default_matching(m, "rules");
            if let Some(service) = hook.pointer_mut("/clientConfig/service").and_then(Value::as_object_mut) {
                set(service, "port", 443);
            }
        }
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        new.get("webhooks") != old.get("webhooks")
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut names = HashSet::new();
        for (i, hook) in list(o, "webhooks").enumerate() {
            let path = format!("webhooks[{i}]");
            errors.extend(webhook(hook, &path));
            let name = text(hook, "name");
            if !name.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(o), list(o, "webhooks").count().into(), age(o, now)]
    }
}

fn webhook(hook: &Value, path: &str) -> ErrorList {
    let mut errors = full_name(text(hook, "name"), &format!("{path}.name"));
    for (i, r) in list(hook, "rules").enumerate() {
        errors.extend(rule(r, &format!("{path}.rules[{i}]")));
    }
    errors.extend(one_of(hook, "failurePolicy", path, &["Fail", "Ignore"]));
    errors.extend(one_of(hook, "matchPolicy", path, &["Equivalent", "Exact"]));
    errors.extend(one_of(hook, "reinvocationPolicy", path, &["IfNeeded", "Never"]));
    if text(hook, "sideEffects").is_empty() {
        let detail = "must specify one of None, NoneOnDryRun";
        errors.push(FieldError::required(format!("{path}.sideEffects"), detail));
    } else {
        errors.extend(one_of(hook, "sideEffects", path, &["None", "NoneOnDryRun"]));
    }
    if let Some(n) = hook["timeoutSeconds"].as_i64().filter(|n| !(1..=30).contains(n)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(format!("{path}.timeoutSeconds"), n, detail));
    }
    errors.extend(selectors(hook, path));
    errors.extend(client(&hook["clientConfig"], &format!("{path}.clientConfig")));
    errors.extend(match_conditions(hook, &format!("{path}.matchConditions"), &NAMES));
    errors.extend(review_versions(hook, &format!("{path}.admissionReviewVersions")));
    errors
}

fn full_name(name: &str, path: &str) -> ErrorList {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let wrong = names::dns1123_subdomain_errors(name);
    if !wrong.is_empty() {
        return wrong.into_iter().map(|e| FieldError::invalid(path, name, e)).collect();
    }
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        return vec![FieldError::invalid(path, name, detail)];
    }
    ErrorList::new()
}

fn review_versions(hook: &Value, path: &str) -> ErrorList {
    let versions: Vec<&str> = list(hook, "admissionReviewVersions").filter_map(Value::as_str).collect();
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return vec![FieldError::required(path, format!("must specify one of {known}"))];
    }
    let mut errors = unique_versions(versions.iter().copied(), path);
    if !versions.iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        let detail = format!("must include at least one of {known}");
        errors.push(FieldError::invalid(path, hook["admissionReviewVersions"].clone(), detail));
    }
    errors
}

/// Versions of a review, each of which may be named once.
pub(crate) fn unique_versions<'a>(versions: impl Iterator<Item = &'a str>, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = HashSet::new();
    for (i, v) in versions.enumerate() {
        if !seen.insert(v) {
            errors.push(FieldError::invalid(format!("{path}[{i}]"), v, "duplicate version"));
        } else if let Some(e) = names::dns1035_label(v) {
            errors.push(FieldError::invalid(format!("{path}[{i}]"), v, e));
        }
    }
    errors
}

/// Where a webhook of any kind is.
pub(crate) fn client(config: &Value, path: &str) -> ErrorList {
    match (config["url"].as_str(), config.get("service")) {
        (Some(u), None) => url(u, &format!("{path}.url")),
        (None, Some(s)) => service(s, &format!("{path}.service")),
        _ => vec![FieldError::required(path, "exactly one of url or service is required")],
    }
}

fn url(text: &str, path: &str) -> ErrorList {
    let Some((scheme, rest)) = text.split_once("://") else {
        let detail = format!("url must be a valid URL: {text:?} has no scheme{URL_FORM}");
        return vec![FieldError::required(path, detail)];
    };
    let mut errors = ErrorList::new();
    let mut wrong = |value: &str, detail: &str| {
        errors.push(FieldError::invalid(path, value, format!("{detail}{URL_FORM}")));
    };
    if scheme != "https" {
        wrong(scheme, "'https' is the only allowed URL scheme");
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        wrong(host, "host must be specified");
    }
    if !user.is_empty() {
        wrong(user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        wrong(fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        wrong(query, "query parameters are not permitted in the URL");
    }
    errors
}

fn service(service: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.push(FieldError::required(format!("{path}.{field}"), format!("service {field} is required")));
        }
    }
    if let Some(port) = service["port"].as_i64()
        && let Some(e) = names::port_number(port)
    {
        errors.push(FieldError::invalid(format!("{path}.port"), port, format!("port is not valid: {e}")));
    }
    let Some(p) = service["path"].as_str().filter(|p| !matches!(*p, "" | "/")) else { return errors };
    let wrong = |detail: String| FieldError::invalid(format!("{path}.path"), p, detail);
    let Some(segments) = p.strip_prefix('/') else {
        errors.push(wrong("must start with a '/'".to_owned()));
        return errors;
    };
    for (i, segment) in segments.strip_suffix('/').unwrap_or(segments).split('/').enumerate() {
        if segment.is_empty() {
            errors.push(wrong(format!("segment[{i}] may not be empty")));
        } else {
            let wrongs = names::dns1123_subdomain_errors(segment);
            errors.extend(wrongs.into_iter().map(|e| wrong(format!("segment[{i}]: {e}"))));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn configuration() -> Value {
        json!({"metadata": {"name": "a"}, "webhooks": [{
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }]})
    }

    #[test]
    fn a_webhook_gets_upstreams_defaults() {
        let mut o = configuration();
        WebhookConfiguration { mutating: true }.default(&mut o);
        let hook = &o["webhooks"][0];
        for (field, value) in [
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("timeoutSeconds", json!(10)),
            ("reinvocationPolicy", json!("Never")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
        ] {
            assert_eq!(hook[field], value, "{field}");
        }
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(WebhookConfiguration { mutating: true }.validate(&o), vec![]);
    }

    #[test]
    fn a_service_may_be_called_at_its_root() {
        for path in ["", "/", "/a/b/"] {
            assert_eq!(service(&json!({"name": "s", "namespace": "n", "path": path}), "p"), vec![], "{path:?}");
        }
        assert_eq!(service(&json!({"name": "s", "namespace": "n", "path": "/a//b"}), "p").len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let cases = [
            (
                "/webhooks/0/name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            (
                "/webhooks/0/sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "/webhooks/0/sideEffects",
                json!(null),
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                "/webhooks/0/timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "/webhooks/0/clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "/webhooks/0/clientConfig",
                json!({"url": "http://a/b"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "/webhooks/0/admissionReviewVersions",
                json!([]),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                "/webhooks/0/rules/0/operations",
                json!(["*", "CREATE"]),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "/webhooks/0/rules/0/resources",
                json!(["pods/*", "pods/log"]),
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            ),
            (
                "/webhooks/0/clientConfig/service/path",
                json!("x"),
                "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
            ),
            (
                "/webhooks/0/matchConditions",
                json!([{"name": "a", "expression": ""}]),
                "webhooks[0].matchConditions[0].expression: Required value",
            ),
        ];
        for (pointer, value, wanted) in cases {
            let mut o = configuration();
            o["webhooks"][0]["timeoutSeconds"] = 10.into();
            o["webhooks"][0]["matchConditions"] = json!([]);
            o["webhooks"][0]["clientConfig"]["service"]["path"] = "/".into();
            *o.pointer_mut(pointer).unwrap() = value;
            let errors = WebhookConfiguration { mutating: false }.validate(&o);
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, [wanted]);
        }
        let mut twice = configuration();
        let hook = twice["webhooks"][0].clone();
        twice["webhooks"].as_array_mut().unwrap().push(hook);
        let errors = WebhookConfiguration { mutating: false }.validate(&twice);
        assert_eq!(errors[0].to_string(), "webhooks[1].name: Duplicate value: \"a.b.c\"");
    }
}
