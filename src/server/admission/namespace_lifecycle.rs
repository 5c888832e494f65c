//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is being
//! deleted, and the namespaces that every cluster needs stay.

use std::sync::Weak;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle(pub(super) Weak<Server>);

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(&self, a: &Attributes<'_>, _: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        if a.operation != Operation::Create || !a.resource.namespaced || a.namespace.is_empty() {
            return Ok(());
        }
        let server = alive(&self.0)?;
        let namespaces = server.resource("", "v1", "namespaces")?;
        let namespace = match server.registry().get_cached(&namespaces, "", a.namespace) {
            Ok(n) => n,
            // It may just have been created.
            Err(_) => server.registry().get(&namespaces, "", a.namespace).await?,
        };
        if namespace.meta().deletion_timestamp.is_none() {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {} because it is being terminated", a.namespace);
        let mut s = Status::forbidden(&a.resource.group, &a.resource.plural, a.name, &why);
        if let Some(d) = &mut s.details {
            d.causes.push(api::status::Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {} is being terminated", a.namespace),
                field: "metadata.namespace".into(),
            });
        }
        Err(s)
    }

    async fn validate(&self, a: &Attributes<'_>, _: Option<&Value>, _: Option<&Value>) -> Result<(), Status> {
        let deletes_namespace =
            a.operation == Operation::Delete && a.resource.group.is_empty() && a.resource.plural == "namespaces";
        if deletes_namespace && IMMORTAL.contains(&a.name) {
            return Err(Status::forbidden("", "namespaces", a.name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}
