//! A service elsewhere that decides: it is sent a SubjectAccessReview
//! (<https://kubernetes.io/docs/reference/access-authn-authz/webhook/>).

use std::time::Duration;

use api::cel::{Environment, Expression};
use api::selector::{FieldSelector, LabelSelector};
use serde_json::{Map, Value, json};

use super::Decision;
use crate::admission::dynamic::conditions::Conditions;
use crate::expiring::Expiring;
use crate::request::{RequestInfo, User};
use crate::reviewer::Reviewer;

/// Answers that are remembered, and how large a question may be for that.
const REMEMBERED_MAX: usize = 8192;
const QUESTION_MAX: usize = 10_000;

/// What a question that could not be asked becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// A refusal.
    Deny,
    /// A question for the next authorizer.
    NoOpinion,
}

/// What is known of a service beside where it is.
pub(super) struct Settings {
    pub(super) version: String,
    pub(super) timeout: Duration,
    /// How long it is remembered that somebody may do something.
    pub(super) authorized: Duration,
    /// How long, that they may not.
    pub(super) unauthorized: Duration,
    pub(super) on_failure: OnFailure,
    /// When the service is asked at all.
    pub(super) conditions: Vec<Expression>,
}

/// See the module.
pub(super) struct Webhook {
    reviewer: Reviewer,
    settings: Settings,
    conditions: Conditions,
    remembered: Expiring<String, Decision>,
}

impl Webhook {
    pub(super) fn new(reviewer: Reviewer, mut settings: Settings) -> Webhook {
        let conditions = Conditions::of(std::mem::take(&mut settings.conditions));
        Webhook { reviewer, settings, conditions, remembered: Expiring::new(REMEMBERED_MAX) }
    }

    /// Decides, and tells what kept it from that.
    pub(super) async fn decide(&self, user: &User, request: &RequestInfo) -> (Decision, Option<String>) {
        match self.asked(user, request).await {
            Ok((decision, error)) => (decision, error),
            Err(e) => {
                tracing::error!(error = e, "the authorization webhook cannot be asked");
                let decision = match self.settings.on_failure {
                    OnFailure::Deny => Decision::Deny(String::new()),
                    OnFailure::NoOpinion => Decision::NoOpinion(String::new()),
                };
                (decision, Some(e))
            }
        }
    }

    async fn asked(&self, user: &User, request: &RequestInfo) -> Result<(Decision, Option<String>), String> {
        if !self.conditions.is_empty() {
            let mut environment = Environment::default();
            environment.bind("request", &specification(user, request, true));
            if !self.conditions.hold(&environment)? {
                return Ok((Decision::NoOpinion(String::new()), None));
            }
        }
        let mut spec = specification(user, request, false);
        let key = spec.to_string();
        if let Some(decision) = self.remembered.get(&key) {
            return Ok((decision, None));
        }
        let version = &self.settings.version;
        if version == "v1beta1"
            && let Some(spec) = spec.as_object_mut()
            && let Some(groups) = spec.remove("groups")
        {
            spec.insert("group".to_owned(), groups);
        }
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{version}"), "kind": "SubjectAccessReview",
            "metadata": {"creationTimestamp": null}, "spec": spec, "status": {"allowed": false},
        });
        let answer = self.reviewer.post(&review, self.settings.timeout).await?;
        let (decision, error) = read(&answer["status"]);
        if error.is_none() && controlled_size(request) < QUESTION_MAX {
            let may = matches!(decision, Decision::Allow(_));
            let time = if may { self.settings.authorized } else { self.settings.unauthorized };
            self.remembered.put(key, decision.clone(), time);
        }
        Ok((decision, error))
    }
}

fn controlled_size(r: &RequestInfo) -> usize {
    [&r.namespace, &r.verb, &r.group, &r.version, &r.resource, &r.subresource, &r.name, &r.path]
        .iter()
        .map(|t| t.len())
        .sum()
}

/// The question. Expressions see all fields, the service those that say something.
fn specification(user: &User, request: &RequestInfo, whole: bool) -> Value {
    let texts = |list: &[(&str, &str)]| -> Map<String, Value> {
        let kept = list.iter().filter(|(_, v)| whole || !v.is_empty());
        kept.map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect()
    };
    let r = request;
    let mut spec = texts(&[("user", &user.name), ("uid", &user.uid)]);
    if whole || !user.groups.is_empty() {
        spec.insert("groups".into(), json!(user.groups));
    }
    if whole || !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    if !r.is_resource {
        spec.insert("nonResourceAttributes".into(), texts(&[("path", &r.path), ("verb", &r.verb)]).into());
        return spec.into();
    }
    let mut attributes = texts(&[
        ("namespace", &r.namespace),
        ("verb", &r.verb),
        ("group", &r.group),
        ("version", &r.version),
        ("resource", &r.resource),
        ("subresource", &r.subresource),
        ("name", &r.name),
    ]);
    for (field, requirements) in [("fieldSelector", fields(r)), ("labelSelector", labels(r))] {
        if !requirements.is_empty() {
            attributes.insert(field.into(), json!({"requirements": requirements}));
        }
    }
    spec.insert("resourceAttributes".into(), attributes.into());
    spec.into()
}

/// What cannot be read is left out, which asks for more, not less.
fn fields(r: &RequestInfo) -> Vec<Value> {
    let Ok(selector) = FieldSelector::parse(&r.field_selector) else { return Vec::new() };
    let one = |f: &api::selector::FieldRequirement| {
        let operator = if f.equal { "In" } else { "NotIn" };
        json!({"key": f.path, "operator": operator, "values": [f.value]})
    };
    selector.requirements().iter().map(one).collect()
}

fn labels(r: &RequestInfo) -> Vec<Value> {
    use api::selector::Operator;
    let Ok(selector) = LabelSelector::parse(&r.label_selector) else { return Vec::new() };
    let one = |l: &api::selector::Requirement| {
        let operator = match l.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut v = json!({"key": l.key, "operator": operator});
        if !l.values.is_empty() {
            v["values"] = json!(l.values);
        }
        Some(v)
    };
    selector.requirements().iter().filter_map(one).collect()
}

fn read(status: &Value) -> (Decision, Option<String>) {
    let is = |f: &str| status[f] == true;
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (is("denied"), is("allowed")) {
        (true, true) => {
            let why = "webhook subject access review returned both allow and deny response";
            (Decision::Deny(reason), Some(why.to_owned()))
        }
        (true, false) => (Decision::Deny(reason), None),
        (false, true) => (Decision::Allow(reason), None),
        (false, false) => (Decision::NoOpinion(reason), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_what_is_known() {
        let user = User::authenticated("ann", &["g"]);
        let list = RequestInfo {
            verb: "list".into(),
            is_resource: true,
            version: "v1".into(),
            resource: "pods".into(),
            field_selector: "spec.nodeName=a,status.phase!=Failed".into(),
            label_selector: "app in (x,y),!z".into(),
            ..Default::default()
        };
        let expected = json!({"user": "ann", "groups": ["g", "system:authenticated"], "resourceAttributes": {
            "verb": "list", "version": "v1", "resource": "pods",
            "fieldSelector": {"requirements": [
                {"key": "spec.nodeName", "operator": "In", "values": ["a"]},
                {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]},
            "labelSelector": {"requirements": [
                {"key": "app", "operator": "In", "values": ["x", "y"]}, {"key": "z", "operator": "DoesNotExist"}]}}});
        assert_eq!(specification(&user, &list, false), expected);
        assert_eq!(specification(&user, &list, true)["resourceAttributes"]["namespace"], "");
        let path = RequestInfo { verb: "get".into(), path: "/x".into(), ..Default::default() };
        assert_eq!(specification(&user, &path, false)["nonResourceAttributes"], json!({"path": "/x", "verb": "get"}));
    }

    #[test]
    fn answers_are_read_as_upstream_reads_them() {
        let said = |v: Value| read(&v);
        assert_eq!(said(json!({"allowed": true, "reason": "r"})), (Decision::Allow("r".into()), None));
        assert_eq!(said(json!({"allowed": false, "denied": true})), (Decision::Deny(String::new()), None));
        assert_eq!(said(json!({})), (Decision::NoOpinion(String::new()), None));
        assert!(matches!(said(json!({"allowed": true, "denied": true})), (Decision::Deny(_), Some(_))));
    }
}
