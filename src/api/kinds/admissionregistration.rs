//! Dynamic admission: webhook configurations and policies
//! (upstream: `pkg/apis/admissionregistration/{v1/defaults,validation/validation}.go`).
//!
//! Here is what both kinds of admission have in common: rules, match conditions, selectors.

mod policy;
pub(crate) mod webhook;

pub(super) use policy::{Policy, PolicyBinding};
pub(super) use webhook::WebhookConfiguration;

use serde_json::{Map, Value, json};

use super::{list, list_mut, set, text};
use crate::cel::Expression;
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::selector::LabelSelector;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const CONDITIONS_MAX: usize = 64;

/// Defaults of anything that says what it matches: a webhook, or a policy's constraints.
fn default_matching(matching: &mut Map<String, Value>, rules: &str) {
    set(matching, "matchPolicy", "Equivalent");
    set(matching, "namespaceSelector", json!({}));
    set(matching, "objectSelector", json!({}));
    for field in [rules, "excludeResourceRules"] {
        for rule in matching.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(m) = rule.as_object_mut() {
                set(m, "scope", "*");
            }
        }
    }
}

/// A value of an enumeration; absent is accepted.
fn one_of(v: &Value, field: &str, path: &str, supported: &[&str]) -> Option<FieldError> {
    let value = v[field].as_str().filter(|value| !supported.contains(value))?;
    Some(FieldError::not_supported(format!("{path}.{field}"), value, supported))
}

fn selectors(v: &Value, path: &str) -> ErrorList {
    let wrong = |field: &&str| {
        let selector = v.get(field)?;
        let e = LabelSelector::from_value(selector).err()?;
        Some(FieldError::invalid(format!("{path}.{field}"), selector.clone(), e.message))
    };
    ["namespaceSelector", "objectSelector"].iter().filter_map(wrong).collect()
}

fn rule(rule: &Value, path: &str) -> ErrorList {
    let mut errors = wildcard_list(rule, "operations", path, "operations");
    for (i, op) in list(rule, "operations").enumerate() {
        if !op.as_str().is_some_and(|op| OPERATIONS.contains(&op)) {
            errors.push(FieldError::not_supported(format!("{path}.operations[{i}]"), op.clone(), &OPERATIONS));
        }
    }
    errors.extend(wildcard_list(rule, "apiGroups", path, "API groups"));
    errors.extend(wildcard_list(rule, "apiVersions", path, "API versions"));
    errors.extend(empty_entries(rule, "apiVersions", path));
    errors.extend(resources(rule, &format!("{path}.resources")));
    errors.extend(one_of(rule, "scope", path, &SCOPES));
    errors
}

fn empty_entries(rule: &Value, field: &str, path: &str) -> ErrorList {
    let empty = list(rule, field).enumerate().filter(|(_, v)| *v == "");
    empty.map(|(i, _)| FieldError::required(format!("{path}.{field}[{i}]"), "")).collect()
}

/// A list that must have entries, and none beside a `*`.
fn wildcard_list(rule: &Value, field: &str, path: &str, what: &str) -> ErrorList {
    let entries: Vec<&Value> = list(rule, field).collect();
    let path = format!("{path}.{field}");
    if entries.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    if entries.len() > 1 && entries.iter().any(|e| **e == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        return vec![FieldError::invalid(path, rule[field].clone(), detail)];
    }
    ErrorList::new()
}

fn resources(rule: &Value, path: &str) -> ErrorList {
    let entries: Vec<&str> = list(rule, "resources").filter_map(Value::as_str).collect();
    if entries.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = ErrorList::new();
    let all = || rule["resources"].clone();
    let has = |r: &str| entries.contains(&r);
    for (i, entry) in entries.iter().enumerate() {
        let at = || format!("{path}[{i}]");
        let conflict = |with: String| {
            FieldError::invalid(at(), *entry, format!("if '{with}' is present, must not specify {entry}"))
        };
        match entry.split_once('/') {
            None if entry.is_empty() => errors.push(FieldError::required(at(), "")),
            None => {}
            Some((resource, sub)) => {
                if sub != "*" && has(&format!("{resource}/*")) {
                    errors.push(conflict(format!("{resource}/*")));
                }
                if resource != "*" && has(&format!("*/{sub}")) {
                    errors.push(conflict(format!("*/{sub}")));
                }
            }
        }
    }
    if entries.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, all(), detail));
    }
    if has("*") && entries.iter().any(|e| *e != "*" && !e.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, all(), detail));
    }
    errors
}

/// The conditions of a webhook or policy; `declared` variables may be used in them.
fn match_conditions(v: &Value, path: &str, declared: &[&str]) -> ErrorList {
    let conditions: Vec<&Value> = list(v, "matchConditions").collect();
    let mut errors = ErrorList::new();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    let mut names = std::collections::HashSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{i}]");
        errors.extend(expression(condition, "expression", &path, "", declared));
        let name = text(condition, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
            continue;
        }
        let wrong = names::qualified_name_errors(name).into_iter();
        errors.extend(wrong.map(|e| FieldError::invalid(format!("{path}.name"), name, e)));
        if !names.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
    }
    errors
}

/// An expression that must be there and compile.
fn expression(v: &Value, field: &str, path: &str, required: &str, declared: &[&str]) -> Option<FieldError> {
    let path = format!("{path}.{field}");
    let expression = text(v, field).trim();
    if expression.is_empty() {
        return Some(FieldError::required(path, required));
    }
    let e = Expression::compile(expression, declared).err()?;
    Some(FieldError::invalid(path, expression, e))
}
