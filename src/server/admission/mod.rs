//! Admission: the last chance to change or refuse a write
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>).
//!
//! A plugin is one file here and one line in [`plugins`](crate::Server).

use std::sync::Mutex;

use api::{Resource, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::audit::Record;
use crate::audit::policy::Level;
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

impl Operation {
    /// As admission reviews spell it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
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
    /// `CreateOptions`, `UpdateOptions`, `DeleteOptions` as the client gave them; null for others.
    pub options: Value,
    /// For the client's `Warning` headers.
    pub warnings: &'a Warnings,
    /// Where the request is recorded, if it is.
    pub audit: Option<&'a Record>,
    /// The second round of mutating plugins, when one asks for it.
    pub reinvocation: Reinvocation,
}

impl Attributes<'_> {
    /// Adds an annotation to the record of the request, if there is one.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        if let Some(record) = self.audit {
            record.annotate(key, value);
        }
    }

    /// Adds one that quotes the request, for records that do so too.
    pub fn annotate_contents(&self, key: &str, value: impl Into<String>) {
        if let Some(record) = self.audit {
            record.annotate_at(Level::Request, key, value);
        }
    }
}

/// What a request's client is to be warned of, once each.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Adds a warning.
    pub fn add(&self, warning: String) {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if !all.contains(&warning) {
            all.push(warning);
        }
    }

    /// All so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// Whether the mutating plugins run a second time, because an object changed after some had seen
/// it, and what they remember of the first.
#[derive(Debug, Default)]
pub struct Reinvocation(Mutex<Rounds>);

#[derive(Debug, Default)]
struct Rounds {
    second: bool,
    /// Those that asked to see what changes after them.
    watching: Vec<String>,
    /// Those of them that must see the object again.
    wanted: Vec<String>,
    /// Whether plugins without such a memory must see it again.
    changed: bool,
    /// The object as the last who remembers left it.
    left: Option<Value>,
}

impl Reinvocation {
    fn lock(&self) -> std::sync::MutexGuard<'_, Rounds> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether this is the second round.
    pub fn is_second(&self) -> bool {
        self.lock().second
    }

    /// In the second round: whether this one must see the object again.
    pub fn wants(&self, who: &str) -> bool {
        self.lock().wanted.iter().any(|w| w == who)
    }

    /// This one has seen the object, and wants to see it again when it changes later.
    pub fn watch(&self, who: &str) {
        self.lock().watching.push(who.to_owned());
    }

    /// This one has changed the object: those who watch by now, but not itself, must see it again.
    pub fn changed(&self, who: &str) {
        let mut r = self.lock();
        r.changed = true;
        r.wanted = r.watching.iter().filter(|w| *w != who).cloned().collect();
    }

    /// The object as it is left for the plugins that follow.
    pub fn leave(&self, object: &Value) {
        self.lock().left = Some(object.clone());
    }

    /// Others may have changed the object since it was left: then all who watch must see it again.
    pub fn compare(&self, object: &Value) {
        let mut r = self.lock();
        if r.left.as_ref().is_some_and(|left| left != object) {
            r.wanted = r.watching.clone();
        }
    }

    /// Begins the second round, if there has to be one.
    pub fn begin(&self) -> bool {
        let mut r = self.lock();
        let begins = r.changed && !r.second;
        r.second |= begins;
        begins
    }
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

mod always_pull_images;
mod certificates;
mod claim_resize;
mod default_class;
mod default_toleration_seconds;
pub(crate) mod dynamic;
mod event_rate_limit;
mod extended_resource_toleration;
mod limit_ranger;
mod namespace_exists;
mod namespace_lifecycle;
mod node_restriction;
mod owner_permission;
mod pod_node_selector;
mod pod_security;
mod pod_tolerations;
mod policies;
mod priority;
mod rbac_escalation;
mod refusals;
mod resource_quota;
mod runtime_class;
mod service_account;
mod service_addresses;
mod settings;
mod storage_in_use;
mod taint_nodes;
mod topology_labels;
mod webhooks;

use std::sync::{Arc, Weak};

use crate::Server;

pub use settings::{Error as SettingsError, Settings};

/// The plugins in upstream's order, those that are enabled.
pub fn plugins(server: &Arc<Server>) -> Vec<Arc<dyn Admission>> {
    let weak: Weak<Server> = Arc::downgrade(server);
    let settings = &server.config().admission;
    let refuses = |name, why| Arc::new(refusals::Refusal { name, why });
    let default_class = |facts| Arc::new(default_class::DefaultClass { server: weak.clone(), facts });
    let existing = |provision| Arc::new(namespace_exists::NamespaceExists { server: weak.clone(), provision });
    let all: Vec<Arc<dyn Admission>> = vec![
        existing(true),
        Arc::new(namespace_lifecycle::NamespaceLifecycle(weak.clone())),
        existing(false),
        refuses("LimitPodHardAntiAffinityTopology", refusals::hard_anti_affinity),
        Arc::new(limit_ranger::LimitRanger(weak.clone())),
        Arc::new(service_account::ServiceAccount(weak.clone())),
        Arc::new(node_restriction::NodeRestriction(weak.clone())),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(always_pull_images::AlwaysPullImages),
        Arc::new(pod_security::PodSecurity { server: weak.clone(), configuration: settings.pod_security.clone() }),
        Arc::new(pod_node_selector::PodNodeSelector {
            server: weak.clone(),
            configuration: settings.pod_node_selector.clone(),
        }),
        Arc::new(priority::Priority(weak.clone())),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(pod_tolerations::PodTolerationRestriction {
            server: weak.clone(),
            configuration: settings.pod_tolerations.clone(),
        }),
        Arc::new(event_rate_limit::EventRateLimit::new(&settings.event_rate_limit)),
        Arc::new(extended_resource_toleration::ExtendedResourceToleration),
        default_class(&default_class::STORAGE),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(owner_permission::OwnerReferencesPermissionEnforcement(weak.clone())),
        Arc::new(claim_resize::PersistentVolumeClaimResize(weak.clone())),
        Arc::new(runtime_class::RuntimeClass(weak.clone())),
        Arc::new(certificates::Certificates(weak.clone())),
        default_class(&default_class::INGRESS),
        refuses("DenyServiceExternalIPs", refusals::external_ips),
        Arc::new(topology_labels::PodTopologyLabels(weak.clone())),
        Arc::new(webhooks::Mutating::new(weak.clone())),
        Arc::new(policies::Policies::new(weak.clone())),
        Arc::new(webhooks::Validating::new(weak.clone())),
        // The last: what is charged is stored, unless the store says no.
        Arc::new(resource_quota::ResourceQuota(weak.clone())),
        refuses("AlwaysDeny", refusals::everything),
    ];
    let mut enabled: Vec<_> = all.into_iter().filter(|p| settings.runs(p.name())).collect();
    // Upstream has these in its registry, where nobody disables them.
    let builtin: [Arc<dyn Admission>; 2] = [
        Arc::new(rbac_escalation::RbacEscalation(weak.clone())),
        Arc::new(service_addresses::ServiceAddresses::new(weak)),
    ];
    let before = enabled.iter().position(|p| p.name() == "MutatingAdmissionWebhook").unwrap_or(enabled.len());
    enabled.splice(before..before, builtin);
    enabled
}

/// The server behind a plugin; it is gone only while the process ends.
fn alive(server: &Weak<Server>) -> Result<Arc<Server>, Status> {
    server.upgrade().ok_or_else(|| Status::unavailable("the server is shutting down"))
}

#[cfg(test)]
mod tests;
