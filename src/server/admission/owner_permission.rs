//! OwnerReferencesPermissionEnforcement: who changes an object's owners may delete it, and who
//! lets it hold up the deletion of an owner may set finalizers on that owner.

use std::sync::Weak;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::authz::Decision;
use crate::request::RequestInfo;

pub(super) struct OwnerReferencesPermissionEnforcement(pub(super) Weak<Server>);

fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

fn blocks(owner: &Value) -> bool {
    owner["blockOwnerDeletion"] == true
}

/// Whether the user may do something; if not, why.
async fn may(server: &Server, a: &Attributes<'_>, request: RequestInfo) -> Result<(), String> {
    match server.decide(a.user, &request).await.decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) => Err(why),
    }
}

#[async_trait]
impl Admission for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(new) = object.filter(|_| matches!(a.operation, Operation::Create | Operation::Update)) else {
            return Ok(());
        };
        // The status of a pod or volume attachment says nothing of its owners.
        let before = old.map_or(&[][..], owners);
        if owners(new) == before || (a.resource.plural == "pods" && a.subresource == "status") {
            return Ok(());
        }
        let server = alive(&self.0)?;
        let refuse = |why: String| Status::forbidden(&a.resource.group, &a.resource.plural, a.name, &why);
        if a.operation != Operation::Create {
            let delete = RequestInfo {
                verb: "delete".into(),
                is_resource: true,
                group: a.resource.group.clone(),
                version: a.resource.version.clone(),
                resource: a.resource.plural.clone(),
                subresource: a.subresource.to_owned(),
                namespace: a.namespace.to_owned(),
                name: a.name.to_owned(),
                ..Default::default()
            };
            may(&server, a, delete).await.map_err(|why| {
                refuse(format!("cannot set an ownerRef on a resource you can't delete: {why}, <nil>"))
            })?;
        }
        let blocked_before = |uid: &Value| before.iter().any(|o| o["uid"] == *uid && blocks(o));
        for owner in owners(new).iter().filter(|o| blocks(o) && !blocked_before(&o["uid"])) {
            let text = |f: &str| owner[f].as_str().unwrap_or_default();
            let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
            let resources = server.resources();
            let found = resources.iter().find(|r| r.group == group && r.version == version && r.kind == text("kind"));
            let Some(resource) = found else {
                return Err(refuse(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}: no matches for kind {:?} in version {:?}",
                    text("apiVersion"),
                    text("kind"),
                    text("kind"),
                    text("apiVersion")
                )));
            };
            let finalize = RequestInfo {
                verb: "update".into(),
                is_resource: true,
                group: group.to_owned(),
                version: version.to_owned(),
                resource: resource.plural.clone(),
                subresource: "finalizers".into(),
                namespace: if resource.namespaced { a.namespace.to_owned() } else { String::new() },
                name: text("name").to_owned(),
                ..Default::default()
            };
            may(&server, a, finalize).await.map_err(|why| {
                refuse(format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {why}, <nil>"
                ))
            })?;
        }
        Ok(())
    }
}
