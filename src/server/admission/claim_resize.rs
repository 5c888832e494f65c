//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class allows it.

use std::sync::Weak;

use api::Status;
use api::quantity::Quantity;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

pub(super) struct PersistentVolumeClaimResize(pub(super) Weak<Server>);

fn size(claim: &Value) -> Option<Quantity> {
    Quantity::from_value(claim.pointer("/spec/resources/requests/storage")?).ok()
}

/// The class of a claim, by either way to name it.
fn class(claim: &Value) -> &str {
    let old = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    old.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let is_claim = a.resource.group.is_empty() && a.resource.plural == "persistentvolumeclaims";
        let (Some(new), Some(old)) = (object, old) else { return Ok(()) };
        if a.operation != Operation::Update || !is_claim || !a.subresource.is_empty() || size(new) <= size(old) {
            return Ok(());
        }
        let refuse = |why: &str| Err(Status::forbidden("", "persistentvolumeclaims", a.name, why));
        if old["status"]["phase"] != "Bound" {
            return refuse("Only bound persistent volume claims can be expanded");
        }
        let server = alive(&self.0)?;
        let classes = server.resource("storage.k8s.io", "v1", "storageclasses")?;
        let allowed = !class(new).is_empty()
            && class(new) == class(old)
            && server
                .registry()
                .get_cached(&classes, "", class(new))
                .is_ok_and(|c| c.to_value()["allowVolumeExpansion"] == true);
        if allowed {
            return Ok(());
        }
        refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )
    }
}
