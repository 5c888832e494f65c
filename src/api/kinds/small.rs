//! Kinds with few rules: runtime classes, ingress classes, addresses and ranges of services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{child, container, list, placement, rows, rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::metadata::validate_labels;
use crate::names;
use crate::resource::Strategy;

const CONTROLLER_BYTES: usize = 250;

pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let handler = text(o, "handler");
        rules::all_wrong("handler", handler, names::dns1123_label_errors(handler), &mut errors);
        let fixed = json!({"limits": o["overhead"]["podFixed"]});
        container::resources::validate(&fixed, &BTreeSet::new(), "overhead", &mut errors);
        let scheduling = &o["scheduling"];
        errors.extend(validate_labels(&scheduling["nodeSelector"], "scheduling.nodeSelector"));
        placement::tolerations(scheduling, "scheduling", &mut errors);
        let key = |t: &Value| ["key", "operator", "value", "effect"].map(|f| text(t, f).to_owned());
        let mut seen = BTreeSet::new();
        for (i, t) in list(scheduling, "tolerations").enumerate() {
            if !seen.insert(key(t)) {
                errors.push(FieldError::duplicate(format!("scheduling.tolerations[{i}]"), t.clone()));
            }
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(new, old, &["handler"], "", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::runtime_class(o, now)
    }
}

pub(super) struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, o: &mut Value) {
        if o["spec"]["parameters"].is_object()
            && let Some(p) = child(&mut o["spec"], "parameters")
        {
            set(p, "scope", "Cluster");
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (spec, mut errors) = (&o["spec"], ErrorList::new());
        let (controller, field) = (text(spec, "controller"), "spec.controller");
        if controller.len() > CONTROLLER_BYTES {
            errors.push(FieldError::too_long(field, CONTROLLER_BYTES));
        }
        match controller.split_once('/') {
            _ if controller.is_empty() => errors.push(FieldError::required(field, "")),
            Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
                rules::all_wrong(field, domain, names::dns1123_subdomain_errors(domain), &mut errors);
            }
            _ => {
                let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
                errors.push(FieldError::invalid(field, controller, detail));
            }
        }
        if spec["parameters"].is_object() {
            parameters(&spec["parameters"], "spec.parameters", &mut errors);
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(&new["spec"], &old["spec"], &["controller"], "spec", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::ingress_class(o, now)
    }
}

fn parameters(v: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(group) = v["apiGroup"].as_str() {
        rules::all_wrong(&format!("{path}.apiGroup"), group, names::dns1123_subdomain_errors(group), errors);
    }
    for field in ["kind", "name"] {
        let (given, at) = (text(v, field), format!("{path}.{field}"));
        if given.is_empty() {
            errors.push(FieldError::required(at, format!("{field} is required")));
        } else {
            rules::all_wrong(&at, given, names::path_segment_name(given), errors);
        }
    }
    let field = format!("{path}.namespace");
    match (text(v, "scope"), v["namespace"].as_str()) {
        ("Namespace", None) => {
            errors.push(FieldError::required(field, "`parameters.scope` is set to 'Namespace'"));
        }
        ("Namespace", Some(n)) => rules::all_wrong(&field, n, names::dns1123_label_errors(n), errors),
        ("Cluster", Some(_)) => {
            errors.push(FieldError::forbidden(field, "`parameters.scope` is set to 'Cluster'"));
        }
        ("Cluster", None) => {}
        (other, _) => {
            errors.push(FieldError::not_supported(format!("{path}.scope"), other, &["Cluster", "Namespace"]));
        }
    }
}

pub(super) struct IpAddress;

impl Strategy for IpAddress {
    fn name_error(&self, name: &str) -> Option<String> {
        match name.parse::<IpAddr>() {
            Err(_) => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()),
            Ok(ip) if ip.to_string() != name => Some(format!("must be in canonical form ({:?})", ip.to_string())),
            Ok(_) => None,
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let (parent, mut errors) = (&o["spec"]["parentRef"], ErrorList::new());
        if !parent.is_object() {
            errors.push(FieldError::required("spec.parentRef", ""));
            return errors;
        }
        let path = "spec.parentRef";
        rules::named_if_given(parent, "group", path, names::dns1123_subdomain_errors, &mut errors);
        let form = |n: &str| names::path_segment_name(n).into_iter().collect();
        rules::named(parent, "resource", path, form, &mut errors);
        rules::named(parent, "name", path, form, &mut errors);
        rules::named_if_given(parent, "namespace", path, form, &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(&new["spec"], &old["spec"], &["parentRef"], "spec", &mut errors);
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::ip_address(o, now)
    }
}

pub(super) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn validate(&self, o: &Value) -> ErrorList {
        let (field, mut errors) = ("spec.cidrs", ErrorList::new());
        let all: Vec<&str> = list(&o["spec"], "cidrs").filter_map(Value::as_str).collect();
        if all.is_empty() {
            errors.push(FieldError::required(field, "at least one CIDR required"));
            return errors;
        }
        if all.len() > 2 {
            let given = o["spec"]["cidrs"].clone();
            errors.push(FieldError::invalid(field, given, "may only hold up to 2 values"));
        }
        let parsed: Vec<Option<IpNet>> = all.iter().map(|c| c.parse().ok()).collect();
        if let [Some(a), Some(b)] = parsed.as_slice()
            && a.addr().is_ipv4() == b.addr().is_ipv4()
        {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            errors.push(FieldError::invalid(field, o["spec"]["cidrs"].clone(), detail));
        }
        for (i, (given, cidr)) in all.iter().zip(&parsed).enumerate() {
            let field = format!("{field}[{i}]");
            match cidr {
                None => {
                    let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                    errors.push(FieldError::invalid(field, *given, detail));
                }
                Some(c) if c.trunc().to_string() != *given => {
                    let detail = format!("must be in canonical form ({:?})", c.trunc().to_string());
                    errors.push(FieldError::invalid(field, *given, detail));
                }
                Some(_) => {}
            }
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let (now, before) = (&new["spec"]["cidrs"], &old["spec"]["cidrs"]);
        // A second family may join the first.
        let all = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let (now, before) = (all(now), all(before));
        let mut errors = ErrorList::new();
        if before.len() != 1 || now.len() != 2 {
            rules::immutable(&new["spec"], &old["spec"], &["cidrs"], "spec", &mut errors);
        } else if now[0] != before[0] {
            errors.push(FieldError::invalid("spec.cidrs[0]", now[0].clone(), rules::IMMUTABLE));
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::service_cidr(o, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes_and_ranges_are_checked() {
        let class =
            json!({"spec": {"controller": "x", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}}});
        assert_eq!(
            told(IngressClass.validate(&class)),
            [
                "spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ]
        );
        assert!(IpAddress.name_error("10.0.0.1").is_none());
        assert_eq!(IpAddress.name_error("2001:DB8::1").unwrap(), "must be in canonical form (\"2001:db8::1\")");
        assert_eq!(told(IpAddress.validate(&json!({"spec": {}}))), ["spec.parentRef: Required value"]);
        let range = |c: Value| told(ServiceCidr.validate(&json!({"spec": {"cidrs": c}})));
        assert!(range(json!(["10.0.0.0/24"])).is_empty());
        assert_eq!(range(json!([])), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert_eq!(range(json!(["10.0.0.1/24"])).len(), 1);
        assert_eq!(told(RuntimeClass.validate(&json!({"handler": "A"}))).len(), 1);
    }
}
