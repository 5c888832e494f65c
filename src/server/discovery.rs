//! Discovery, both forms: `/api`, `/apis`, group and version documents, and the aggregated
//! document (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Resource, Subresource};
use serde_json::{Value, json};

use crate::aggregation::{Backend, Rank};
use crate::{Server, api_services};

/// The group that stands before all others: it is what makes them known.
const FIRST: &str = "apiregistration.k8s.io";

/// How a version ranks, and who serves it if not this server.
type Ranked = (Rank, Option<Arc<Backend>>);

/// A version of a group, and who serves it if not this server.
pub struct Version {
    name: String,
    backend: Option<Arc<Backend>>,
}

/// A group with its versions, the preferred one first.
pub struct Group {
    name: String,
    versions: Vec<Version>,
}

impl Server {
    /// All groups, in the order in which they are preferred.
    pub fn groups(&self) -> Vec<Group> {
        let mut by_group: BTreeMap<String, BTreeMap<String, Ranked>> = BTreeMap::new();
        let aggregation = self.aggregation();
        let mut add = |group: &str, version: &str, backend| {
            let rank = aggregation.rank(group, version).unwrap_or_else(|| api_services::rank(group));
            by_group.entry(group.to_owned()).or_default().insert(version.to_owned(), (rank, backend));
        };
        self.resources().iter().for_each(|r| add(&r.group, &r.version, None));
        aggregation.backends().into_iter().for_each(|(g, v, backend)| add(&g, &v, Some(backend)));
        let mut all: Vec<(i64, Group)> = by_group
            .into_iter()
            .map(|(name, versions)| {
                let first = versions.values().map(|(rank, _)| rank.0).max().unwrap_or_default();
                let mut versions: Vec<_> = versions.into_iter().collect();
                versions.sort_by_key(|(v, (rank, _))| Reverse((rank.1, api::custom::priority(v))));
                let versions = versions.into_iter().map(|(name, (_, backend))| Version { name, backend }).collect();
                (if name == FIRST { i64::MAX } else { first }, Group { name, versions })
            })
            .collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        all.into_iter().map(|(_, group)| group).collect()
    }
}

/// `GET /api`.
pub fn legacy_versions(server_address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

fn group_value(group: &Group) -> Value {
    let shown = |v: &Version| json!({"groupVersion": format!("{}/{}", group.name, v.name), "version": v.name});
    let list: Vec<Value> = group.versions.iter().map(shown).collect();
    json!({"name": group.name, "versions": list, "preferredVersion": list[0]})
}

/// `GET /apis`.
pub fn group_list(groups: &[Group]) -> Value {
    let list: Vec<Value> = groups.iter().filter(|g| !g.name.is_empty()).map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `GET /apis/<group>`.
pub fn group(groups: &[Group], name: &str) -> Option<Value> {
    let mut v = group_value(groups.iter().find(|g| g.name == name)?);
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
pub fn aggregated(groups: &[Group], resources: &[Arc<Resource>], core: bool) -> Value {
    let version = |group: &Group, v: &Version| match &v.backend {
        Some(backend) => backend.discovery(),
        None => {
            let resources = aggregated_resources(resources, &group.name, &v.name);
            json!({"version": v.name, "freshness": "Current", "resources": resources})
        }
    };
    let items: Vec<Value> = groups
        .iter()
        .filter(|g| g.name.is_empty() == core)
        .map(|g| {
            let versions: Vec<Value> = g.versions.iter().map(|v| version(g, v)).collect();
            json!({"metadata": {"name": g.name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The paths of groups and versions.
pub fn paths(groups: &[Group]) -> impl Iterator<Item = String> {
    groups.iter().filter(|g| !g.name.is_empty()).flat_map(|g| {
        let versions = g.versions.iter().map(|v| format!("/apis/{}/{}", g.name, v.name));
        std::iter::once(format!("/apis/{}", g.name)).chain(versions)
    })
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
