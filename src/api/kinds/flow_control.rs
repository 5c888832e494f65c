//! Flow schemas and priority levels: defaults, validation, rows, and the ones that every cluster has
//! (upstream: `pkg/apis/flowcontrol`, `apiserver/pkg/apis/flowcontrol/bootstrap`).

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name};
use super::{child, list, list_mut, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// As many bits of a flow's hash pick its queues.
const MAX_HASH_BITS: f64 = 60.0;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// What every cluster has, with defaults.
pub fn bootstrap() -> &'static [Value] {
    static ALL: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let text = include_str!("../../../manifests/flow-control.yaml");
        // The file is part of the build and a test reads it.
        let mut all =
            crate::codec::parse_documents(text).unwrap_or_else(|e| panic!("manifests/flow-control.yaml: {e}"));
        for o in &mut all {
            match text_of_kind(o) {
                "FlowSchema" => FlowSchema.default(o),
                _ => PriorityLevel.default(o),
            }
        }
        all
    });
    &ALL
}

fn text_of_kind(o: &Value) -> &str {
    text(o, "kind")
}

/// Whether an object of either kind is one that cannot be changed.
pub fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

fn fixed_spec(o: &Value, kind: &str) -> Option<&'static Value> {
    let name = text(&o["metadata"], "name");
    let found = bootstrap().iter().find(|b| text_of_kind(b) == kind && text(&b["metadata"], "name") == name)?;
    is_mandatory(name).then_some(&found["spec"])
}

fn positive(v: &Value, field: &str, path: &str, errors: &mut ErrorList) -> bool {
    let n = v[field].as_i64().unwrap_or(0);
    if n <= 0 {
        errors.push(FieldError::invalid(format!("{path}.{field}"), n, "must be positive"));
    }
    n > 0
}

fn percent(v: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(n) = v["lendablePercent"].as_i64().filter(|n| !(0..=100).contains(n)) {
        errors.push(FieldError::invalid(format!("{path}.lendablePercent"), n, "must be between 0 and 100, inclusive"));
    }
}

fn conditions(o: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, c) in list(&o["status"], "conditions").enumerate() {
        let kind = text(c, "type");
        let path = format!("status.conditions[{i}].type");
        if kind.is_empty() {
            errors.push(FieldError::required(path, "must not be empty"));
        } else if seen.contains(&kind) {
            errors.push(FieldError::duplicate(path, kind));
        }
        seen.push(kind);
    }
    errors
}

pub(super) struct FlowSchema;

impl Strategy for FlowSchema {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        if spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(0) == 0 {
            spec.insert("matchingPrecedence".into(), 1000.into());
        }
        for rules in spec.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            for rule in list_mut(rules, "resourceRules") {
                // Go leaves out what is false, and an empty list.
                if let Some(m) = rule.as_object_mut() {
                    m.retain(|k, v| !(k == "clusterScope" && v == false));
                }
            }
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = &o["spec"];
        let own = text(&o["metadata"], "name");
        let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
        let mut invalid = |why: &str| {
            errors.push(FieldError::invalid("spec.matchingPrecedence", precedence, why));
        };
        if precedence <= 0 {
            invalid("must be a positive value");
        }
        if precedence > MAX_PRECEDENCE {
            invalid("must not be greater than 10000");
        }
        if precedence == 1 && own != "exempt" {
            invalid("only the schema named 'exempt' may have matchingPrecedence 1");
        }
        if let Some(method) = spec.get("distinguisherMethod")
            && !matches!(text(method, "type"), "ByUser" | "ByNamespace")
        {
            let supported = ["ByNamespace", "ByUser"];
            errors.push(FieldError::not_supported("spec.distinguisherMethod.type", method.clone(), &supported));
        }
        let level = text(&spec["priorityLevelConfiguration"], "name");
        const LEVEL: &str = "spec.priorityLevelConfiguration.name";
        if level.is_empty() {
            errors.push(FieldError::required(LEVEL, "must reference a priority level"));
        }
        errors.extend(
            names::dns1123_subdomain(level).filter(|_| !level.is_empty()).map(|e| FieldError::invalid(LEVEL, level, e)),
        );
        for (i, rules) in list(spec, "rules").enumerate() {
            policy(rules, &format!("spec.rules[{i}]"), &mut errors);
        }
        if fixed_spec(o, "FlowSchema").is_some_and(|fixed| fixed != spec) {
            let why = format!("spec of '{own}' must equal the fixed value");
            errors.push(FieldError::invalid("spec", spec.clone(), why));
        }
        errors.extend(conditions(o));
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> ErrorList {
        conditions(new)
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &o["spec"];
        let method = spec["distinguisherMethod"]["type"].as_str().unwrap_or("<none>");
        let dangling = list(&o["status"], "conditions").find(|c| text(c, "type") == "Dangling");
        vec![
            name(o),
            spec["priorityLevelConfiguration"]["name"].clone(),
            spec["matchingPrecedence"].clone(),
            method.into(),
            age(o, now),
            dangling.map_or("?", |c| text(c, "status")).into(),
        ]
    }
}

fn policy(rules: &Value, path: &str, errors: &mut ErrorList) {
    if list(rules, "subjects").next().is_none() {
        errors.push(FieldError::required(format!("{path}.subjects"), "subjects must contain at least one value"));
    }
    for (i, s) in list(rules, "subjects").enumerate() {
        subject(s, &format!("{path}.subjects[{i}]"), errors);
    }
    if list(rules, "resourceRules").next().is_none() && list(rules, "nonResourceRules").next().is_none() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, why));
    }
    for (i, r) in list(rules, "resourceRules").enumerate() {
        resource_rule(r, &format!("{path}.resourceRules[{i}]"), errors);
    }
    for (i, r) in list(rules, "nonResourceRules").enumerate() {
        let path = format!("{path}.nonResourceRules[{i}]");
        verbs(r, &path, errors);
        let what = ("nonResourceURLs", "nonResourceURLs must contain at least one value", "non-resource URLs");
        if !wildcard(r, what, &path, errors) {
            for (i, url) in list(r, "nonResourceURLs").filter_map(Value::as_str).enumerate() {
                let at = format!("{path}.nonResourceURLs[{i}]");
                errors.extend(url_error(url).map(|why| FieldError::invalid(at, url, why)));
            }
        }
    }
}

fn subject(s: &Value, path: &str, errors: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(s, "kind");
    let Some((_, field)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        errors.push(FieldError::not_supported(format!("{path}.kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    let own = format!("{path}.{field}");
    match s.get(field) {
        None => errors.push(FieldError::required(own, format!("{field} is required when subject kind is '{kind}'"))),
        Some(who) => {
            let called = text(who, "name");
            if called.is_empty() {
                errors.push(FieldError::required(format!("{own}.name"), ""));
            }
            if *field == "serviceAccount" {
                if called != "*" && !called.is_empty() {
                    let wrong = names::dns1123_subdomain(called);
                    errors.extend(wrong.map(|e| FieldError::invalid(format!("{own}.name"), called, e)));
                }
                let namespace = text(who, "namespace");
                if namespace.is_empty() {
                    let why = "must specify namespace for service account";
                    errors.push(FieldError::required(format!("{own}.namespace"), why));
                } else {
                    let wrong = names::dns1123_label_errors(namespace).into_iter();
                    errors.extend(wrong.map(|e| FieldError::invalid(format!("{own}.namespace"), namespace, e)));
                }
            }
        }
    }
    for (other, field) in KINDS.iter().filter(|(k, f)| *k != kind && s.get(f).is_some()) {
        let why = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
    }
}

/// Checks a list that may be `*` alone; true where it is.
fn wildcard(r: &Value, (field, absent, others): (&str, &str, &str), path: &str, errors: &mut ErrorList) -> bool {
    let path = format!("{path}.{field}");
    let entries: Vec<&str> = list(r, field).filter_map(Value::as_str).collect();
    if entries.is_empty() && !absent.is_empty() {
        errors.push(FieldError::required(path, absent));
        return false;
    }
    let any = entries.contains(&"*");
    if any && entries.len() > 1 {
        let why = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(path, r[field].clone(), why));
    }
    any
}

fn verbs(r: &Value, path: &str, errors: &mut ErrorList) {
    let before = errors.len();
    let any = wildcard(r, ("verbs", "verbs must contain at least one value", "verbs"), path, errors);
    let known = list(r, "verbs").filter_map(Value::as_str).all(|v| VERBS.contains(&v));
    if !any && !known && errors.len() == before {
        errors.push(FieldError::not_supported(format!("{path}.verbs"), r["verbs"].clone(), &VERBS));
    }
}

fn resource_rule(r: &Value, path: &str, errors: &mut ErrorList) {
    verbs(r, path, errors);
    wildcard(r, ("apiGroups", "resource rules must supply at least one api group", "api groups"), path, errors);
    wildcard(r, ("resources", "resource rules must supply at least one resource", "resources"), path, errors);
    let absent = match r["clusterScope"].as_bool() {
        Some(true) => "",
        _ => "resource rules that are not cluster scoped must supply at least one namespace",
    };
    if wildcard(r, ("namespaces", absent, "namespaces"), path, errors) {
        return;
    }
    for (i, namespace) in list(r, "namespaces").filter_map(Value::as_str).enumerate() {
        for e in names::dns1123_label_errors(namespace) {
            let why = format!("each member of this list must be '*' or a DNS-1123 label; {e}");
            errors.push(FieldError::invalid(format!("{path}.namespaces[{i}]"), namespace, why));
        }
    }
}

fn url_error(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        u if !u.starts_with('/') => Some("must start with slash"),
        u if u.contains(' ') => Some("must not contain white-space"),
        u if u.contains("//") => Some("must not contain double slash"),
        u if stars > 1 || stars == 1 && !u.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

pub(super) struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn default(&self, o: &mut Value) {
        let kind = text(&o["spec"], "type").to_owned();
        if let Some(limited) = o["spec"].get_mut("limited").and_then(Value::as_object_mut) {
            // In v1 an explicit zero is kept, and refused.
            set(limited, "nominalConcurrencyShares", 30);
            set(limited, "lendablePercent", 0);
            if let Some(queuing) = limited.get_mut("limitResponse").and_then(|r| r.get_mut("queuing")) {
                for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    if let Some(m) = queuing.as_object_mut().filter(|m| m.get(field).is_none_or(|v| v == 0)) {
                        m.insert(field.into(), value.into());
                    }
                }
            }
        }
        if kind == "Exempt"
            && let Some(exempt) = o["spec"].get_mut("exempt").and_then(Value::as_object_mut)
        {
            set(exempt, "nominalConcurrencyShares", 0);
            set(exempt, "lendablePercent", 0);
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, own) = (&o["spec"], text(&o["metadata"], "name"));
        let kind = text(spec, "type");
        if (own == "exempt") != (kind == "Exempt") {
            let why = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.push(FieldError::invalid("spec.type", kind, why));
        }
        match kind {
            "Exempt" => exempt(spec, &mut errors),
            "Limited" => limited(spec, &mut errors),
            _ => errors.push(FieldError::not_supported("spec.type", kind, &["Exempt", "Limited"])),
        }
        if let Some(fixed) = fixed_spec(o, "PriorityLevelConfiguration") {
            let mut have = spec.clone();
            let except = if own == "exempt" { " except the 'spec.exempt' field" } else { "" };
            if own == "exempt" {
                have["exempt"] = fixed["exempt"].clone();
            }
            if have != *fixed {
                let why = format!("spec of '{own}'{except} must equal the fixed value");
                errors.push(FieldError::invalid("spec", spec.clone(), why));
            }
        }
        errors.extend(conditions(o));
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> ErrorList {
        conditions(new)
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let limited = &o["spec"]["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        let or_none = |v: &Value| if v.is_null() { "<none>".into() } else { v.clone() };
        vec![
            name(o),
            o["spec"]["type"].clone(),
            or_none(&limited["nominalConcurrencyShares"]),
            or_none(&queuing["queues"]),
            or_none(&queuing["handSize"]),
            or_none(&queuing["queueLengthLimit"]),
            age(o, now),
        ]
    }
}

fn exempt(spec: &Value, errors: &mut ErrorList) {
    if spec.get("limited").is_some() {
        errors.push(FieldError::forbidden("spec.limited", "must be nil if the type is not Limited"));
    }
    if let Some(n) = spec["exempt"]["nominalConcurrencyShares"].as_i64().filter(|n| *n < 0) {
        let path = "spec.exempt.nominalConcurrencyShares";
        errors.push(FieldError::invalid(path, n, "must be a non-negative integer"));
    }
    percent(&spec["exempt"], "spec.exempt", errors);
}

fn limited(spec: &Value, errors: &mut ErrorList) {
    const PATH: &str = "spec.limited";
    if spec.get("exempt").is_some() {
        errors.push(FieldError::forbidden("spec.exempt", "must be nil if the type is Limited"));
    }
    let Some(limited) = spec.get("limited") else {
        errors.push(FieldError::required(PATH, "must not be empty when type is Limited"));
        return;
    };
    if let Some(n) = limited["nominalConcurrencyShares"].as_i64().filter(|n| *n < 0) {
        let path = "spec.limited.nominalConcurrencyShares";
        errors.push(FieldError::invalid(path, n, "must be a non-negative integer"));
    }
    let response = &limited["limitResponse"];
    let queuing = response.get("queuing");
    let path = "spec.limited.limitResponse.queuing";
    match (text(response, "type"), queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(path, why));
        }
        ("Queue", None) => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(path, why));
        }
        ("Queue", Some(q)) => queues(q, path, errors),
        (other, _) => {
            let path = "spec.limited.limitResponse.type";
            errors.push(FieldError::not_supported(path, other, &["Queue", "Reject"]));
        }
    }
    percent(limited, PATH, errors);
    if let Some(n) = limited["borrowingLimitPercent"].as_i64().filter(|n| *n < 0) {
        let path = "spec.limited.borrowingLimitPercent";
        errors.push(FieldError::invalid(path, n, "if specified, must be a non-negative integer"));
    }
}

fn queues(q: &Value, path: &str, errors: &mut ErrorList) {
    positive(q, "queueLengthLimit", path, errors);
    let (deck, hand) = (q["queues"].as_i64().unwrap_or(0), q["handSize"].as_i64().unwrap_or(0));
    if positive(q, "queues", path, errors) && deck > MAX_QUEUES {
        errors.push(FieldError::invalid(format!("{path}.queues"), deck, "must not be greater than 10000000"));
    }
    if !positive(q, "handSize", path, errors) {
        return;
    }
    let bits = || (0..hand).map(|i| ((deck - i) as f64).log2()).sum::<f64>().ceil();
    if hand > deck {
        let why = format!("should not be greater than queues ({deck})");
        errors.push(FieldError::invalid(format!("{path}.handSize"), hand, why));
    } else if bits() > MAX_HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {deck} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.push(FieldError::invalid(format!("{path}.handSize"), hand, why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(strategy: &dyn Strategy, mut o: Value) -> Vec<String> {
        strategy.default(&mut o);
        strategy.validate(&o).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_every_cluster_has_is_valid() {
        assert_eq!(bootstrap().len(), 19);
        for o in bootstrap() {
            let strategy = super::super::strategy("flowcontrol.apiserver.k8s.io", text_of_kind(o));
            assert_eq!(told(&*strategy, o.clone()), Vec::<String>::new(), "{o}");
        }
    }

    #[test]
    fn mandatory_objects_stay_as_they_are() {
        let mut o = bootstrap().iter().find(|o| o["metadata"]["name"] == "catch-all").unwrap().clone();
        o["spec"]["limited"]["nominalConcurrencyShares"] = 6.into();
        assert!(told(&PriorityLevel, o)[0].ends_with("spec of 'catch-all' must equal the fixed value"));
    }

    #[test]
    fn levels_get_their_queues() {
        let mut o = json!({"metadata": {"name": "a"}, "spec": {"type": "Limited",
            "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        PriorityLevel.default(&mut o);
        assert_eq!(
            o["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse": {"type": "Queue",
                "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
        );
        let o = json!({"metadata": {"name": "a"}, "spec": {"type": "Exempt", "limited": {}}});
        assert_eq!(
            told(&PriorityLevel, o),
            [
                "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'",
                "spec.limited: Forbidden: must be nil if the type is not Limited"
            ]
        );
    }

    #[test]
    fn schemas_need_subjects_rules_and_a_level() {
        let o = json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1, "rules": [
            {"subjects": [{"kind": "User", "group": {"name": "g"}}], "nonResourceRules": [
                {"verbs": ["get", "*"], "nonResourceURLs": ["/a*"]}]}, {}]}});
        assert_eq!(
            told(&FlowSchema, o),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].nonResourceRules[0].verbs: Invalid value: [\"get\",\"*\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "spec.rules[1].subjects: Required value: subjects must contain at least one value",
                "spec.rules[1]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
    }
}
