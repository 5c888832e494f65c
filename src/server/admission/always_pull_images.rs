//! AlwaysPullImages: every start of a container asks its registry, so that nobody runs an image
//! from a node's cache that he may not pull.

use api::Status;
use api::field::FieldError;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) struct AlwaysPullImages;

fn images(pod: &Value) -> Vec<&Value> {
    LISTS.iter().flat_map(|l| pod["spec"][*l].as_array().into_iter().flatten()).map(|c| &c["image"]).collect()
}

fn concerns(a: &Attributes<'_>, pod: &Value, old: Option<&Value>) -> bool {
    let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods" && a.subresource.is_empty();
    let written = matches!(a.operation, Operation::Create | Operation::Update);
    let known = old.filter(|_| a.operation == Operation::Update).map(images);
    is_pod && written && known.is_none_or(|known| images(pod).iter().any(|i| !known.contains(i)))
}

#[async_trait]
impl Admission for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if concerns(a, pod, old) {
            for list in LISTS {
                for c in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    c["imagePullPolicy"] = "Always".into();
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = object.filter(|p| concerns(a, p, old)) else { return Ok(()) };
        for list in LISTS {
            for (i, c) in pod["spec"][list].as_array().into_iter().flatten().enumerate() {
                if c["imagePullPolicy"] != "Always" {
                    let field = format!("spec.{list}[{i}].imagePullPolicy");
                    let e = FieldError::not_supported(field, c["imagePullPolicy"].clone(), &["Always"]);
                    return Err(Status::forbidden("", "pods", a.name, &e.to_string()));
                }
            }
        }
        Ok(())
    }
}
