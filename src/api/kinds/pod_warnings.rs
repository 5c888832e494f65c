//! What a client is warned of that makes a pod or a template of pods (upstream: `pkg/api/pod/warnings.go`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{list, text};
use crate::names;
use crate::quantity::Quantity;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Volumes that work no more, or will not.
const VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const NODE_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// A label of nodes that has another name now.
pub(super) fn deprecated_node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(k, _)| *k == key).map(|(_, why)| *why)
}

/// Warnings of a pod (`path` is empty) or of the template at `path`, such as `spec.template.`.
pub(super) fn of(template: &Value, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (spec, at) = (&template["spec"], format!("{path}spec"));
    placement(spec, &at, &mut all);
    let annotations = &template["metadata"]["annotations"];
    for (key, why) in ANNOTATIONS.iter().filter(|(k, _)| annotations.get(*k).is_some()) {
        all.push(format!("{path}metadata.annotations[{key}]: {why}"));
    }
    for (i, v) in list(spec, "volumes").enumerate() {
        for (_, field, why) in VOLUMES.iter().filter(|(f, _, _)| v[*f].is_object()) {
            all.push(format!("{at}.volumes[{i}].{field}: {why}"));
        }
    }
    repeated(spec, "hostAliases", "ip", &at, &mut all);
    repeated(spec, "imagePullSecrets", "name", &at, &mut all);
    for (i, s) in list(spec, "imagePullSecrets").enumerate() {
        if text(s, "name").is_empty() {
            all.push(format!("{at}.imagePullSecrets[{i}].name: invalid empty name \"\""));
        }
    }
    fractions(&spec["overhead"], &format!("{at}.overhead"), &mut all);
    for l in LISTS {
        for (i, c) in list(spec, l).enumerate() {
            container(c, &format!("{at}.{l}[{i}]"), &mut all);
        }
    }
    ports(spec, &at, &mut all);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|n| n < 0) {
        let why = "must be >= 0; negative values are invalid and will be treated as 1";
        all.push(format!("{at}.terminationGracePeriodSeconds: {why}"));
    }
    null_selectors(spec, &at, &mut all);
    all
}

/// A name that is no label makes odd hostnames.
pub(super) fn of_name(o: &Value, whose: &str) -> Vec<String> {
    let wrong = names::dns1123_label_errors(text(&o["metadata"], "name"));
    if wrong.is_empty() {
        return Vec::new();
    }
    let label = format!("a DNS label is recommended: [{}]", wrong.join(" "));
    vec![format!("metadata.name: this is used in {whose}, which can result in surprising behavior; {label}")]
}

fn placement(spec: &Value, at: &str, all: &mut Vec<String>) {
    for key in spec["nodeSelector"].as_object().into_iter().flatten().map(|(k, _)| k) {
        all.extend(deprecated_node_label(key).map(|why| format!("{at}.nodeSelector[{key}]: {why}")));
    }
    let node = &spec["affinity"]["nodeAffinity"];
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let hard = list(&node[required], "nodeSelectorTerms").enumerate();
    let hard = hard.map(|(i, t)| (t, format!("{at}.affinity.nodeAffinity.{required}.nodeSelectorTerms[{i}]")));
    let soft = list(node, preferred).enumerate();
    let soft = soft.map(|(i, t)| (&t["preference"], format!("{at}.affinity.nodeAffinity.{preferred}[{i}].preference")));
    for (term, path) in hard.chain(soft) {
        for (i, key) in list(term, "matchExpressions").map(|e| text(e, "key")).enumerate() {
            let why = deprecated_node_label(key);
            all.extend(why.map(|why| format!("{path}.matchExpressions[{i}].key: {key} is {why}")));
        }
    }
    for (i, c) in list(spec, "topologySpreadConstraints").enumerate() {
        let (path, key) = (format!("{at}.topologySpreadConstraints[{i}]"), text(c, "topologyKey"));
        all.extend(deprecated_node_label(key).map(|why| format!("{path}.topologyKey: {key} is {why}")));
        if c["labelSelector"].is_null() {
            all.push(format!("{path}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
}

fn repeated(spec: &Value, field: &str, key: &str, at: &str, all: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, value) in list(spec, field).map(|v| text(v, key)).enumerate() {
        if !seen.insert(value) {
            all.push(format!("{at}.{field}[{i}].{key}: duplicate {key} {value:?}"));
        }
    }
}

/// Parts of a byte.
pub(super) fn fractions(amounts: &Value, path: &str, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let Some(Ok(q)) = amounts.get(name).map(Quantity::from_value) else { continue };
        if q.nanos() % 1_000_000_000 != 0 {
            all.push(format!("{path}[{name}]: fractional byte value \"{q}\" is invalid, must be an integer"));
        }
    }
}

fn container(c: &Value, path: &str, all: &mut Vec<String>) {
    for kind in ["limits", "requests"] {
        fractions(&c["resources"][kind], &format!("{path}.resources.{kind}"), all);
    }
    let mut seen = BTreeSet::new();
    for (i, e) in list(c, "env").enumerate() {
        let (name, value) = (text(e, "name"), text(e, "value"));
        let own = format!("$({name})");
        let extends = e["valueFrom"].is_null() && value.contains(&own) && value != own;
        if !seen.insert(name) && !extends {
            all.push(format!(
                "{path}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports(spec: &Value, at: &str, all: &mut Vec<String>) {
    let mut known: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    for l in LISTS {
        for (i, c) in list(spec, l).enumerate() {
            for (n, p) in list(c, "ports").enumerate() {
                let field = format!("{at}.{l}[{i}].ports[{n}]");
                let host = |p: &Value| p["hostPort"].as_i64().unwrap_or(0);
                let others = known.entry((p["containerPort"].as_i64().unwrap_or(0), text(p, "protocol"))).or_default();
                for (other, o) in others.iter() {
                    let (ip, other_ip) = (text(p, "hostIP"), text(o, "hostIP"));
                    let how = if ip == other_ip && host(p) == host(o) {
                        "duplicate"
                    } else if host(p) == 0 || host(o) == 0 {
                        "overlapping"
                    } else if host(p) == host(o) && (ip.is_empty() != other_ip.is_empty()) {
                        "dangerously ambiguous"
                    } else {
                        continue;
                    };
                    all.push(format!("{field}: {how} port definition with {other}"));
                }
                others.push((field, p));
            }
        }
    }
}

fn null_selectors(spec: &Value, at: &str, all: &mut Vec<String>) {
    const WHY: &str = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let field = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, t) in list(&spec["affinity"][kind], field).enumerate() {
            if t["labelSelector"].is_null() {
                all.push(format!("{at}.affinity.{kind}.{field}[{i}].labelSelector: {WHY}"));
            }
        }
        let field = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, t) in list(&spec["affinity"][kind], field).enumerate() {
            if t["podAffinityTerm"]["labelSelector"].is_null() {
                all.push(format!("{at}.affinity.{kind}.{field}[{i}].podAffinityTerm.labelSelector: {WHY}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_odd_is_told() {
        let pod = json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}}, "spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "terminationGracePeriodSeconds": -1,
            "imagePullSecrets": [{"name": "a"}, {"name": "a"}],
            "containers": [{
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)3"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"memory": "1500m"}}}]}});
        assert_eq!(
            of(&pod, "spec.template."),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "spec.template.spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.template.spec.containers[0].ports[1]: duplicate port definition with spec.template.spec.containers[0].ports[0]",
                "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ]
        );
    }
}
