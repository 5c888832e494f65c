//! The pod spec, in pods and in templates: defaults and validation (upstream: `ValidatePodSpec`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container::{self, Around, Role};
use super::{list, list_mut, placement, rules, security, set, text, volume};
use crate::field::{ErrorList, FieldError};
use crate::metadata::{validate_annotations, validate_labels};
use crate::names;

const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Fills in the defaults of a pod spec.
pub(super) fn default(spec: &mut Value) {
    let Some(m) = spec.as_object_mut() else { return };
    set(m, "restartPolicy", "Always");
    set(m, "terminationGracePeriodSeconds", 30);
    set(m, "dnsPolicy", "ClusterFirst");
    set(m, "schedulerName", "default-scheduler");
    set(m, "securityContext", json!({}));
    // The old name of the field is kept in step.
    if let Some(name) = m.get("serviceAccountName").or(m.get("serviceAccount")).cloned() {
        m.insert("serviceAccountName".into(), name.clone());
        m.insert("serviceAccount".into(), name);
    }
    if m.get("hostNetwork") == Some(&Value::Bool(true)) {
        for field in ["containers", "initContainers"] {
            for p in list_mut(spec, field).flat_map(|c| list_mut(c, "ports")) {
                let port = p["containerPort"].clone();
                if p["hostPort"].as_i64().unwrap_or(0) == 0 {
                    p["hostPort"] = port;
                }
            }
        }
    }
    for field in LISTS {
        list_mut(spec, field).for_each(container::default);
    }
    list_mut(spec, "volumes").for_each(volume::default);
}

/// Fills in what a pod has beyond a template.
pub(super) fn default_of_pod(spec: &mut Value) {
    if let Some(m) = spec.as_object_mut() {
        set(m, "enableServiceLinks", true);
    }
    list_mut(spec, "containers").for_each(|c| container::default_of_pod(c, true));
    for c in list_mut(spec, "initContainers") {
        let sidecar = c["restartPolicy"] == "Always";
        container::default_of_pod(c, sidecar);
    }
}

/// All that is wrong with the template at `path` of something that makes pods.
pub(super) fn validate_template(template: &Value, path: &str, errors: &mut ErrorList) {
    let metadata = &template["metadata"];
    errors.extend(validate_labels(&metadata["labels"], &format!("{path}.labels")));
    errors.extend(validate_annotations(&metadata["annotations"], &format!("{path}.annotations")));
    annotations(metadata, &template["spec"], &format!("{path}.annotations"), errors);
    validate(&template["spec"], None, &format!("{path}.spec"), errors);
    if list(&template["spec"], "ephemeralContainers").next().is_some() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{path}.spec.ephemeralContainers"), detail));
    }
}

/// All that is wrong with a pod.
pub(super) fn validate_pod(pod: &Value, errors: &mut ErrorList) {
    let spec = &pod["spec"];
    annotations(&pod["metadata"], spec, "metadata.annotations", errors);
    validate(spec, Some(text(&pod["metadata"], "name")), "spec", errors);
    if text(spec, "serviceAccountName").is_empty() {
        for (i, v) in list(spec, "volumes").enumerate() {
            for (n, s) in list(&v["projected"], "sources").enumerate() {
                if s["serviceAccountToken"].is_object() {
                    let field = format!("spec.volumes[{i}].projected.sources[{n}].serviceAccountToken");
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.push(FieldError::forbidden(field, detail));
                }
            }
        }
    }
    for l in LISTS {
        for (i, image) in list(spec, l).map(|c| text(c, "image")).enumerate() {
            if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(format!("spec.{l}[{i}].image"), image, detail));
            }
        }
    }
}

/// Annotations that mean something to pods.
fn annotations(metadata: &Value, spec: &Value, path: &str, errors: &mut ErrorList) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let of = |key: &str| metadata["annotations"][key].as_str();
    if let Some(given) = of(MIRROR).filter(|_| text(spec, "nodeName").is_empty()) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(format!("{path}[{MIRROR}]"), given, detail));
    }
    let is_cost = |s: &str| s.parse::<i32>().is_ok_and(|n| n.to_string() == s);
    if let Some(given) = of(COST).filter(|s| !is_cost(s)) {
        errors.push(FieldError::invalid(format!("{path}[{COST}]"), given, "must be a 32bit integer"));
    }
}

/// `pod` is the name of a pod, and `None` for a template.
fn validate(spec: &Value, pod: Option<&str>, path: &str, errors: &mut ErrorList) {
    let volumes = volume::validate(spec, pod, path, errors);
    let claims = resource_claims(spec, path, errors);
    let around = Around { volumes, claims, grace: spec["terminationGracePeriodSeconds"].as_i64() };
    containers(spec, path, &around, errors);
    if spec["resources"].is_object() {
        container::resources::validate(&spec["resources"], &around.claims, &format!("{path}.resources"), errors);
    }
    if spec["hostNetwork"] == true {
        host_network(spec, pod.is_some(), path, errors);
    }
    rules::one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], errors);
    rules::one_of(spec, "dnsPolicy", path, &DNS_POLICIES, errors);
    errors.extend(validate_labels(&spec["nodeSelector"], &format!("{path}.nodeSelector")));
    security::of_pod(spec, path, errors);
    placement::affinity(spec, path, errors);
    dns_config(spec, path, errors);
    for (i, g) in list(spec, "readinessGates").enumerate() {
        let field = format!("{path}.readinessGates[{i}].conditionType");
        rules::label_name(text(g, "conditionType"), &field, errors);
    }
    let mut gates = BTreeSet::new();
    for (i, g) in list(spec, "schedulingGates").map(|g| text(g, "name")).enumerate() {
        let field = format!("{path}.schedulingGates[{i}]");
        rules::label_name(g, &field, errors);
        if !gates.insert(g) {
            errors.push(FieldError::duplicate(field, g));
        }
    }
    placement::spread(spec, path, errors);
    if spec["hostUsers"] == false {
        // Upstream's spelling.
        let shared = [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")];
        for (_, name) in shared.into_iter().filter(|(f, _)| spec[*f] == true) {
            let detail = "when `pod.Spec.HostUsers` is false";
            errors.push(FieldError::forbidden(format!("{path}.{name}"), detail));
        }
    }
    names_of(spec, path, errors);
    placement::tolerations(spec, path, errors);
    host_aliases(spec, path, errors);
    rules::one_of_if_given(spec, "preemptionPolicy", path, &["PreemptLowerPriority", "Never"], errors);
    let overhead = json!({"limits": spec["overhead"]});
    container::resources::validate(&overhead, &around.claims, &format!("{path}.overhead"), errors);
    security::of_system(spec, path, errors);
}

fn names_of(spec: &Value, path: &str, errors: &mut ErrorList) {
    let forms: [(&str, rules::Form); 6] = [
        ("serviceAccountName", names::dns1123_subdomain_errors),
        ("nodeName", names::dns1123_subdomain_errors),
        ("hostname", names::dns1123_label_errors),
        ("subdomain", names::dns1123_label_errors),
        ("priorityClassName", names::dns1123_subdomain_errors),
        ("runtimeClassName", names::dns1123_subdomain_errors),
    ];
    for (i, (field, form)) in forms.into_iter().enumerate() {
        // Where upstream looks at the deadline.
        if i == 2 {
            rules::between(spec, "activeDeadlineSeconds", path, 1, i64::from(i32::MAX), errors);
        }
        rules::named_if_given(spec, field, path, form, errors);
    }
}

fn containers(spec: &Value, path: &str, around: &Around<'_>, errors: &mut ErrorList) {
    let (regular, init) = (format!("{path}.containers"), format!("{path}.initContainers"));
    if list(spec, "containers").next().is_none() {
        errors.push(FieldError::required(regular.clone(), ""));
    }
    let mut seen = BTreeSet::new();
    let mut named = |c: &Value, path: &str, errors: &mut ErrorList| {
        let name = text(c, "name").to_owned();
        if !name.is_empty() && !seen.insert(name.clone()) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
    };
    for (i, c) in list(spec, "containers").enumerate() {
        let path = format!("{regular}[{i}]");
        container::validate(c, &path, Role::Regular, around, errors);
        named(c, &path, errors);
    }
    container::host_port_conflicts(list(spec, "containers").enumerate(), &regular, errors);
    for (i, c) in list(spec, "initContainers").enumerate() {
        let path = format!("{init}[{i}]");
        container::validate(c, &path, Role::Init, around, errors);
        named(c, &path, errors);
        container::host_port_conflicts(std::iter::once((i, c)), &init, errors);
    }
    let known: Vec<&str> =
        list(spec, "containers").chain(list(spec, "initContainers")).map(|c| text(c, "name")).collect();
    for (i, c) in list(spec, "ephemeralContainers").enumerate() {
        let path = format!("{path}.ephemeralContainers[{i}]");
        container::validate(c, &path, Role::Ephemeral, around, errors);
        named(c, &path, errors);
        let target = text(c, "targetContainerName");
        if !target.is_empty() && !known.contains(&target) {
            errors.push(FieldError::not_found(format!("{path}.targetContainerName"), target));
        }
    }
}

fn host_network(spec: &Value, is_pod: bool, path: &str, errors: &mut ErrorList) {
    for (i, c) in list(spec, "containers").enumerate() {
        for (n, p) in list(c, "ports").enumerate() {
            let (host, own) = (p["hostPort"].as_i64().unwrap_or(0), p["containerPort"].as_i64().unwrap_or(0));
            if (is_pod || host != 0) && host != own {
                let field = format!("{path}.containers[{i}].ports[{n}].hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(field, host, detail));
            }
        }
    }
}

fn resource_claims<'a>(spec: &'a Value, path: &str, errors: &mut ErrorList) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, c) in list(spec, "resourceClaims").enumerate() {
        let path = format!("{path}.resourceClaims[{i}]");
        let name = text(c, "name");
        rules::named(c, "name", &path, names::dns1123_label_errors, errors);
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let detail = match sources.iter().filter(|s| !c[**s].is_null()).count() {
            0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            2 => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            _ => None,
        };
        errors.extend(detail.map(|d| FieldError::invalid(path.clone(), c.clone(), d)));
        for s in sources {
            rules::named_if_given(c, s, &path, names::dns1123_subdomain_errors, errors);
        }
    }
    seen
}

fn dns_config(spec: &Value, path: &str, errors: &mut ErrorList) {
    const NAMESERVERS: usize = 3;
    const SEARCHES: usize = 32;
    const SEARCH_CHARACTERS: usize = 2048;
    let (v, path) = (&spec["dnsConfig"], format!("{path}.dnsConfig"));
    let field = |f: &str| format!("{path}.{f}");
    let nameservers: Vec<&str> = list(v, "nameservers").filter_map(Value::as_str).collect();
    if text(spec, "dnsPolicy") == "None" {
        let missing = match (v.is_object(), nameservers.is_empty()) {
            (false, _) => Some((path.clone(), "must provide `dnsConfig` when `dnsPolicy` is None")),
            (_, true) => {
                Some((field("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
            }
            _ => None,
        };
        if let Some((field, detail)) = missing {
            errors.push(FieldError::required(field, detail));
            return;
        }
    }
    if nameservers.len() > NAMESERVERS {
        let detail = format!("must not have more than {NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(field("nameservers"), v["nameservers"].clone(), detail));
    }
    for (i, ns) in nameservers.iter().enumerate() {
        if ns.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{path}.nameservers[{i}]"), *ns, detail));
        }
    }
    let searches: Vec<&str> = list(v, "searches").filter_map(Value::as_str).collect();
    let too_many = |what: String| FieldError::invalid(field("searches"), v["searches"].clone(), what);
    if searches.len() > SEARCHES {
        errors.push(too_many(format!("must not have more than {SEARCHES} search paths")));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS {
        errors.push(too_many(format!(
            "must not have more than {SEARCH_CHARACTERS} characters (including spaces) in the search list"
        )));
    }
    for (i, s) in searches.iter().enumerate().filter(|(_, s)| **s != ".") {
        // Parts may begin with underscores, as names of services do.
        let bare = s.strip_suffix('.').unwrap_or(s).replace('_', "");
        rules::all_wrong(&format!("{path}.searches[{i}]"), s, names::dns1123_subdomain_errors(&bare), errors);
    }
    for (i, o) in list(v, "options").enumerate() {
        if text(o, "name").is_empty() {
            errors.push(FieldError::required(format!("{path}.options[{i}]"), "must not be empty"));
        }
    }
}

fn host_aliases(spec: &Value, path: &str, errors: &mut ErrorList) {
    for (i, alias) in list(spec, "hostAliases").enumerate() {
        let path = format!("{path}.hostAliases[{i}]");
        let ip = text(alias, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{path}.ip"), ip, detail));
        }
        for (n, h) in list(alias, "hostnames").filter_map(Value::as_str).enumerate() {
            rules::all_wrong(&format!("{path}.hostnames[{n}]"), h, names::dns1123_subdomain_errors(h), errors);
        }
    }
}
