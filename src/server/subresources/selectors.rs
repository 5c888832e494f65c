//! The selectors of a question about permission: what a list or watch would be restricted to
//! (upstream: `pkg/apis/authorization/validation`, `pkg/registry/authorization/util`). Pure.

use api::field::{ErrorList, FieldError};
use serde_json::Value;

fn requirements(selector: &Value) -> &[Value] {
    selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn values(requirement: &Value) -> Vec<&str> {
    requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn parts(requirement: &Value) -> (&str, &str) {
    (requirement["key"].as_str().unwrap_or_default(), requirement["operator"].as_str().unwrap_or_default())
}

/// What is wrong with the selectors of `resourceAttributes`, which stand at `path`.
pub(super) fn errors(attributes: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["fieldSelector", "labelSelector"] {
        let Some(selector) = attributes.get(field).filter(|s| s.is_object()) else { continue };
        let path = format!("{path}.{field}");
        let raw = selector["rawSelector"].as_str().unwrap_or_default();
        let listed = requirements(selector);
        if !raw.is_empty() && !listed.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{path}.rawSelector"), raw, why));
        }
        if raw.is_empty() && listed.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{path}.requirements"), why));
        }
        for (i, requirement) in listed.iter().enumerate() {
            errors.extend(requirement_errors(requirement, &format!("{path}.requirements[{i}]")));
        }
    }
    errors
}

/// An operator that is not known is let through: authorizers leave such a requirement out.
fn requirement_errors(requirement: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let (key, operator) = parts(requirement);
    let given = values(requirement);
    match operator {
        "In" | "NotIn" if given.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(format!("{path}.values"), why));
        }
        "Exists" | "DoesNotExist" if !given.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(format!("{path}.values"), why));
        }
        _ => {}
    }
    if key.is_empty() {
        errors.push(FieldError::required(format!("{path}.key"), "must be specified"));
    }
    errors
}

/// A field selector as text. Requirements that a field selector cannot have are left out, which
/// asks for more, not less.
pub(super) fn fields(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|r| !r.is_empty()) {
        return raw.to_owned();
    }
    let terms = requirements(selector).iter().filter_map(|r| match (parts(r), values(r).as_slice()) {
        ((key, "In"), [value]) => Some(format!("{key}={value}")),
        ((key, "NotIn"), [value]) => Some(format!("{key}!={value}")),
        _ => None,
    });
    terms.collect::<Vec<_>>().join(",")
}

/// A label selector as text.
pub(super) fn labels(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|r| !r.is_empty()) {
        return raw.to_owned();
    }
    let terms = requirements(selector).iter().filter_map(|r| {
        let (key, operator) = parts(r);
        let all = values(r).join(",");
        match operator {
            "In" => Some(format!("{key} in ({all})")),
            "NotIn" => Some(format!("{key} notin ({all})")),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    });
    terms.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_given_in_one_form_and_read_as_text() {
        let said = |s: Value| -> Vec<String> {
            errors(&json!({"fieldSelector": s}), "spec.resourceAttributes").iter().map(ToString::to_string).collect()
        };
        let one = json!({"key": "spec.nodeName", "operator": "In", "values": ["n"]});
        assert!(said(json!({"requirements": [one]})).is_empty());
        assert!(said(json!({"rawSelector": "a=b"})).is_empty());
        assert!(said(json!({"rawSelector": "a=b", "requirements": [one]}))[0].contains("at the same time"));
        assert!(said(json!({}))[0].contains("requirements or rawSelector is required"));
        assert!(said(json!({"requirements": [{"operator": "In"}]})).len() == 2);
        assert_eq!(fields(&json!({"requirements": [one, {"key": "a", "operator": "Later"}]})), "spec.nodeName=n");
        let labels = labels(&json!({"requirements": [{"key": "a", "operator": "In", "values": ["x", "y"]},
            {"key": "b", "operator": "DoesNotExist"}]}));
        assert_eq!(labels, "a in (x,y),!b");
    }
}
