//! PVC protection: a claim that is deleted stays while a pod uses it
//! (upstream: `pkg/controller/volume/pvcprotection`).
//!
//! Invariant: the finalizer goes only from a claim that is being deleted and that no bound pod
//! uses, as the API says it, not only a cache.

use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{PersistentVolumeClaim, Pod};
use api::meta::apis::meta::v1::ObjectMeta;
use async_trait::async_trait;
use client::{Client, Informer, ListParams};

use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "pvc-protection-controller";
const FINALIZER: &str = "kubernetes.io/pvc-protection";

struct PvcProtection {
    client: Client,
    claims: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::default();
    runtime::enqueue_own(&claims, &queue);
    {
        let queue = queue.clone();
        pods.on_change(move |c| {
            // Only a pod that goes, or that another of its name replaces, sets a claim free.
            let Some(Ok(pod)) = c.old.as_ref().map(|o| o.typed::<Pod>()) else { return };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for claim in claims_of(&pod) {
                queue.add(api::key_of(namespace, &claim));
            }
        });
    }
    let controller = PvcProtection { client: (context.client_for)(NAME), claims: claims.clone() };
    runtime::run(context, Arc::new(controller), queue, vec![claims, pods], 1);
}

/// The claims that a pod names, or that are made for it.
fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).into_iter().flatten();
    volumes
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(c), _) => Some(c.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", v.name)),
            (None, None) => None,
        })
        .collect()
}

/// Whether the kubelet has to do with the pod, or will have, and the pod has to do with the claim.
fn uses(pod: &Pod, claim: &str) -> bool {
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some_and(|n| !n.is_empty());
    bound && claims_of(pod).iter().any(|c| c == claim)
}

/// Whether metadata awaits that this finalizer is taken away.
pub(crate) fn awaits(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.deletion_timestamp.is_some() && has(metadata, finalizer)
}

/// Whether metadata has this finalizer.
pub(crate) fn has(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// Metadata with the finalizer added or taken away.
pub(crate) fn switch(metadata: &mut ObjectMeta, finalizer: &str) {
    let all = metadata.finalizers.get_or_insert_default();
    match all.iter().position(|f| f == finalizer) {
        Some(i) => drop(all.remove(i)),
        None => all.push(finalizer.to_owned()),
    }
}

#[async_trait]
impl Controller for PvcProtection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "pvcprotection"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get::<PersistentVolumeClaim>(key) else { return Ok(Action::Done) };
        let (namespace, name) = api::split_key(key);
        let missing = claim.metadata.deletion_timestamp.is_none() && !has(&claim.metadata, FINALIZER);
        if !missing && !awaits(&claim.metadata, FINALIZER) {
            return Ok(Action::Done);
        }
        if !missing {
            let params = ListParams { namespace: namespace.to_owned(), ..ListParams::all() };
            let pods = self.client.list::<Pod>(&params).await?;
            if pods.iter().any(|p| uses(p, name)) {
                return Ok(Action::Done);
            }
        }
        let mut claim = (*claim).clone();
        switch(&mut claim.metadata, FINALIZER);
        match self.client.update(&claim).await {
            Err(s) if !s.is_not_found() => Err(s),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bound_pod_uses_what_it_mounts() {
        let pod = |node: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": [],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}}))
            .unwrap()
        };
        assert!(uses(&pod("n"), "c") && uses(&pod("n"), "p-e"));
        assert!(!uses(&pod("n"), "other") && !uses(&pod(""), "c"));
    }
}
