//! Network policies and ingresses: what makes sense in them
//! (upstream: `pkg/apis/networking/validation`).

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use super::{list, list_mut, rows, rules, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
/// What a path must not contain, and not end with: it would not mean what it says.
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn default(&self, o: &mut Value) {
        for (rules, _) in DIRECTIONS {
            for rule in list_mut(&mut o["spec"], rules) {
                for port in list_mut(rule, "ports").filter(|p| p["protocol"].is_null()) {
                    port["protocol"] = "TCP".into();
                }
            }
        }
        // A policy is about what comes in, and about what goes out when it says something of that.
        if list(&o["spec"], "policyTypes").next().is_none() && o["spec"].is_object() {
            let egress = list(&o["spec"], "egress").next().is_some();
            o["spec"]["policyTypes"] = TYPES[..1 + usize::from(egress)].to_vec().into();
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let spec = &o["spec"];
        let mut errors = ErrorList::new();
        rules::label_selector(&spec["podSelector"], "spec.podSelector", &mut errors);
        for (rules, peers) in DIRECTIONS {
            for (i, rule) in list(spec, rules).enumerate() {
                let path = format!("spec.{rules}[{i}]");
                for (n, p) in list(rule, "ports").enumerate() {
                    errors.extend(policy_port(p, &format!("{path}.ports[{n}]")));
                }
                for (n, p) in list(rule, peers).enumerate() {
                    errors.extend(peer(p, &format!("{path}.{peers}[{n}]")));
                }
            }
        }
        for (i, t) in list(spec, "policyTypes").enumerate() {
            let t = t.as_str().unwrap_or_default();
            if !TYPES.contains(&t) {
                errors.push(FieldError::not_supported(format!("spec.policyTypes[{i}]"), t, &TYPES));
            }
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::network_policy(o, now)
    }
}

/// The lists of rules, and of peers in each.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn port_number(n: i64, field: &str) -> Option<FieldError> {
    names::port_number(n).map(|e| FieldError::invalid(field, n, e))
}

fn policy_port(p: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let protocol = text(p, "protocol");
    if !protocol.is_empty() && !PROTOCOLS.contains(&protocol) {
        errors.push(FieldError::not_supported(format!("{path}.protocol"), protocol, &PROTOCOLS));
    }
    let (port, end) = (format!("{path}.port"), format!("{path}.endPort"));
    match (&p["port"], p["endPort"].as_i64()) {
        (Value::Null, Some(e)) => {
            errors.push(FieldError::invalid(end, e, "may not be specified when `port` is not specified"));
        }
        (Value::String(name), last) => {
            if let Some(e) = last {
                errors.push(FieldError::invalid(end, e, "may not be specified when `port` is non-numeric"));
            }
            let wrong = names::port_name_errors(name).into_iter();
            errors.extend(wrong.map(|e| FieldError::invalid(port.clone(), name.as_str(), e)));
        }
        (first, last) => {
            let first = first.as_i64();
            errors.extend(first.and_then(|n| port_number(n, &port)));
            if let (Some(first), Some(last)) = (first, last) {
                if last < first {
                    errors.push(FieldError::invalid(end.clone(), first, "must be greater than or equal to `port`"));
                }
                errors.extend(port_number(last, &end));
            }
        }
    }
    errors
}

fn peer(p: &Value, path: &str) -> ErrorList {
    let (pods, namespaces) = (!p["podSelector"].is_null(), !p["namespaceSelector"].is_null());
    let mut errors = ErrorList::new();
    for field in ["podSelector", "namespaceSelector"] {
        rules::label_selector(&p[field], &format!("{path}.{field}"), &mut errors);
    }
    if p["ipBlock"].is_null() {
        if !pods && !namespaces {
            errors.push(FieldError::required(path, "must specify a peer"));
        }
        return errors;
    }
    errors.extend(ip_block(&p["ipBlock"], &format!("{path}.ipBlock")));
    if pods || namespaces {
        errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
    }
    errors
}

fn ip_block(block: &Value, path: &str) -> ErrorList {
    let given = text(block, "cidr");
    if given.is_empty() {
        return vec![FieldError::required(format!("{path}.cidr"), "")];
    }
    let Ok(range) = given.parse::<IpNet>() else {
        return vec![FieldError::invalid(format!("{path}.cidr"), given, "not a valid CIDR")];
    };
    let mut errors = ErrorList::new();
    for (i, e) in list(block, "except").enumerate() {
        let (field, e) = (format!("{path}.except[{i}]"), e.as_str().unwrap_or_default());
        match e.parse::<IpNet>() {
            Err(_) => errors.push(FieldError::invalid(field, e, "not a valid CIDR")),
            Ok(part) if !range.contains(&part) || range.prefix_len() >= part.prefix_len() => {
                errors.push(FieldError::invalid(field, e, "must be a strict subset of `cidr`"));
            }
            Ok(_) => {}
        }
    }
    errors
}

pub(super) struct Ingress;

impl Strategy for Ingress {
    fn validate(&self, o: &Value) -> ErrorList {
        let spec = &o["spec"];
        let mut errors = ErrorList::new();
        if list(spec, "rules").next().is_none() && spec["defaultBackend"].is_null() {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid("spec", spec["rules"].clone(), detail));
        }
        if !spec["defaultBackend"].is_null() {
            errors.extend(backend(&spec["defaultBackend"], "spec.defaultBackend"));
        }
        for (i, rule) in list(spec, "rules").enumerate() {
            errors.extend(ingress_rule(rule, &format!("spec.rules[{i}]")));
        }
        for (i, tls) in list(spec, "tls").enumerate() {
            for (n, h) in list(tls, "hosts").enumerate() {
                errors.extend(host(h.as_str().unwrap_or_default(), &format!("spec.tls[{i}].hosts[{n}]")));
            }
            rules::named_if_given(
                tls,
                "secretName",
                &format!("spec.tls[{i}]"),
                names::dns1123_subdomain_errors,
                &mut errors,
            );
        }
        if let Some(class) = spec["ingressClassName"].as_str() {
            let wrong = names::dns1123_subdomain(class);
            errors.extend(wrong.map(|e| FieldError::invalid("spec.ingressClassName", class, e)));
        }
        errors
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        rows::ingress(o, now)
    }
}

fn host(given: &str, field: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if given.parse::<std::net::IpAddr>().is_ok() {
        errors.push(FieldError::invalid(field, given, "must be a DNS name, not an IP address"));
    }
    let wrong =
        if given.contains('*') { names::wildcard_dns1123_subdomain(given) } else { names::dns1123_subdomain(given) };
    errors.extend(wrong.map(|e| FieldError::invalid(field, given, e)));
    errors
}

fn ingress_rule(rule: &Value, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if !text(rule, "host").is_empty() {
        errors.extend(host(text(rule, "host"), &format!("{path}.host")));
    }
    if rule["http"].is_null() {
        return errors;
    }
    let path = format!("{path}.http.paths");
    if list(&rule["http"], "paths").next().is_none() {
        errors.push(FieldError::required(path.clone(), ""));
    }
    for (i, p) in list(&rule["http"], "paths").enumerate() {
        errors.extend(ingress_path(p, &format!("{path}[{i}]")));
    }
    errors
}

fn ingress_path(p: &Value, path: &str) -> ErrorList {
    let (kind, given, field) = (text(p, "pathType"), text(p, "path"), format!("{path}.path"));
    let mut errors = ErrorList::new();
    let wrong = |detail: String| FieldError::invalid(field.clone(), given, detail);
    match kind {
        "" if p["pathType"].is_null() => {
            return vec![FieldError::required(format!("{path}.pathType"), "pathType must be specified")];
        }
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                errors.push(wrong("must be an absolute path".into()));
            }
            errors.extend(
                BAD_SEQUENCES.iter().filter(|b| given.contains(**b)).map(|b| wrong(format!("must not contain '{b}'"))),
            );
            errors.extend(
                BAD_ENDS.iter().filter(|b| given.ends_with(**b)).map(|b| wrong(format!("cannot end with '{b}'"))),
            );
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                errors.push(wrong("must be an absolute path".into()));
            }
        }
        other => errors.push(FieldError::not_supported(format!("{path}.pathType"), other, &PATH_TYPES)),
    }
    errors.extend(backend(&p["backend"], &format!("{path}.backend")));
    errors
}

fn backend(b: &Value, path: &str) -> ErrorList {
    let service = &b["service"];
    match (b["resource"].is_null(), service.is_null()) {
        (false, false) => return vec![FieldError::invalid(path, "", "cannot set both resource and service backends")],
        (true, true) => return vec![FieldError::invalid(path, "", "resource or service backend is required")],
        (false, true) => return resource_backend(&b["resource"], &format!("{path}.resource")),
        (true, false) => {}
    }
    let mut errors = ErrorList::new();
    let (name, field) = (text(service, "name"), format!("{path}.service.name"));
    if name.is_empty() {
        errors.push(FieldError::required(field, ""));
    } else {
        errors.extend(names::dns1035_label(name).map(|e| FieldError::invalid(field, name, e)));
    }
    let (port_name, number) = (text(&service["port"], "name"), service["port"]["number"].as_i64().unwrap_or(0));
    match (port_name.is_empty(), number) {
        (false, n) if n != 0 => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
        (true, 0) => errors.push(FieldError::required(path, "port name or number is required")),
        (true, n) => errors.extend(port_number(n, &format!("{path}.service.port.number"))),
        (false, _) => {
            let wrong = names::port_name_errors(port_name).into_iter();
            let field = format!("{path}.service.port.name");
            errors.extend(wrong.map(|e| FieldError::invalid(field.clone(), port_name, e)));
        }
    }
    errors
}

fn resource_backend(r: &Value, path: &str) -> ErrorList {
    let missing = ["kind", "name"].into_iter().filter(|f| text(r, f).is_empty());
    missing.map(|f| FieldError::required(format!("{path}.{f}"), "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_says_what_it_is_about() {
        let mut o = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}});
        NetworkPolicy.default(&mut o);
        assert_eq!(o["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(o["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        assert!(NetworkPolicy.validate(&o).is_empty());
    }

    #[test]
    fn ranges_of_ports_and_addresses_must_be_ranges() {
        let o = json!({"spec": {"egress": [{
            "ports": [{"endPort": 90}, {"port": 80, "endPort": 70}],
            "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}, {}],
        }]}});
        assert_eq!(
            told(NetworkPolicy.validate(&o)),
            [
                "spec.egress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is not specified",
                "spec.egress[0].ports[1].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.egress[0].to[1]: Required value: must specify a peer",
            ]
        );
    }

    #[test]
    fn an_ingress_leads_somewhere() {
        let path = |path: &str, port: Value| {
            json!({"spec": {"rules": [{"host": "*.example.com", "http": {"paths": [
                {"path": path, "pathType": "Prefix", "backend": {"service": {"name": "s", "port": port}}}]}}]}})
        };
        assert!(Ingress.validate(&path("/a", json!({"number": 80}))).is_empty());
        assert_eq!(Ingress.validate(&path("a", json!({}))).len(), 2);
        assert_eq!(Ingress.validate(&path("/a/..", json!({"name": "http"}))).len(), 1);
        assert_eq!(Ingress.validate(&json!({"spec": {}})).len(), 1);
    }
}
