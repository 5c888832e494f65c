//! `ValidatingAdmissionPolicy` and `ValidatingAdmissionPolicyBinding`.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{default_matching, expression, list, match_conditions, one_of, rule, selectors, set, text};
use crate::cel::authorizer::NAMES;
use crate::field::{ErrorList, FieldError};
use crate::kinds::cells::{age, name, selector};
use crate::kinds::child;
use crate::names;
use crate::resource::Strategy;
use crate::selector::LabelSelector;

const DECLARED: [&str; 5] = [NAMES[0], NAMES[1], "params", "namespaceObject", "variables"];
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

pub(in crate::kinds) struct Policy;

impl Strategy for Policy {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn prepare_create(&self, o: &mut Value) {
        o["status"] = json!({});
    }
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        set(spec, "failurePolicy", "Fail");
        if let Some(m) = spec.get_mut("matchConstraints").and_then(Value::as_object_mut) {
            default_matching(m, "resourceRules");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let spec = &o["spec"];
        let mut errors = param_kind(spec);
        errors.extend(one_of(spec, "failurePolicy", "spec", &["Fail", "Ignore"]));
        errors.extend(constraints(spec));
        errors.extend(match_conditions(spec, "spec.matchConditions", &DECLARED[..4]));
        errors.extend(variables(spec));
        let annotations: Vec<&Value> = list(spec, "auditAnnotations").collect();
        if list(spec, "validations").next().is_none() && annotations.is_empty() {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.push(FieldError::required("spec.validations", detail));
            errors.push(FieldError::required("spec.auditAnnotations", detail));
        }
        for (i, v) in list(spec, "validations").enumerate() {
            errors.extend(validation(v, &format!("spec.validations[{i}]")));
        }
        for (i, a) in annotations.iter().enumerate() {
            let path = format!("spec.auditAnnotations[{i}]");
            if text(a, "key").is_empty() {
                errors.push(FieldError::required(format!("{path}.key"), ""));
            }
            errors.extend(expression(a, "valueExpression", &path, "valueExpression is not specified", &DECLARED));
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let kind = &o["spec"]["paramKind"];
        let param = match kind {
            Value::Null => "<unset>".to_owned(),
            k => format!("{}/{}", text(k, "apiVersion"), text(k, "kind")),
        };
        vec![name(o), list(&o["spec"], "validations").count().into(), param.into(), age(o, now)]
    }
}

fn param_kind(spec: &Value) -> ErrorList {
    let Some(kind) = spec.get("paramKind") else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    let version = text(kind, "apiVersion");
    if version.is_empty() {
        errors.push(FieldError::required("spec.paramKind.apiVersion", ""));
    } else if version.split('/').count() > 2 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.push(FieldError::invalid("spec.paramKind.apiVersion", version, detail));
    }
    if text(kind, "kind").is_empty() {
        errors.push(FieldError::required("spec.paramKind.kind", ""));
    }
    errors
}

fn constraints(spec: &Value) -> ErrorList {
    let path = "spec.matchConstraints";
    let Some(constraints) = spec.get("matchConstraints") else { return vec![FieldError::required(path, "")] };
    let mut errors = matching(constraints, path);
    if list(constraints, "resourceRules").next().is_none() {
        errors.push(FieldError::required(format!("{path}.resourceRules"), ""));
    }
    errors
}

fn matching(matching: &Value, path: &str) -> ErrorList {
    let mut errors = one_of(matching, "matchPolicy", path, &["Equivalent", "Exact"]).into_iter().collect::<Vec<_>>();
    errors.extend(selectors(matching, path));
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, r) in list(matching, field).enumerate() {
            errors.extend(rule(r, &format!("{path}.{field}[{i}]")));
        }
    }
    errors
}

fn variables(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = HashSet::new();
    for (i, v) in list(spec, "variables").enumerate() {
        let path = format!("spec.variables[{i}]");
        let name = text(v, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), "name is not specified"));
        } else if names::c_identifier(name).is_some() {
            errors.push(FieldError::invalid(format!("{path}.name"), name, "name is not a valid CEL identifier"));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        errors.extend(expression(v, "expression", &path, "expression is not specified", &DECLARED));
    }
    errors
}

fn validation(v: &Value, path: &str) -> ErrorList {
    let mut errors: ErrorList =
        expression(v, "expression", path, "expression is not specified", &DECLARED).into_iter().collect();
    let at = format!("{path}.message");
    let message = text(v, "message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(at, message, "message must be non-empty if specified"));
    } else if message.trim().contains('\n') {
        errors.push(FieldError::invalid(at, message, "message must not contain line breaks"));
    } else if message.is_empty() && text(v, "expression").trim().contains('\n') {
        let detail = "message must be specified if expression contains line breaks";
        errors.push(FieldError::required(at, detail));
    }
    if let Some(m) = v["messageExpression"].as_str() {
        if m.trim().is_empty() {
            let detail = "must be non-empty if specified";
            errors.push(FieldError::invalid(format!("{path}.messageExpression"), m, detail));
        } else {
            errors.extend(expression(v, "messageExpression", path, "", &DECLARED));
        }
    }
    errors.extend(one_of(v, "reason", path, &REASONS));
    errors
}

pub(in crate::kinds) struct PolicyBinding;

impl Strategy for PolicyBinding {
    fn default(&self, o: &mut Value) {
        if let Some(m) = o.pointer_mut("/spec/matchResources").and_then(Value::as_object_mut) {
            default_matching(m, "resourceRules");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let spec = &o["spec"];
        let mut errors = ErrorList::new();
        let policy = text(spec, "policyName");
        if policy.is_empty() {
            errors.push(FieldError::required("spec.policyName", ""));
        } else {
            let wrong = names::dns1123_subdomain_errors(policy).into_iter();
            errors.extend(wrong.map(|e| FieldError::invalid("spec.policyName", policy, e)));
        }
        errors.extend(param_ref(spec));
        if let Some(m) = spec.get("matchResources") {
            errors.extend(matching(m, "spec.matchResources"));
        }
        errors.extend(actions(spec));
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let param = &o["spec"]["paramRef"];
        let param = match (text(param, "namespace"), text(param, "name")) {
            _ if param.is_null() => "<unset>".into(),
            _ if !param["selector"].is_null() => selector(&param["selector"]),
            ("", name) => name.into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        };
        vec![name(o), text(&o["spec"], "policyName").into(), param, age(o, now)]
    }
}

fn param_ref(spec: &Value) -> ErrorList {
    let Some(param) = spec.get("paramRef") else { return ErrorList::new() };
    let path = "spec.paramRef";
    let mut errors = ErrorList::new();
    let name = text(param, "name");
    match (name.is_empty(), param.get("selector")) {
        (false, Some(_)) => {
            errors.push(FieldError::forbidden(format!("{path}.name"), "name and selector are mutually exclusive"));
        }
        (true, None) => errors.push(FieldError::required(path, "one of name or selector must be specified")),
        (true, Some(s)) => {
            if let Err(e) = LabelSelector::from_value(s) {
                errors.push(FieldError::invalid(format!("{path}.selector"), s.clone(), e.message));
            }
        }
        (false, None) => {
            let wrong = names::path_segment_name(name);
            errors.extend(wrong.map(|e| FieldError::invalid(format!("{path}.name"), name, e)));
        }
    }
    if text(param, "parameterNotFoundAction").is_empty() {
        errors.push(FieldError::required(format!("{path}.parameterNotFoundAction"), ""));
    }
    errors.extend(one_of(param, "parameterNotFoundAction", path, &["Allow", "Deny"]));
    errors
}

fn actions(spec: &Value) -> ErrorList {
    let path = "spec.validationActions";
    let actions: Vec<&str> = list(spec, "validationActions").filter_map(Value::as_str).collect();
    if actions.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = ErrorList::new();
    let mut seen = HashSet::new();
    for (i, a) in actions.iter().enumerate() {
        if !ACTIONS.contains(a) {
            errors.push(FieldError::not_supported(format!("{path}[{i}]"), *a, &ACTIONS));
        } else if !seen.insert(*a) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), *a));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, spec["validationActions"].clone(), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_gets_defaults_and_is_then_valid() {
        let mut o = json!({"metadata": {"name": "a"}, "spec": {
            "matchConstraints": {"resourceRules": [
                {"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "validations": [{"expression": "object.spec.replicas <= 5"}]}});
        Policy.default(&mut o);
        assert_eq!(o["spec"]["failurePolicy"], "Fail");
        assert_eq!(o["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
        assert_eq!(o["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
        assert_eq!(Policy.validate(&o), vec![]);
        o["spec"]["validations"] = json!([{"expression": "object.", "reason": "Odd", "message": "a\nb"}]);
        let told: Vec<String> = Policy.validate(&o).iter().map(|e| e.field.clone()).collect();
        assert_eq!(told, ["expression", "message", "reason"].map(|f| format!("spec.validations[0].{f}")));
        let empty = Policy.validate(&json!({"spec": {}}));
        assert_eq!(empty[0].to_string(), "spec.matchConstraints: Required value");
    }

    #[test]
    fn a_binding_says_what_to_do_and_with_which_parameters() {
        let told = |spec: Value| {
            let errors = PolicyBinding.validate(&json!({"spec": spec}));
            errors.iter().map(|e| e.field.clone()).collect::<Vec<_>>()
        };
        assert!(told(json!({"policyName": "a", "validationActions": ["Deny", "Audit"]})).is_empty());
        assert_eq!(told(json!({})), ["spec.policyName", "spec.validationActions"]);
        assert_eq!(told(json!({"policyName": "a", "validationActions": ["Deny", "Warn"]})), ["spec.validationActions"]);
        assert_eq!(
            told(json!({"policyName": "a", "validationActions": ["Deny"], "paramRef": {}})),
            ["spec.paramRef", "spec.paramRef.parameterNotFoundAction"]
        );
    }
}
