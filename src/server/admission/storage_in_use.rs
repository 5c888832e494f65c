//! StorageObjectInUseProtection: claims and volumes stay while they are used; the controllers
//! pvc-protection and pv-protection take the finalizers away.

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let finalizer = match a.resource.plural.as_str() {
            "persistentvolumes" => "kubernetes.io/pv-protection",
            "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
            _ => return Ok(()),
        };
        if a.operation != Operation::Create || !a.resource.group.is_empty() || !a.subresource.is_empty() {
            return Ok(());
        }
        match object["metadata"]["finalizers"].as_array_mut() {
            Some(all) if all.iter().any(|f| f == finalizer) => {}
            Some(all) => all.push(finalizer.into()),
            None => object["metadata"]["finalizers"] = json!([finalizer]),
        }
        Ok(())
    }
}
