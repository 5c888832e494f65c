//! Writes pods' statuses to the API: only when something changed, retried with a back-off, and off
//! the workers' backs. When a pod that is being deleted has ended here, its object is deleted.
//!
//! Upstream: `pkg/kubelet/status/status_manager.go`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::k8s::core::v1::{Pod, PodStatus};
use client::{Client, PatchKind, WorkQueue};
use serde_json::{Map, Value, json};

#[derive(Clone, Debug)]
struct Entry {
    namespace: String,
    name: String,
    /// The UID in the API: the mirror pod's, for static pods.
    api_uid: String,
    status: PodStatus,
    /// What the API has, as far as we know.
    written: Option<PodStatus>,
    /// At which revision that was.
    revision: u64,
    /// Nothing of the pod is left here.
    finished: bool,
    /// The pod is to be deleted from the API once it is finished.
    deleting: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Statuses {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    entries: Mutex<HashMap<String, Entry>>,
    queue: WorkQueue<String>,
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// A strategic merge patch that turns one status into another: changed fields, and `null` for
/// those that are gone. Conditions are merged by type, so others' survive.
pub fn difference(old: Option<&PodStatus>, new: &PodStatus) -> Map<String, Value> {
    let value = |s: &PodStatus| match serde_json::to_value(s) {
        Ok(Value::Object(m)) => m,
        _ => Map::new(),
    };
    let (old, new) = (old.map(value).unwrap_or_default(), value(new));
    let mut patch = Map::new();
    for (k, v) in &new {
        if old.get(k) != Some(v) {
            let merged_by_key = matches!(k.as_str(), "podIPs" | "hostIPs");
            match v {
                Value::Array(list) if k == "conditions" => {
                    let before = old.get(k).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                    patch.insert(k.clone(), conditions(before, list));
                }
                // These lists are merged by address: say that the old ones go.
                Value::Array(list) if merged_by_key && old.get(k).is_some() => {
                    let mut list = list.clone();
                    list.push(json!({"$patch": "replace"}));
                    patch.insert(k.clone(), Value::Array(list));
                }
                _ => {
                    patch.insert(k.clone(), v.clone());
                }
            }
        }
    }
    for k in old.keys() {
        // Fields we do not know of would not have been decoded.
        if !new.contains_key(k) {
            patch.insert(k.clone(), Value::Null);
        }
    }
    patch
}

/// Conditions are merged field by field: those that a condition no longer has become `null`.
fn conditions(old: &[Value], new: &[Value]) -> Value {
    let mut new = new.to_vec();
    for c in new.iter_mut().filter_map(Value::as_object_mut) {
        let before = old.iter().filter_map(Value::as_object).find(|o| o.get("type") == c.get("type"));
        for field in before.into_iter().flat_map(Map::keys) {
            c.entry(field.clone()).or_insert(Value::Null);
        }
    }
    Value::Array(new)
}

impl Statuses {
    /// None yet.
    pub fn new(client: Client) -> Statuses {
        let queue = WorkQueue::new(Duration::from_millis(100), Duration::from_secs(30));
        Statuses { inner: Arc::new(Inner { client, entries: Mutex::default(), queue }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.inner.entries.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The status to report for a pod; `api` is its object (the mirror pod of a static pod).
    pub fn set(&self, uid: &str, api: &Pod, status: PodStatus) {
        let m = &api.metadata;
        let api_uid = m.uid.clone().unwrap_or_default();
        let mut entries = self.lock();
        let fresh = || Entry {
            namespace: m.namespace.clone().unwrap_or_default(),
            name: m.name.clone().unwrap_or_default(),
            api_uid: api_uid.clone(),
            status: PodStatus::default(),
            written: api.status.clone(),
            revision: revision(api),
            finished: false,
            deleting: false,
        };
        let entry = entries.entry(uid.to_owned()).or_insert_with(fresh);
        if entry.api_uid != api_uid {
            *entry = fresh();
        }
        // Somebody else has written since: what we say must be said again.
        if revision(api) > entry.revision {
            entry.written = api.status.clone();
            entry.revision = revision(api);
        }
        entry.deleting = m.deletion_timestamp.is_some();
        entry.status = status;
        if entry.written.as_ref() != Some(&entry.status) {
            drop(entries);
            self.inner.queue.add(uid.to_owned());
        }
    }

    /// Nothing of the pod is left here; if it is being deleted, its object may go.
    pub fn finish(&self, uid: &str, deleting: bool) {
        if let Some(e) = self.lock().get_mut(uid) {
            e.finished = true;
            e.deleting |= deleting;
        }
        self.inner.queue.add(uid.to_owned());
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The status that is (to be) reported.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.lock().get(uid).map(|e| e.status.clone())
    }

    /// Writes until cancelled. Several may run at once.
    pub async fn run(self) {
        while let Some(uid) = self.inner.queue.get().await {
            match self.write(&uid).await {
                Ok(()) => self.inner.queue.forget(&uid),
                Err(s) => {
                    tracing::warn!(pod = %uid, error = %s, "a pod's status was not written");
                    self.inner.queue.add_rate_limited(uid.clone());
                }
            }
            self.inner.queue.done(&uid);
        }
    }

    async fn write(&self, uid: &str) -> Result<(), api::Status> {
        let Some(e) = self.lock().get(uid).cloned() else { return Ok(()) };
        let client = &self.inner.client;
        let patch = difference(e.written.as_ref(), &e.status);
        if !patch.is_empty() {
            // The UID makes it fail for another pod of the same name.
            let body = json!({"metadata": {"uid": e.api_uid}, "status": patch});
            match client.patch::<Pod>(&e.namespace, &e.name, "status", PatchKind::Strategic, &body).await {
                Ok(answer) => {
                    if let Some(now) = self.lock().get_mut(uid)
                        && now.api_uid == e.api_uid
                    {
                        now.written = Some(e.status.clone());
                        now.revision = now.revision.max(revision(&answer));
                    }
                }
                Err(s) if s.is_not_found() || s.is_conflict() => {
                    tracing::debug!(pod = %uid, error = %s, "the pod is gone, or another one");
                    return Ok(());
                }
                Err(s) => return Err(s),
            }
        }
        if e.finished && e.deleting {
            let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": e.api_uid}});
            match client.delete_with::<Pod>(&e.namespace, &e.name, &options).await {
                Ok(()) => {}
                Err(s) if s.is_not_found() || s.is_conflict() => {}
                Err(s) => return Err(s),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::core::v1::PodCondition;

    #[test]
    fn only_what_changed_is_sent_and_what_is_gone_becomes_null() {
        let old = PodStatus { phase: Some("Pending".into()), message: Some("m".into()), ..Default::default() };
        let new = PodStatus { phase: Some("Running".into()), pod_ip: Some("1.2.3.4".into()), ..Default::default() };
        let patch = Value::Object(difference(Some(&old), &new));
        assert_eq!(patch, json!({"phase": "Running", "podIP": "1.2.3.4", "message": null}));
        assert!(difference(Some(&new), &new).is_empty());
    }

    #[test]
    fn a_condition_that_has_come_true_says_no_longer_why_it_was_not() {
        let ready = |status: &str, reason: Option<&str>| PodStatus {
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: status.into(),
                reason: reason.map(str::to_owned),
                ..Default::default()
            }]),
            ..Default::default()
        };
        let patch = difference(Some(&ready("False", Some("ContainersNotReady"))), &ready("True", None));
        assert_eq!(patch["conditions"], json!([{"type": "Ready", "status": "True", "reason": null}]));
    }
}
