//! Discovery, both forms: `/api`, `/apis`, group and version documents, and the aggregated
//! document (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Resource, Subresource};
use serde_json::{Value, json};

/// The order in which upstream prefers groups; others follow alphabetically.
const GROUP_ORDER: [&str; 14] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
];

/// Groups with their versions, preferred first.
fn groups(resources: &[Arc<Resource>]) -> Vec<(String, Vec<String>)> {
    let mut by_group: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for r in resources {
        let versions = by_group.entry(&r.group).or_default();
        if !versions.contains(&r.version.as_str()) {
            versions.push(&r.version);
        }
    }
    let rank = |g: &str| GROUP_ORDER.iter().position(|o| *o == g).unwrap_or(GROUP_ORDER.len());
    let mut list: Vec<(String, Vec<String>)> = by_group
        .into_iter()
        .map(|(g, mut versions)| {
            versions.sort_by_key(|v| std::cmp::Reverse(api::custom::priority(v)));
            (g.to_owned(), versions.into_iter().map(str::to_owned).collect())
        })
        .collect();
    list.sort_by(|a, b| rank(&a.0).cmp(&rank(&b.0)).then_with(|| a.0.cmp(&b.0)));
    list
}

/// `GET /api`.
pub fn legacy_versions(server_address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let list: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    json!({"name": group, "versions": list, "preferredVersion": list[0]})
}

/// `GET /apis`.
pub fn group_list(resources: &[Arc<Resource>]) -> Value {
    let list: Vec<Value> =
        groups(resources).iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group_value(g, v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `GET /apis/<group>`.
pub fn group(resources: &[Arc<Resource>], name: &str) -> Option<Value> {
    let (g, versions) = groups(resources).into_iter().find(|(g, _)| g == name)?;
    let mut v = group_value(&g, &versions);
    v["kind"] = "APIGroup".into();
    v["apiVersion"] = "v1".into();
    Some(v)
}

/// Kind, group and version of a subresource's body, and its verbs.
fn subresource_facts(r: &Resource, s: &Subresource) -> (String, String, String, Vec<&'static str>) {
    match s {
        Subresource::Status | Subresource::Aspect(_) => {
            (r.kind.clone(), r.group.clone(), r.version.clone(), vec!["get", "patch", "update"])
        }
        Subresource::Scale { .. } => {
            ("Scale".into(), "autoscaling".into(), "v1".into(), vec!["get", "patch", "update"])
        }
        Subresource::Other { kind, group, version, verbs, .. } => {
            ((*kind).into(), (*group).into(), (*version).into(), verbs.to_vec())
        }
    }
}

/// `GET /api/v1` or `/apis/<group>/<version>`.
pub fn resource_list(resources: &[Arc<Resource>], group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    let mut own: Vec<&Arc<Resource>> = resources.iter().filter(|r| r.group == group && r.version == version).collect();
    own.sort_by(|a, b| a.plural.cmp(&b.plural));
    for r in &own {
        let mut v = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs});
        if !r.short_names.is_empty() {
            v["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            v["categories"] = json!(r.categories);
        }
        if r.stored {
            v["storageVersionHash"] = storage_version_hash(r).into();
        }
        list.push(v);
        let mut subresources: Vec<&Subresource> = r.subresources.iter().collect();
        subresources.sort_by(|a, b| a.name().cmp(b.name()));
        for s in subresources {
            let (kind, g, ver, verbs) = subresource_facts(r, s);
            let mut v = json!({"name": format!("{}/{}", r.plural, s.name()), "singularName": "", "namespaced": r.namespaced, "kind": kind, "verbs": verbs});
            if g != r.group || ver != r.version {
                v["group"] = g.into();
                v["version"] = ver.into();
            }
            list.push(v);
        }
    }
    let gv = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!own.is_empty())
        .then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": list}))
}

fn storage_version_hash(r: &Resource) -> String {
    use base64::Engine;
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{}/{}/{}", r.group, r.version, r.kind));
    base64::prelude::BASE64_STANDARD.encode(&digest[..8])
}

/// The aggregated form of `/api` (core only) or `/apis` (all groups but core).
pub fn aggregated(resources: &[Arc<Resource>], core: bool) -> Value {
    let items: Vec<Value> = groups(resources)
        .iter()
        .filter(|(g, _)| g.is_empty() == core)
        .map(|(g, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| json!({"version": version, "freshness": "Current", "resources": aggregated_resources(resources, g, version)}))
                .collect();
            json!({"metadata": {"name": g, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resources(resources: &[Arc<Resource>], group: &str, version: &str) -> Vec<Value> {
    let mut own: Vec<&Arc<Resource>> = resources.iter().filter(|r| r.group == group && r.version == version).collect();
    own.sort_by(|a, b| a.plural.cmp(&b.plural));
    own.iter()
        .map(|r| {
            let mut v = json!({
                "resource": r.plural,
                "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
                "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": r.singular,
                "verbs": r.verbs,
            });
            if !r.short_names.is_empty() {
                v["shortNames"] = json!(r.short_names);
            }
            if !r.categories.is_empty() {
                v["categories"] = json!(r.categories);
            }
            let subs: Vec<Value> = r
                .subresources
                .iter()
                .map(|s| {
                    let (kind, g, ver, verbs) = subresource_facts(r, s);
                    json!({"subresource": s.name(), "responseKind": {"group": g, "version": ver, "kind": kind}, "verbs": verbs})
                })
                .collect();
            if !subs.is_empty() {
                v["subresources"] = Value::Array(subs);
            }
            v
        })
        .collect()
}
