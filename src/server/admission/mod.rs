//! Admission: the last chance to change or refuse a write
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>).
//!
//! A plugin is one file here and one line in [`plugins`](crate::Server).

use api::{Resource, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::request::User;

/// What kind of write it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create,
    /// PUT or PATCH.
    Update,
    /// DELETE.
    Delete,
    /// An upgraded connection or proxy request.
    Connect,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        })
    }
}

/// The write that is to be admitted.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// What kind of write.
    pub operation: Operation,
    /// The resource.
    pub resource: &'a Resource,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name; empty for a create with `generateName`.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

/// An admission plugin.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Its upstream name, such as `ServiceAccount`.
    fn name(&self) -> &'static str;

    /// May change the object before it is validated. Not called for deletions.
    async fn mutate(
        &self,
        _attributes: &Attributes<'_>,
        _object: &mut Value,
        _old: Option<&Value>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// May refuse the write. For deletions `object` is `None`.
    async fn validate(
        &self,
        _attributes: &Attributes<'_>,
        _object: Option<&Value>,
        _old: Option<&Value>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

mod certificates;
mod default_toleration_seconds;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod rbac_escalation;
mod runtime_class;
mod service_account;
mod service_addresses;

use std::sync::{Arc, Weak};

use crate::Server;

/// The plugins in upstream's order.
pub fn plugins(server: &Arc<Server>) -> Vec<Arc<dyn Admission>> {
    let weak: Weak<Server> = Arc::downgrade(server);
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle(weak.clone())),
        Arc::new(node_restriction::NodeRestriction(weak.clone())),
        Arc::new(service_account::ServiceAccount(weak.clone())),
        Arc::new(priority::Priority(weak.clone())),
        Arc::new(runtime_class::RuntimeClass(weak.clone())),
        Arc::new(certificates::Certificates(weak.clone())),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(rbac_escalation::RbacEscalation(weak.clone())),
        Arc::new(service_addresses::ServiceAddresses::new(weak)),
    ]
}

/// The server behind a plugin; it is gone only while the process ends.
fn alive(server: &Weak<Server>) -> Result<Arc<Server>, Status> {
    server.upgrade().ok_or_else(|| Status::unavailable("the server is shutting down"))
}
