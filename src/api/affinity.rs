//! Which nodes a pod may run on: node selectors, node affinity, taints and tolerations
//! (upstream: `component-helpers/scheduling/corev1`). Shared by scheduler, DaemonSet and kubelet.

use std::collections::BTreeMap;

use crate::k8s::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

fn holds(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare = |f: fn(i64, i64) -> bool| {
        let number = |s: &str| s.parse::<i64>().ok();
        let (Some(a), Some(b)) = (value.and_then(number), values.first().and_then(|v| number(v))) else { return false };
        f(a, b)
    };
    match r.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

/// Whether a node selector term selects a node of this name and labels. An empty term selects nothing.
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && holds(r, Some(name)))
}

/// Whether any term of a node selector selects a node.
pub fn selector_matches(selector: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.node_selector_terms.iter().any(|t| term_matches(t, name, labels))
}

/// Whether a pod's node selector and its required node affinity select a node.
pub fn node_fits(spec: &PodSpec, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    match affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) {
        Some(required) => selector_matches(required, name, labels),
        None => true,
    }
}

/// Whether a toleration tolerates a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let effect = t.effect.as_deref().unwrap_or_default();
    let key = t.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match t.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => {
            !key.is_empty() && t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// The first of `taints` with one of `effects` that nothing tolerates.
pub fn untolerated<'a>(tolerations: &[Toleration], taints: &'a [Taint], effects: &[&str]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// The taints of a node.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// The tolerations of a pod.
pub fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
    }

    #[test]
    fn an_empty_key_with_exists_tolerates_everything() {
        let t = Toleration { operator: Some("Exists".into()), ..Default::default() };
        assert!(tolerates(&t, &taint("a", "b", "NoSchedule")));
        let t = Toleration { key: Some("a".into()), value: Some("c".into()), ..Default::default() };
        assert!(!tolerates(&t, &taint("a", "b", "NoSchedule")));
    }

    #[test]
    fn an_empty_term_selects_nothing_and_operators_compare_as_upstream() {
        let labels = BTreeMap::from([("n".to_owned(), "5".to_owned())]);
        assert!(!term_matches(&NodeSelectorTerm::default(), "x", &labels));
        let req = |key: &str, op: &str, values: &[&str]| NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: key.into(),
                operator: op.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
            match_fields: None,
        };
        assert!(term_matches(&req("n", "Gt", &["4"]), "x", &labels));
        assert!(!term_matches(&req("n", "Lt", &["4"]), "x", &labels));
        assert!(term_matches(&req("m", "NotIn", &["4"]), "x", &labels));
        assert!(term_matches(&req("m", "DoesNotExist", &[]), "x", &labels));
    }
}
