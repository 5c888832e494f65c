//! What services, endpoints and endpoint slices must be like (upstream: `ValidateService`,
//! `validateEndpointSubsets`, `ValidateEndpointSlice`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{list, rules, text};
use crate::field::{ErrorList, FieldError};
use crate::metadata::validate_labels;
use crate::names;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const KUBELET_PORT: i64 = 10250;
const AFFINITY_SECONDS: i64 = 86400;
const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// Upstream's bounds of a slice.
const ENDPOINTS_MOST: usize = 1000;
const ADDRESSES_MOST: usize = 100;
const PORTS_MOST: usize = 20000;
const ZONES_MOST: usize = 8;

fn is_headless(spec: &Value) -> bool {
    list(spec, "clusterIPs").next().is_some_and(|ip| ip == "None") || text(spec, "clusterIP") == "None"
}

/// All that is wrong with a service.
pub(super) fn service(o: &Value) -> ErrorList {
    let (spec, mut errors) = (&o["spec"], ErrorList::new());
    let (kind, headless) = (text(spec, "type"), is_headless(spec));
    if list(spec, "ports").next().is_none() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    of_type(spec, kind, headless, &mut errors);
    ports(spec, &mut errors);
    errors.extend(validate_labels(&spec["selector"], "spec.selector"));
    rules::one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"], &mut errors);
    affinity(spec, &mut errors);
    if kind != "ExternalName" {
        addresses(spec, headless, &mut errors);
    }
    for (i, ip) in list(spec, "externalIPs").filter_map(Value::as_str).enumerate() {
        usable_address(ip, &format!("spec.externalIPs[{i}]"), &mut errors);
    }
    rules::one_of(spec, "type", "spec", &TYPES, &mut errors);
    node_ports(spec, kind, &mut errors);
    load_balancer(spec, kind, &mut errors);
    traffic(spec, kind, &mut errors);
    errors
}

fn of_type(spec: &Value, kind: &str, headless: bool, errors: &mut ErrorList) {
    match kind {
        "LoadBalancer" | "NodePort" => {
            for (i, p) in list(spec, "ports").enumerate() {
                if kind == "LoadBalancer" && p["port"] == KUBELET_PORT {
                    let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                    errors.push(FieldError::invalid(format!("spec.ports[{i}]"), KUBELET_PORT, detail));
                }
            }
            if headless {
                let detail = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
            }
        }
        "ExternalName" => {
            let given = |f: &str| list(spec, f).next().is_some() || !text(spec, f).is_empty();
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| given(f)) {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
            }
            let name = text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.push(FieldError::required("spec.externalName", ""));
            } else {
                rules::all_wrong("spec.externalName", name, names::dns1123_subdomain_errors(name), errors);
            }
        }
        _ => {}
    }
}

fn ports(spec: &Value, errors: &mut ErrorList) {
    let many = list(spec, "ports").count() > 1;
    let mut seen = BTreeSet::new();
    for (i, p) in list(spec, "ports").enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = text(p, "name");
        if many || !name.is_empty() {
            rules::named(p, "name", &path, names::dns1123_label_errors, errors);
        }
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        let number = p["port"].as_i64().unwrap_or(0);
        errors.extend(names::port_number(number).map(|e| FieldError::invalid(format!("{path}.port"), number, e)));
        rules::one_of(p, "protocol", &path, &PROTOCOLS, errors);
        let mut wrong = ErrorList::new();
        rules::port_or_name(&json!({"port": p["targetPort"]}), &path, &mut wrong);
        errors.extend(wrong.into_iter().map(|e| FieldError { field: format!("{path}.targetPort"), ..e }));
        if let Some(protocol) = p["appProtocol"].as_str() {
            rules::label_name(protocol, &format!("{path}.appProtocol"), errors);
        }
    }
}

fn affinity(spec: &Value, errors: &mut ErrorList) {
    let (config, path) = (&spec["sessionAffinityConfig"], "spec.sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => match config["clientIP"]["timeoutSeconds"].as_i64() {
            None => {
                let detail = "when session affinity type is ClientIP";
                errors.push(FieldError::required(format!("{path}.clientIP.timeoutSeconds"), detail));
            }
            Some(n) if n <= 0 || n > AFFINITY_SECONDS => {
                let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS}");
                errors.push(FieldError::invalid(format!("{path}.clientIP.timeoutSeconds"), n, detail));
            }
            Some(_) => {}
        },
        "None" if config.is_object() => {
            errors.push(FieldError::forbidden(path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn addresses(spec: &Value, headless: bool, errors: &mut ErrorList) {
    let all: Vec<&str> = list(spec, "clusterIPs").filter_map(Value::as_str).collect();
    let (field, first) = ("spec.clusterIPs", text(spec, "clusterIP"));
    match (first, all.first()) {
        ("", Some(_)) => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(field, spec["clusterIPs"].clone(), detail));
        }
        (ip, Some(other)) if ip != *other => {
            errors.push(FieldError::invalid(field, spec["clusterIPs"].clone(), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (i, family) in list(spec, "ipFamilies").filter_map(Value::as_str).enumerate() {
        let field = format!("spec.ipFamilies[{i}]");
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(field.clone(), family, &["IPv4", "IPv6"]));
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(field, family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    rules::one_of_if_given(spec, "ipFamilyPolicy", "spec", &policies, errors);
    // What is given without the list is checked as its first entry.
    let given: Vec<&str> = if all.is_empty() && !first.is_empty() { vec![first] } else { all };
    for (i, ip) in given.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if given.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(field, spec["clusterIPs"].clone(), detail));
            }
            continue;
        }
        let Ok(parsed) = ip.parse::<IpAddr>() else {
            errors.push(FieldError::invalid(format!("{field}[{i}]"), *ip, NO_IP));
            continue;
        };
        let family = list(spec, "ipFamilies").nth(i).and_then(Value::as_str).filter(|_| !headless);
        if let Some(family) = family.filter(|f| (*f == "IPv6") != parsed.is_ipv6()) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(FieldError::invalid(format!("{field}[{i}]"), *ip, detail));
        }
    }
    if given.len() > 2 {
        errors.push(FieldError::invalid(field, spec["clusterIPs"].clone(), "may only hold up to 2 values"));
    }
    let families: BTreeSet<bool> =
        given.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv6()).collect();
    if given.len() > 1 && families.len() < 2 {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(field, spec["clusterIPs"].clone(), detail));
    }
}

/// An address that can be sent to.
fn usable_address(ip: &str, field: &str, errors: &mut ErrorList) {
    let Ok(parsed) = ip.parse::<IpAddr>() else {
        errors.push(FieldError::invalid(field, ip, NO_IP));
        return;
    };
    let (local, multicast) = match parsed {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (a.segments()[0] & 0xffc0 == 0xfe80, a.segments()[0] == 0xff02),
    };
    let wrong = [
        (parsed.is_unspecified(), format!("may not be unspecified ({ip})")),
        (parsed.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    errors.extend(wrong.into_iter().filter(|(is, _)| *is).map(|(_, why)| FieldError::invalid(field, ip, why)));
}

fn node_ports(spec: &Value, kind: &str, errors: &mut ErrorList) {
    let all: Vec<(String, i64, &Value)> = list(spec, "ports")
        .enumerate()
        .map(|(i, p)| (format!("spec.ports[{i}]"), p["nodePort"].as_i64().unwrap_or(0), p))
        .collect();
    if kind == "ClusterIP" {
        for (path, _, _) in all.iter().filter(|(_, n, _)| *n != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(format!("{path}.nodePort"), detail));
        }
    }
    let (mut nodes, mut own) = (BTreeSet::new(), BTreeSet::new());
    for (path, n, p) in all.iter().filter(|(_, n, _)| *n != 0) {
        if !nodes.insert((text(p, "protocol"), *n)) {
            errors.push(FieldError::duplicate(format!("{path}.nodePort"), *n));
        }
    }
    for (path, _, p) in &all {
        let port = p["port"].as_i64().unwrap_or(0);
        if !own.insert((text(p, "protocol"), port)) {
            errors.push(FieldError::duplicate(path.clone(), json!({"protocol": p["protocol"], "port": port})));
        }
    }
}

fn load_balancer(spec: &Value, kind: &str, errors: &mut ErrorList) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind == "LoadBalancer";
    let ranges: Vec<&str> = list(spec, "loadBalancerSourceRanges").filter_map(Value::as_str).collect();
    if !ranges.is_empty() {
        if !balanced {
            errors.push(FieldError::forbidden("spec.loadBalancerSourceRanges", ONLY));
        }
        for (i, r) in ranges.iter().enumerate().filter(|(_, r)| r.trim().parse::<ipnet::IpNet>().is_err()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.loadBalancerSourceRanges[{i}]"), *r, detail));
        }
    }
    if !spec["allocateLoadBalancerNodePorts"].is_null() && !balanced {
        errors.push(FieldError::forbidden("spec.allocateLoadBalancerNodePorts", ONLY));
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        if balanced {
            rules::label_name(class, "spec.loadBalancerClass", errors);
        } else {
            errors.push(FieldError::forbidden("spec.loadBalancerClass", ONLY));
        }
    }
}

fn traffic(spec: &Value, kind: &str, errors: &mut ErrorList) {
    let external = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && list(spec, "externalIPs").next().is_some());
    let policy = text(spec, "externalTrafficPolicy");
    if external {
        rules::one_of(spec, "externalTrafficPolicy", "spec", &["Cluster", "Local"], errors);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", policy, detail));
    }
    let checked = kind == "LoadBalancer" && policy == "Local";
    if let Some(n) = spec["healthCheckNodePort"].as_i64().filter(|n| *n != 0) {
        let field = "spec.healthCheckNodePort";
        if checked {
            errors.extend(names::port_number(n).map(|e| FieldError::invalid(field, n, e)));
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(field, n, detail));
        }
    }
    if kind != "ExternalName" {
        rules::one_of_if_given(spec, "internalTrafficPolicy", "spec", &["Cluster", "Local"], errors);
    }
    let near = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    rules::one_of_if_given(spec, "trafficDistribution", "spec", &near, errors);
}

/// All that is wrong with endpoints.
pub(super) fn endpoints(o: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, s) in list(o, "subsets").enumerate() {
        let path = format!("subsets[{i}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|l| list(s, l).next().is_none()) {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(path.clone(), detail));
        }
        for l in lists {
            for (n, a) in list(s, l).enumerate() {
                let path = format!("{path}.{l}[{n}]");
                usable_address(text(a, "ip"), &format!("{path}.ip"), &mut errors);
                rules::named_if_given(a, "hostname", &path, names::dns1123_label_errors, &mut errors);
                rules::named_if_given(a, "nodeName", &path, names::dns1123_subdomain_errors, &mut errors);
            }
        }
        let many = list(s, "ports").count() > 1;
        for (n, p) in list(s, "ports").enumerate() {
            let path = format!("{path}.ports[{n}]");
            if many || !text(p, "name").is_empty() {
                rules::named(p, "name", &path, names::dns1123_label_errors, &mut errors);
            }
            let number = p["port"].as_i64().unwrap_or(0);
            errors.extend(names::port_number(number).map(|e| FieldError::invalid(format!("{path}.port"), number, e)));
            rules::one_of(p, "protocol", &path, &PROTOCOLS, &mut errors);
            if let Some(protocol) = p["appProtocol"].as_str() {
                rules::label_name(protocol, &format!("{path}.appProtocol"), &mut errors);
            }
        }
    }
    errors
}

/// All that is wrong with an endpoint slice.
pub(super) fn slice(o: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = text(o, "addressType");
    match kind {
        "" => errors.push(FieldError::required("addressType", "")),
        "FQDN" | "IPv4" | "IPv6" => {}
        other => errors.push(FieldError::not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"])),
    }
    let all: Vec<&Value> = list(o, "endpoints").collect();
    if all.len() > ENDPOINTS_MOST {
        errors.push(FieldError::too_many("endpoints", all.len(), ENDPOINTS_MOST));
    } else {
        for (i, e) in all.into_iter().enumerate() {
            endpoint(e, kind, &format!("endpoints[{i}]"), &mut errors);
        }
    }
    let mut seen = BTreeSet::new();
    let count = list(o, "ports").count();
    if count > PORTS_MOST {
        errors.push(FieldError::too_many("ports", count, PORTS_MOST));
        return errors;
    }
    for (i, p) in list(o, "ports").enumerate() {
        let path = format!("ports[{i}]");
        rules::named_if_given(p, "name", &path, names::dns1123_label_errors, &mut errors);
        if !seen.insert(text(p, "name")) {
            errors.push(FieldError::duplicate(format!("{path}.name"), text(p, "name")));
        }
        rules::one_of(p, "protocol", &path, &PROTOCOLS, &mut errors);
        if let Some(protocol) = p["appProtocol"].as_str() {
            rules::label_name(protocol, &format!("{path}.appProtocol"), &mut errors);
        }
    }
    errors
}

fn endpoint(e: &Value, kind: &str, path: &str, errors: &mut ErrorList) {
    let addresses: Vec<&str> = list(e, "addresses").filter_map(Value::as_str).collect();
    let field = format!("{path}.addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(field.clone(), "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MOST {
        errors.push(FieldError::too_many(field.clone(), addresses.len(), ADDRESSES_MOST));
    }
    for (i, a) in addresses.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        match (kind, a.parse::<IpAddr>()) {
            ("IPv4", Ok(ip)) if ip.is_ipv4() => usable_address(a, &field, errors),
            ("IPv6", Ok(ip)) if ip.is_ipv6() => usable_address(a, &field, errors),
            ("IPv4", _) => errors.push(FieldError::invalid(field, a, "must be a valid IPv4 address")),
            ("IPv6", _) => errors.push(FieldError::invalid(field, a, "must be a valid IPv6 address")),
            ("FQDN", _) => {
                rules::all_wrong(&field, a, names::dns1123_subdomain_errors(a), errors);
                if !a.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.push(FieldError::invalid(field, a, detail));
                }
            }
            _ => {}
        }
    }
    rules::named_if_given(e, "nodeName", path, names::dns1123_subdomain_errors, errors);
    rules::named_if_given(e, "hostname", path, names::dns1123_label_errors, errors);
    let zones: Vec<&str> = list(&e["hints"], "forZones").map(|z| text(z, "name")).collect();
    let field = format!("{path}.hints.forZones");
    if zones.len() > ZONES_MOST {
        errors.push(FieldError::too_many(field, zones.len(), ZONES_MOST));
        return;
    }
    for (i, z) in zones.iter().enumerate() {
        let field = format!("{field}[{i}].name");
        if zones[..i].contains(z) {
            errors.push(FieldError::duplicate(field.clone(), *z));
        }
        rules::all_wrong(&field, z, names::label_value_errors(z), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn with(extra: Value) -> Value {
        let mut spec = json!({"type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"spec": spec})
    }

    #[test]
    fn services_are_checked_in_upstreams_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &[]),
            (json!({"ports": []}), &["spec.ports: Required value"]),
            (
                json!({"type": "NodePort", "clusterIP": "None", "externalTrafficPolicy": "Cluster"}),
                &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
            ),
            (
                json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 0, "name": "a", "nodePort": 1},
                    {"port": 80, "protocol": "TCP", "targetPort": 80, "name": "a"}]}),
                &[
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[1].name: Duplicate value: \"a\"",
                    "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                    "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
                ],
            ),
            (
                json!({"sessionAffinity": "ClientIP", "externalIPs": ["127.0.0.1", "x"]}),
                &[
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Required value: when session affinity type is ClientIP",
                    "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "spec.externalTrafficPolicy: Required value",
                ],
            ),
            (
                json!({"loadBalancerClass": "a/b", "loadBalancerSourceRanges": ["10.0.0.0/8"], "healthCheckNodePort": 5}),
                &[
                    "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                    "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                    "spec.healthCheckNodePort: Invalid value: 5: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ],
            ),
        ];
        for (extra, wanted) in cases {
            assert_eq!(told(service(&with(extra))), wanted);
        }
    }

    #[test]
    fn endpoints_have_addresses() {
        let e =
            json!({"subsets": [{}, {"addresses": [{"ip": "169.254.1.1"}], "ports": [{"port": 0, "protocol": "TCP"}]}]});
        assert_eq!(
            told(endpoints(&e)),
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[1].addresses[0].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                "subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ]
        );
        let s = json!({"addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["::1"]}]});
        assert_eq!(
            told(slice(&s)),
            [
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
            ]
        );
    }
}
