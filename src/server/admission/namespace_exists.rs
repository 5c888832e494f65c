//! NamespaceExists and NamespaceAutoProvision: what becomes of a write in a namespace that is not
//! there. The first refuses it, the second makes the namespace.

use std::sync::Weak;

use api::Status;
use api::codec::Decoded;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::registry::WriteContext;

pub(super) struct NamespaceExists {
    pub(super) server: Weak<Server>,
    /// Make what is missing.
    pub(super) provision: bool,
}

#[async_trait]
impl Admission for NamespaceExists {
    fn name(&self) -> &'static str {
        if self.provision { "NamespaceAutoProvision" } else { "NamespaceExists" }
    }

    async fn mutate(&self, a: &Attributes<'_>, _: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let written = matches!(a.operation, Operation::Create | Operation::Update);
        if !written || !a.resource.namespaced || a.namespace.is_empty() || a.dry_run {
            return Ok(());
        }
        let server = alive(&self.server)?;
        let namespaces = server.resource("", "v1", "namespaces")?;
        match server.registry().get(&namespaces, "", a.namespace).await {
            Err(s) if s.is_not_found() && self.provision => {}
            other => return other.map(|_| ()),
        }
        let namespace = json!({"metadata": {"name": a.namespace}});
        let body = Decoded { value: namespace, unknown: Vec::new(), duplicate: Vec::new() };
        let ctx = WriteContext::new(crate::bootstrap::system());
        match Box::pin(server.registry().create(&ctx, &namespaces, "", a.namespace, body)).await {
            Err(s) if !s.is_already_exists() => Err(s),
            _ => Ok(()),
        }
    }
}
