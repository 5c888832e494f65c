//! The arithmetic of RBAC rules: which rights of one set another lacks, and how upstream writes
//! them (`k8s.io/component-helpers/auth/rbac/validation`). Pure.

use api::k8s::rbac::v1::PolicyRule;

fn list(v: &Option<Vec<String>>) -> &[String] {
    v.as_deref().unwrap_or_default()
}

fn all_of(have: &[String], wanted: &[String]) -> bool {
    have.iter().any(|h| h == "*") || wanted.iter().all(|w| have.contains(w))
}

fn resources_cover(have: &[String], wanted: &[String]) -> bool {
    have.iter().any(|h| h == "*")
        || wanted.iter().all(|w| {
            let of_any = w.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            have.contains(w) || of_any.is_some_and(|s| have.contains(&s))
        })
}

fn urls_cover(have: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|w| {
        have.iter().any(|h| h == "*" || h == w || h.strip_suffix('*').is_some_and(|prefix| w.starts_with(prefix)))
    })
}

fn names_cover(have: &[String], wanted: &[String]) -> bool {
    have.is_empty() || (!wanted.is_empty() && wanted.iter().all(|w| have.contains(w)))
}

fn covers(have: &PolicyRule, wanted: &PolicyRule) -> bool {
    all_of(&have.verbs, &wanted.verbs)
        && all_of(list(&have.api_groups), list(&wanted.api_groups))
        && resources_cover(list(&have.resources), list(&wanted.resources))
        && urls_cover(list(&have.non_resource_urls), list(&wanted.non_resource_urls))
        && names_cover(list(&have.resource_names), list(&wanted.resource_names))
}

/// A rule as rules of one verb, group, resource and name, or of one verb and path.
fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut out = Vec::new();
    let one = |s: &String| Some(vec![s.clone()]);
    for verb in &rule.verbs {
        for url in list(&rule.non_resource_urls) {
            out.push(PolicyRule { verbs: vec![verb.clone()], non_resource_urls: one(url), ..Default::default() });
        }
    }
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let atom = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: one(group),
                    resources: one(resource),
                    ..Default::default()
                };
                if list(&rule.resource_names).is_empty() {
                    out.push(atom);
                    continue;
                }
                for name in list(&rule.resource_names) {
                    out.push(PolicyRule { resource_names: one(name), ..atom.clone() });
                }
            }
        }
    }
    out
}

/// The rights that `wanted` gives and `held` does not; those on the same objects in one rule.
pub fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    let lacking = wanted.iter().flat_map(atoms).filter(|a| !held.iter().any(|h| covers(h, a)));
    for atom in lacking {
        let same = |o: &&mut PolicyRule| {
            o.non_resource_urls.is_none()
                && (&o.api_groups, &o.resources, &o.resource_names)
                    == (&atom.api_groups, &atom.resources, &atom.resource_names)
        };
        match out.iter_mut().find(same) {
            Some(rule) if rule.verbs.contains(&atom.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => out.push(atom),
        }
    }
    out
}

/// A rule as upstream writes it: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let parts: Vec<String> = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ]
    .iter()
    .filter(|(_, values)| !values.is_empty())
    .map(|(name, values)| format!("{name}:{}", quoted(values)))
    .collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list as Go's `%q` prints it: `["a" "b"]`.
pub fn quoted(values: &[String]) -> String {
    format!("[{}]", values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(v: Value) -> Vec<PolicyRule> {
        serde_json::from_value(v).unwrap()
    }

    fn lacks(held: Value, wanted: Value) -> Vec<String> {
        missing(&rules(held), &rules(wanted)).iter().map(describe).collect()
    }

    #[test]
    fn rights_are_covered_by_wildcards_and_by_several_rules_together() {
        let pods = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]);
        for held in [
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["*"]},
                   {"verbs": ["list"], "apiGroups": ["*"], "resources": ["pods", "*/log"]}]),
        ] {
            assert!(lacks(held, pods.clone()).is_empty());
        }
    }

    #[test]
    fn missing_rights_are_told_by_object() {
        let held = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        let wanted = json!([{"verbs": ["get", "list", "watch"], "apiGroups": ["", "apps"], "resources": ["pods"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]);
        assert_eq!(
            lacks(held, wanted),
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
                r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "list" "watch"]}"#,
                r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#
            ]
        );
    }

    #[test]
    fn a_right_on_one_name_is_not_the_right_on_all() {
        let one = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}]);
        let all = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]);
        assert!(lacks(all.clone(), one.clone()).is_empty());
        assert_eq!(lacks(one, all), [r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#]);
        let urls = json!([{"verbs": ["get"], "nonResourceURLs": ["/a/*"]}]);
        assert!(lacks(urls.clone(), json!([{"verbs": ["get"], "nonResourceURLs": ["/a/b"]}])).is_empty());
        assert_eq!(lacks(urls, json!([{"verbs": ["get"], "nonResourceURLs": ["*"]}])).len(), 1);
    }
}
