//! What containers ask for and get at most (upstream: `ValidateResourceRequirements`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{ErrorList, FieldError};
use crate::kinds::{list, rules, text};
use crate::names;
use crate::quantity::Quantity;

/// The resources that a container can name without a domain.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Those that only quotas and nodes name.
const OTHER_STANDARD: [&str; 11] = [
    "storage",
    "pods",
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "count",
];
const NATIVE_DOMAIN: &str = "kubernetes.io/";

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains(NATIVE_DOMAIN)
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name_errors(&format!("requests.{name}")).is_empty()
}

/// A name that a quota, a node or a container may use without a domain.
pub(in crate::kinds) fn is_standard(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    STANDARD.contains(&bare) || OTHER_STANDARD.contains(&name) || is_huge_page(bare) || bare == "storage"
}

/// The name of a resource.
pub(in crate::kinds) fn name(name: &str, field: &str, errors: &mut ErrorList) {
    let before = errors.len();
    rules::all_wrong(field, name, names::qualified_name_errors(name), errors);
    if errors.len() == before && !name.contains('/') && !is_standard(name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(field, name, detail));
    }
}

fn container_name(given: &str, field: &str, errors: &mut ErrorList) {
    name(given, field, errors);
    if !given.contains('/') {
        if !STANDARD.contains(&given) && !is_huge_page(given) {
            errors.push(FieldError::invalid(field, given, "must be a standard resource for containers"));
        }
    } else if !is_native(given) && !is_extended(given) {
        errors.push(FieldError::invalid(field, given, "doesn't follow extended resource name standard"));
    }
}

/// An amount of a resource: whole where the resource cannot be shared.
pub(in crate::kinds) fn amount(name: &str, q: &Value, field: &str, errors: &mut ErrorList) -> Option<Quantity> {
    let parsed = rules::amount(q, field, errors)?;
    let whole = name.contains('/') && is_extended(name) || OTHER_STANDARD.contains(&name) && name != "storage";
    if whole && parsed.nanos() % 1_000_000_000 != 0 {
        errors.push(FieldError::invalid(field, q.clone(), "must be an integer"));
    }
    Some(parsed)
}

/// All that is wrong with requests and limits. `claims` are the pod's resource claims.
pub(in crate::kinds) fn validate(r: &Value, claims: &BTreeSet<&str>, path: &str, errors: &mut ErrorList) {
    let (mut computes, mut huge) = (false, false);
    for kind in ["limits", "requests"] {
        for (name, q) in r[kind].as_object().into_iter().flatten() {
            let field = format!("{path}.{kind}[{name}]");
            container_name(name, &field, errors);
            let parsed = amount(name, q, &field, errors);
            computes |= matches!(name.as_str(), "cpu" | "memory");
            huge |= is_huge_page(name);
            if let (Some(request), "requests") = (parsed, kind) {
                against_limit(r, name, q, request, path, errors);
            }
        }
    }
    if huge && !computes {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    claim_names(r, claims, &format!("{path}.claims"), errors);
}

fn against_limit(r: &Value, name: &str, q: &Value, request: Quantity, path: &str, errors: &mut ErrorList) {
    let (requests, overcommits) = (format!("{path}.requests"), is_native(name) && !is_huge_page(name));
    match r["limits"].get(name).map(Quantity::from_value) {
        Some(Ok(limit)) if request != limit && !overcommits => {
            errors.push(FieldError::invalid(requests, q.clone(), format!("must be equal to {name} limit of {limit}")));
        }
        Some(Ok(limit)) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(requests, q.clone(), detail));
        }
        None if !overcommits => {
            let detail = "Limit must be set for non overcommitable resources";
            errors.push(FieldError::required(format!("{path}.limits"), detail));
        }
        _ => {}
    }
}

fn claim_names(r: &Value, claims: &BTreeSet<&str>, path: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, claim) in list(r, "claims").enumerate() {
        let (field, name) = (format!("{path}[{i}]"), text(claim, "name"));
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
            continue;
        }
        if !seen.insert((name, text(claim, "request"))) {
            errors.push(FieldError::duplicate(field.clone(), name));
        }
        if !claims.contains(name) {
            let known = claims.iter().copied().collect::<Vec<_>>().join(", ");
            let rest = if known.is_empty() { " which is empty".to_owned() } else { format!(": {known}") };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{rest}");
            errors.push(rules::not_found(field, name, detail));
        }
    }
}

/// What happens with a container when a resource of it changes.
pub(super) fn resize_policy(c: &Value, path: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    let path = format!("{path}.resizePolicy");
    for (i, p) in list(c, "resizePolicy").enumerate() {
        let resource = text(p, "resourceName");
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), resource));
        }
        let fields: [(&str, &[&str]); 2] =
            [("resourceName", &["cpu", "memory"]), ("restartPolicy", &["NotRequired", "RestartContainer"])];
        for (field, supported) in fields {
            match text(p, field) {
                "" => errors.push(FieldError::required(path.clone(), "")),
                given if !supported.contains(&given) => {
                    errors.push(FieldError::not_supported(path.clone(), given, supported));
                }
                _ => {}
            }
        }
    }
}
