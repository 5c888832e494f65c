//! Services, endpoints and endpoint slices. Addresses and node ports are given by the server's
//! admission plugin `ServiceAddresses`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, labels, name};
use super::{child, list, list_mut, service_rules, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

pub(super) struct Service;

/// Drops what belonged to the type that the service had, and what nobody asked for anew.
fn forget(new: &mut Value, old: &Value, fields: &[&str]) {
    let Some(spec) = new["spec"].as_object_mut() else { return };
    for f in fields {
        if spec.get(*f) == old["spec"].get(*f) {
            spec.remove(*f);
        }
    }
}

/// A service that has addresses has them of one family, unless it says otherwise.
fn set_families(o: &mut Value) {
    if text(&o["spec"], "type") != "ExternalName"
        && let Some(spec) = child(o, "spec")
    {
        set(spec, "ipFamilyPolicy", "SingleStack");
    }
}

impl Strategy for Service {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn default(&self, o: &mut Value) {
        let Some(s) = child(o, "spec") else { return };
        set(s, "type", "ClusterIP");
        set(s, "sessionAffinity", "None");
        if s["sessionAffinity"] == "ClientIP" {
            set(s, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        } else {
            s.remove("sessionAffinityConfig");
        }
        let kind = s["type"].as_str().unwrap_or_default().to_owned();
        if kind != "ExternalName" {
            set(s, "internalTrafficPolicy", "Cluster");
        }
        let external = s.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (external && kind == "ClusterIP") {
            set(s, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set(s, "allocateLoadBalancerNodePorts", true);
        }
        for p in list_mut(&mut o["spec"], "ports") {
            let port = p["port"].clone();
            if let Some(m) = p.as_object_mut() {
                set(m, "protocol", "TCP");
                if m.get("targetPort").is_none_or(|t| t == 0 || t == "") {
                    m.insert("targetPort".into(), port);
                }
            }
        }
    }

    fn prepare_create(&self, o: &mut Value) {
        o["status"] = json!({"loadBalancer": {}});
        set_families(o);
    }

    fn validate(&self, o: &Value) -> ErrorList {
        service_rules::service(o)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let (a, b) = (text(&old["spec"], "clusterIP"), text(&new["spec"], "clusterIP"));
        let external = |o: &Value| text(&o["spec"], "type") == "ExternalName";
        if a != b && !a.is_empty() && !external(old) && !external(new) {
            return vec![FieldError::invalid("spec.clusterIPs[0]", b, "may not change once set")];
        }
        let balanced = |o: &Value| text(&o["spec"], "type") == "LoadBalancer";
        let class = &new["spec"]["loadBalancerClass"];
        if balanced(old) && balanced(new) && *class != old["spec"]["loadBalancerClass"] {
            return vec![FieldError::invalid("spec.loadBalancerClass", class.clone(), "may not change once set")];
        }
        ErrorList::new()
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // An update that leaves the address out keeps it.
        let external = |o: &Value| text(&o["spec"], "type") == "ExternalName";
        if external(new) || external(old) {
            return set_families(new);
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new["spec"].get(field).is_none_or(|v| v == "")
                && let Some(v) = old["spec"].get(field)
            {
                new["spec"][field] = v.clone();
            }
        }
        if !matches!(text(&new["spec"], "type"), "NodePort" | "LoadBalancer") {
            // Leaving the type gives the ports back, unless the client asks for others by mistake.
            let before: Vec<Value> = list(&old["spec"], "ports").map(|p| p["nodePort"].clone()).collect();
            for p in list_mut(&mut new["spec"], "ports") {
                if before.contains(&p["nodePort"])
                    && let Some(m) = p.as_object_mut()
                {
                    m.remove("nodePort");
                }
            }
            if list(&new["spec"], "externalIPs").next().is_none() {
                forget(new, old, &["externalTrafficPolicy"]);
            }
            forget(new, old, &["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"]);
            return;
        }
        if text(&new["spec"], "type") == "NodePort" {
            forget(new, old, &["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"]);
        }
        for p in list_mut(&mut new["spec"], "ports") {
            if p["nodePort"].as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let same = list(&old["spec"], "ports").find(|o| o["port"] == p["port"] && o["protocol"] == p["protocol"]);
            if let Some(n) = same.map(|o| o["nodePort"].clone()).filter(|n| !n.is_null()) {
                p["nodePort"] = n;
            }
        }
    }

    fn name_error(&self, name: &str) -> Option<String> {
        names::dns1035_label(name)
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &o["spec"];
        let join = |v: Vec<&str>| v.join(",");
        let ingress = &o["status"]["loadBalancer"];
        let balanced = join(
            list(ingress, "ingress")
                .map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") })
                .collect(),
        );
        let external = join(list(spec, "externalIPs").filter_map(Value::as_str).collect());
        let external = match text(spec, "type") {
            "ExternalName" => text(spec, "externalName").to_owned(),
            "LoadBalancer" if balanced.is_empty() && external.is_empty() => "<pending>".to_owned(),
            "LoadBalancer" if external.is_empty() => balanced,
            "LoadBalancer" if !balanced.is_empty() => format!("{balanced},{external}"),
            _ if external.is_empty() => "<none>".to_owned(),
            _ => external,
        };
        let ports: Vec<String> = list(spec, "ports")
            .map(|p| match p["nodePort"].as_i64().filter(|n| *n > 0) {
                Some(n) => format!("{}:{n}/{}", p["port"], text(p, "protocol")),
                None => format!("{}/{}", p["port"], text(p, "protocol")),
            })
            .collect();
        let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
        let ip = match text(spec, "clusterIP") {
            "" => "<none>",
            ip => ip,
        };
        vec![
            name(o),
            spec["type"].clone(),
            ip.into(),
            external.into(),
            ports.into(),
            age(o, now),
            labels(&spec["selector"]),
        ]
    }
}

pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, o: &mut Value) {
        for s in list_mut(o, "subsets") {
            for p in list_mut(s, "ports") {
                if let Some(m) = p.as_object_mut() {
                    set(m, "protocol", "TCP");
                }
            }
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        service_rules::endpoints(o)
    }

    fn warnings(&self, _: &Value) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let mut all = Vec::new();
        for s in list(o, "subsets") {
            for a in list(s, "addresses") {
                if list(s, "ports").next().is_none() {
                    all.push(text(a, "ip").to_owned());
                }
                all.extend(list(s, "ports").map(|p| format!("{}:{}", text(a, "ip"), p["port"])));
            }
        }
        vec![name(o), shortened(&all).into(), age(o, now)]
    }
}

/// At most three, and how many more.
fn shortened(all: &[String]) -> String {
    match all.len() {
        0 => "<none>".to_owned(),
        n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3),
        _ => all.join(","),
    }
}

pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, o: &mut Value) {
        for p in list_mut(o, "ports") {
            if let Some(m) = p.as_object_mut() {
                set(m, "name", "");
                set(m, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        service_rules::slice(o)
    }

    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        // Upstream counts a change of labels as well.
        ["endpoints", "ports", "addressType"].iter().any(|f| new[*f] != old[*f])
            || new["metadata"]["labels"] != old["metadata"]["labels"]
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        if new["addressType"] == old["addressType"] {
            return ErrorList::new();
        }
        vec![FieldError::invalid("addressType", new["addressType"].clone(), "field is immutable")]
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> =
            list(o, "ports").map(|p| p["port"].as_i64().map_or_else(|| "*".to_owned(), |n| n.to_string())).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports) };
        let addresses: Vec<String> = list(o, "endpoints")
            .flat_map(|e| list(e, "addresses"))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses) };
        vec![name(o), o["addressType"].clone(), ports.into(), addresses.into(), age(o, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_get_protocol_and_target_and_the_address_survives_an_update_without_it() {
        let mut s = json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.43.0.5"}});
        Service.default(&mut s);
        assert_eq!(s["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(Service.validate(&s), ErrorList::new());
        let mut new = json!({"spec": {"ports": [{"port": 81}]}});
        Service.prepare_update(&mut new, &s);
        assert_eq!(new["spec"]["clusterIP"], "10.43.0.5");
    }
}
