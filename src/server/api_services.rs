//! An APIService for every group and version that is served, as upstream's aggregator registers
//! them (`kube-aggregator/pkg/controllers/autoregister`).

use std::collections::BTreeSet;
use std::sync::Arc;

use api::Status;
use serde_json::{Value, json};

use crate::Server;
use crate::aggregation::Rank;
use crate::bootstrap::{ensure, system};
use crate::registry::{DeleteOptions, WriteContext};

const GROUP: &str = "apiregistration.k8s.io";
/// The label of what this server keeps.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// How upstream ranks groups and their versions; the others rank as custom resources do.
const PRIORITIES: [(&str, i64, i64); 20] = [
    ("", 18_000, 1),
    ("apps", 17_800, 15),
    ("events.k8s.io", 17_750, 15),
    ("authentication.k8s.io", 17_700, 15),
    ("authorization.k8s.io", 17_600, 15),
    ("autoscaling", 17_500, 15),
    ("batch", 17_400, 15),
    ("certificates.k8s.io", 17_300, 15),
    ("networking.k8s.io", 17_200, 15),
    ("policy", 17_100, 15),
    ("rbac.authorization.k8s.io", 17_000, 15),
    ("storage.k8s.io", 16_800, 15),
    ("apiextensions.k8s.io", 16_700, 15),
    ("admissionregistration.k8s.io", 16_700, 15),
    ("scheduling.k8s.io", 16_600, 15),
    ("coordination.k8s.io", 16_500, 15),
    ("node.k8s.io", 16_300, 15),
    ("discovery.k8s.io", 16_200, 12),
    ("flowcontrol.apiserver.k8s.io", 16_100, 15),
    ("resource.k8s.io", 16_000, 15),
];
/// What custom resources have.
const CUSTOM: Rank = (1000, 100);

fn name_of(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// How the versions of a group rank that this server serves, where no APIService says otherwise.
pub fn rank(group: &str) -> Rank {
    PRIORITIES.iter().find(|(g, ..)| *g == group).map_or(CUSTOM, |(_, g, v)| (*g, *v))
}

/// Whether an APIService is kept by this server, not by an administrator.
fn is_managed(object: &Value) -> bool {
    object["metadata"]["labels"].get(MANAGED).is_some() && object["spec"]["service"].is_null()
}

fn wanted(group: &str, version: &str, builtin: bool) -> Value {
    let rank = rank(group);
    let mut spec = json!({"version": version, "groupPriorityMinimum": rank.0, "versionPriority": rank.1});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "APIService",
        "metadata": {
            "name": name_of(group, version),
            "labels": {MANAGED: if builtin { "onstart" } else { "true" }},
        },
        "spec": spec,
    })
}

/// Registers what is built in, but for the registration itself.
///
/// # Errors
/// What the pipeline says.
pub async fn register_builtin(server: &Arc<Server>) -> Result<(), Status> {
    let all: BTreeSet<(&str, &str)> =
        server.table().builtin().iter().map(|r| (r.group.as_str(), r.version.as_str())).collect();
    let all = all.into_iter().filter(|(g, _)| *g != GROUP);
    // Together, so that they share the syncs of the disk.
    futures::future::try_join_all(all.map(|(g, v)| async move { ensure(server, &wanted(g, v, true)).await })).await?;
    Ok(())
}

/// Registers the served versions of a custom group.
///
/// # Errors
/// What the pipeline says.
pub async fn register(server: &Arc<Server>, group: &str, versions: &[String]) -> Result<(), Status> {
    for version in versions {
        ensure(server, &wanted(group, version, false)).await?;
    }
    Ok(())
}

/// Takes away the registrations of versions that nobody serves any more.
///
/// # Errors
/// What the pipeline says.
pub async fn forget(server: &Arc<Server>, group: &str, versions: &[String]) -> Result<(), Status> {
    let resource = server.resource(GROUP, "v1", "apiservices")?;
    let served = server.resources();
    for version in versions.iter().filter(|v| !served.iter().any(|r| r.group == group && r.version == **v)) {
        let ctx = WriteContext::new(system());
        let name = name_of(group, version);
        match server.registry().get(&resource, "", &name).await {
            Ok(o) if is_managed(&o.to_value()) => {}
            Err(s) if !s.is_not_found() => return Err(s),
            _ => continue,
        }
        match server.registry().delete(&ctx, &resource, "", &name, &DeleteOptions::default()).await {
            Err(s) if !s.is_not_found() => return Err(s),
            _ => {}
        }
    }
    Ok(())
}
