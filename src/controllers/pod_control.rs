//! What controllers of pods share: claiming, making pods from a template, telling ready from
//! not, choosing whom to delete (upstream: `pkg/controller/controller_utils.go`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::core::v1::{Pod, PodSpec, PodTemplateSpec};
use api::meta::apis::meta::v1::{LabelSelector as MetaSelector, ObjectMeta, OwnerReference, Time};
use api::meta::util::intstr::IntOrString;
use api::selector::LabelSelector;
use client::api::PatchKind;
use client::{Client, Informer, Kind};
use jiff::Timestamp;
use serde_json::json;

use crate::runtime::BY_CONTROLLER;

/// How many pods are made at once at first; doubles with every round that succeeds, so that
/// a quota or a bad template does not cost a thousand refused requests.
const FIRST_BATCH: usize = 4;

/// The metadata, borrowed.
pub fn meta<K: Kind>(k: &K) -> &ObjectMeta {
    k.metadata()
}

/// The name of an object.
pub fn name<K: Kind>(k: &K) -> &str {
    k.metadata().name.as_deref().unwrap_or_default()
}

/// The namespace of an object.
pub fn namespace<K: Kind>(k: &K) -> &str {
    k.metadata().namespace.as_deref().unwrap_or_default()
}

/// The UID of an object.
pub fn uid<K: Kind>(k: &K) -> &str {
    k.metadata().uid.as_deref().unwrap_or_default()
}

/// A reference that makes `owner` the controller of another object.
pub fn controller_ref<K: Kind>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A selector from its typed form.
///
/// # Errors
/// 400 for one that makes no sense; validation keeps those out.
pub fn selector(s: &MetaSelector) -> Result<LabelSelector, Status> {
    LabelSelector::from_value(&serde_json::to_value(s).map_err(Status::internal)?)
}

/// A number or a percentage of `total`, rounded up or down.
pub fn scaled(v: &IntOrString, total: i32, up: bool) -> i32 {
    match v {
        IntOrString::Int(n) => *n,
        IntOrString::String(s) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            let product = i64::from(total) * percent;
            (if up { (product + 99) / 100 } else { product / 100 }) as i32
        }
    }
}

/// The labels of an object.
pub fn labels<K: Kind>(k: &K) -> BTreeMap<String, String> {
    k.metadata().labels.clone().unwrap_or_default()
}

/// The objects that `owner` controls: its own that match, and orphans that match, which it
/// adopts; its own that no longer match are released.
///
/// # Errors
/// What the API says to an adoption or release.
pub async fn claim<Owner: Kind, K: Kind>(
    client: &Client,
    informer: &Informer,
    owner: &Owner,
    selector: &LabelSelector,
) -> Result<Vec<Arc<K>>, Status> {
    let mut claimed = Vec::new();
    let deleting = meta(owner).deletion_timestamp.is_some();
    for o in informer.by_index(BY_CONTROLLER, uid(owner)) {
        let k = o.typed::<K>()?;
        if selector.matches(o.meta().labels) {
            claimed.push(k);
        } else if !deleting {
            let patch = json!({"metadata": {"uid": o.meta().uid, "ownerReferences": [{"$patch": "delete", "uid": uid(owner)}]}});
            ignore_absent(client.patch::<K>(namespace(&*k), name(&*k), "", PatchKind::Strategic, &patch).await)?;
        }
    }
    if deleting {
        return Ok(claimed);
    }
    for o in informer.by_index(BY_CONTROLLER, &format!("orphan/{}", namespace(owner))) {
        let m = o.meta();
        if m.deletion_timestamp.is_some() || !selector.matches(m.labels) {
            continue;
        }
        let reference = serde_json::to_value(controller_ref(owner)).map_err(Status::internal)?;
        let patch = json!({"metadata": {"uid": m.uid, "ownerReferences": [reference]}});
        if let Some(k) = ignore_absent(client.patch::<K>(m.namespace, m.name, "", PatchKind::Strategic, &patch).await)?
        {
            claimed.push(k);
        }
    }
    Ok(claimed)
}

/// `None` for an object that is gone or has become another.
///
/// # Errors
/// Any other failure.
pub fn ignore_absent<T>(r: Result<T, Status>) -> Result<Option<T>, Status> {
    match r {
        Ok(t) => Ok(Some(t)),
        Err(s) if s.is_not_found() || s.is_conflict() => Ok(None),
        Err(s) => Err(s),
    }
}

/// A pod made from a template for its controller.
pub fn pod_from_template(template: &PodTemplateSpec, namespace: &str, owner_name: &str, owner: OwnerReference) -> Pod {
    let m = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            namespace: Some(namespace.to_owned()),
            labels: m.labels,
            annotations: m.annotations,
            finalizers: m.finalizers,
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates objects in batches that grow while all goes well; returns what was created and
/// the first error.
pub async fn create_all<K: Kind>(client: &Client, objects: Vec<K>) -> (Vec<Arc<K>>, Option<Status>) {
    let (mut created, mut batch, mut rest) = (Vec::new(), FIRST_BATCH, objects.as_slice());
    while !rest.is_empty() {
        let (round, later) = rest.split_at(batch.min(rest.len()));
        let mut failed = None;
        for r in futures::future::join_all(round.iter().map(|k| client.create(k))).await {
            match r {
                Ok(k) => created.push(k),
                Err(s) => failed = failed.or(Some(s)),
            }
        }
        if failed.is_some() {
            return (created, failed);
        }
        (rest, batch) = (later, batch * 2);
    }
    (created, None)
}

/// Whether a pod has neither succeeded nor failed and is not being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// The phase of a pod.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The time since when a pod's Ready condition is true.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |Time(t)| *t))
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Whether a pod has been ready for `seconds`; if not yet, how long is left.
pub fn available(pod: &Pod, seconds: i32, now: Timestamp) -> Result<(), Option<Duration>> {
    let Some(since) = ready_since(pod) else { return Err(None) };
    let age = now.as_second() - since.as_second();
    let left = i64::from(seconds) - age;
    if seconds == 0 || left <= 0 { Ok(()) } else { Err(Some(Duration::from_secs(left as u64))) }
}

/// Orders pods by how little is lost when they go: upstream's `ActivePodsWithRanks`.
pub fn deletion_rank(pod: &Pod, same_node: usize) -> impl Ord + use<> {
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let phase_rank = match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost: i64 = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|c| c.parse().ok())
        .unwrap_or(0);
    let ready = ready_since(pod);
    let restarts: i32 = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .into_iter()
        .flatten()
        .map(|c| c.restart_count)
        .max()
        .unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|Time(t)| t.as_second());
    (
        bound,
        phase_rank,
        ready.is_some(),
        cost,
        std::cmp::Reverse(same_node),
        std::cmp::Reverse(ready.map(|t| t.as_second())),
        std::cmp::Reverse(restarts),
        std::cmp::Reverse(created),
    )
}

/// A short hash of a pod template, safe in names (upstream: `ComputeHash`).
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    use sha2::Digest;
    let mut h = sha2::Sha256::new();
    // Serialization is deterministic: struct order, and maps are ordered.
    h.update(serde_json::to_vec(template).unwrap_or_default());
    if let Some(c) = collisions {
        h.update(c.to_le_bytes());
    }
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    h.finalize().iter().take(10).map(|b| ALPHABET[*b as usize % ALPHABET.len()] as char).collect()
}

/// The spec of a pod.
pub fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

/// The node that a pod is bound to.
pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_rounded_as_told() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!((scaled(&quarter, 10, true), scaled(&quarter, 10, false)), (3, 2));
        assert_eq!(scaled(&IntOrString::Int(4), 10, false), 4);
    }
}
