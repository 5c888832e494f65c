//! What an object counts for in a ResourceQuota, and which quotas it counts in
//! (upstream: `pkg/quota/v1/evaluator/core`, `k8s.io/apiserver/pkg/quota/v1/generic`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::pod_resources::{self as resources, Amounts};
use crate::quantity::{Format, Quantity};
use crate::selector::LabelSelector;

/// Requests that a pod must make when a quota counts them: a mistake that upstream keeps.
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLAIMS: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";
/// Kinds with an old name beside `count/<plural>`.
const ALIASES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// The resource of an object, as quotas see it.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub plural: &'a str,
}

impl Counted<'_> {
    fn core(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// `count/deployments.apps`
    fn count_name(&self) -> String {
        format!("count/{}", crate::status::qualified(self.group, self.plural))
    }

    /// Whether an object of this resource may count for a quota's resource of this name.
    pub fn counts_for(&self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        match self.plural {
            _ if !self.group.is_empty() => false,
            "pods" => {
                let compute = ["cpu", "memory", "ephemeral-storage"];
                let base = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
                let requested = name.strip_prefix("requests.").is_some_and(|n| n.contains('/') || is_huge(n));
                name == "pods" || compute.contains(&base) || is_huge(name) || requested
            }
            "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
            CLAIMS => {
                let base = name.split_once(BY_CLASS).map_or(name, |(_, n)| n);
                base == CLAIMS || base == STORAGE
            }
            plural => ALIASES.contains(&plural) && name == plural,
        }
    }

    /// What an object counts for.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        let mut usage = Amounts::from([(self.count_name(), whole(1))]);
        if self.core("pods") {
            if is_charged(object, now) {
                usage.extend(pod_usage(object));
            }
        } else if self.core("services") {
            usage.extend(service_usage(object));
        } else if self.core(CLAIMS) {
            usage.extend(claim_usage(object));
        } else if self.group.is_empty() && ALIASES.contains(&self.plural) {
            usage.insert(self.plural.to_owned(), whole(1));
        }
        usage
    }

    /// Whether an object falls under a quota with these scopes.
    pub fn in_scope(&self, quota_spec: &Value, object: &Value) -> bool {
        let scopes = quota_spec["scopes"].as_array().into_iter().flatten();
        let scopes = scopes.map(|s| (s.as_str().unwrap_or_default(), "Exists", &Value::Null));
        let selected = quota_spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
        let text = |v: &'_ Value, f: &str| v[f].as_str().map(str::to_owned).unwrap_or_default();
        let is_pod = self.core("pods");
        scopes.into_iter().all(|(name, op, values)| is_pod && pod_in_scope(object, name, op, values))
            && selected
                .into_iter()
                .all(|e| is_pod && pod_in_scope(object, &text(e, "scopeName"), &text(e, "operator"), &e["values"]))
    }

    /// What a quota that counts `names` misses in an object: upstream's words.
    pub fn missing(&self, names: &[String], object: &Value) -> Option<String> {
        if !self.core("pods") {
            return None;
        }
        let mut missing = Vec::new();
        for name in REQUIRED.iter().filter(|n| names.iter().any(|have| have == **n)) {
            let all =
                resources::containers(object, "containers").chain(resources::containers(object, "initContainers"));
            let without = all.filter(|c| !compute_usage(&c["resources"]).contains_key(*name));
            let mut without: Vec<&str> = without.map(|c| c["name"].as_str().unwrap_or_default()).collect();
            without.sort_unstable();
            if !without.is_empty() {
                missing.push(format!("{name} for: {}", without.join(",")));
            }
        }
        missing.sort();
        (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
    }
}

fn whole(n: i64) -> Quantity {
    Quantity::from_int(n, Format::DecimalSI)
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A pod that has ended, or should have by now, holds no compute resources.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return false;
    }
    let m = &pod["metadata"];
    let deleted = m["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    match (deleted, m["deletionGracePeriodSeconds"].as_i64()) {
        (Some(at), Some(grace)) => now.as_second() <= at.as_second() + grace,
        _ => true,
    }
}

fn pod_usage(pod: &Value) -> Amounts {
    let (mut requests, mut limits) = (resources::requests(pod), resources::limits(pod));
    let overhead = resources::amounts(&pod["spec"]["overhead"]);
    resources::add(&mut requests, &overhead);
    for (name, q) in overhead {
        if let Some(limit) = limits.get_mut(&name) {
            *limit += q;
        }
    }
    let mut usage = named_usage(&requests, &limits);
    usage.insert("pods".to_owned(), whole(1));
    usage
}

fn compute_usage(r: &Value) -> Amounts {
    named_usage(&resources::amounts(&r["requests"]), &resources::amounts(&r["limits"]))
}

fn named_usage(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::new();
    for (name, q) in requests {
        let plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || is_huge(name);
        if plain {
            usage.insert(name.clone(), *q);
        }
        if plain || name.contains('/') {
            usage.insert(format!("requests.{name}"), *q);
        }
    }
    for (name, q) in limits.iter().filter(|(n, _)| matches!(n.as_str(), "cpu" | "memory" | "ephemeral-storage")) {
        usage.insert(format!("limits.{name}"), *q);
    }
    usage
}

fn service_usage(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let balanced = spec["type"] == "LoadBalancer";
    let node_ports = match spec["type"].as_str() {
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            ports.iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count()
        }
        Some("NodePort" | "LoadBalancer") => ports.len(),
        _ => 0,
    };
    Amounts::from([
        ("services".to_owned(), whole(1)),
        ("services.nodeports".to_owned(), whole(node_ports as i64)),
        ("services.loadbalancers".to_owned(), whole(i64::from(balanced))),
    ])
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([(CLAIMS.to_owned(), whole(1))]);
    let wanted = Quantity::from_value(&claim["spec"]["resources"]["requests"]["storage"]).ok();
    let allocated = Quantity::from_value(&claim["status"]["allocatedResources"]["storage"]).ok();
    if let Some(wanted) = wanted {
        usage.insert(STORAGE.to_owned(), allocated.map_or(wanted, |a| a.max(wanted)));
    }
    let old = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = old.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    if !class.is_empty() {
        usage.extend(usage.clone().into_iter().map(|(k, q)| (format!("{class}{BY_CLASS}{k}"), q)));
    }
    usage
}

fn pod_in_scope(pod: &Value, scope: &str, operator: &str, values: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => resources::is_best_effort(pod),
        "NotBestEffort" => !resources::is_best_effort(pod),
        "CrossNamespacePodAffinity" => crosses_namespaces(&pod["spec"]["affinity"]),
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().filter(|c| !c.is_empty());
            let labels: BTreeMap<String, String> =
                class.map(|c| (scope.to_owned(), c.to_owned())).into_iter().collect();
            let expression = serde_json::json!({"key": scope, "operator": operator, "values": values});
            let selector = serde_json::json!({"matchExpressions": [expression]});
            LabelSelector::from_value(&selector).is_ok_and(|s| s.matches(&labels))
        }
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|n| !n.is_empty()) || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = |when: &str| affinity[kind][when].as_array().map(Vec::as_slice).unwrap_or_default();
        terms("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution").iter().any(|t| crosses(&t["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_resources::to_value;
    use serde_json::json;

    const POD: Counted<'_> = Counted { group: "", plural: "pods" };

    fn pod() -> Value {
        let r = json!({"requests": {"cpu": "500m", "example.com/dongle": "2"}, "limits": {"cpu": "1"}});
        json!({"spec": {"containers": [{"name": "c", "resources": r}]}})
    }

    #[test]
    fn a_pod_counts_until_it_has_ended() {
        let usage = to_value(&POD.usage(&pod(), Timestamp::now()));
        assert_eq!(
            usage,
            json!({"count/pods": "1", "pods": "1", "cpu": "500m", "requests.cpu": "500m", "limits.cpu": "1",
                "requests.example.com/dongle": "2"})
        );
        let mut ended = pod();
        ended["status"]["phase"] = "Failed".into();
        assert_eq!(to_value(&POD.usage(&ended, Timestamp::now())), json!({"count/pods": "1"}));
    }

    #[test]
    fn names_belong_to_the_resources_that_count_for_them() {
        assert!(POD.counts_for("requests.example.com/dongle") && POD.counts_for("count/pods"));
        assert!(!POD.counts_for("services") && !POD.counts_for("requests.storage"));
        let sets = Counted { group: "apps", plural: "replicasets" };
        assert!(sets.counts_for("count/replicasets.apps") && !sets.counts_for("pods"));
        let claims = Counted { group: "", plural: CLAIMS };
        assert!(claims.counts_for("gold.storageclass.storage.k8s.io/requests.storage"));
    }

    #[test]
    fn scopes_are_about_pods() {
        let scoped = |scope: &str| json!({"scopes": [scope]});
        assert!(POD.in_scope(&scoped("NotBestEffort"), &pod()) && POD.in_scope(&scoped("NotTerminating"), &pod()));
        assert!(!POD.in_scope(&scoped("BestEffort"), &pod()) && !POD.in_scope(&scoped("Terminating"), &pod()));
        assert!(!Counted { group: "", plural: "secrets" }.in_scope(&scoped("Terminating"), &json!({})));
        let by_class = json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        let mut high = pod();
        high["spec"]["priorityClassName"] = "high".into();
        assert!(POD.in_scope(&by_class, &high) && !POD.in_scope(&by_class, &pod()));
    }

    #[test]
    fn compute_resources_that_a_quota_counts_must_be_named() {
        let names = ["memory".to_owned(), "pods".to_owned(), "cpu".to_owned()];
        assert_eq!(POD.missing(&names, &pod()).as_deref(), Some("must specify memory for: c"));
    }
}
