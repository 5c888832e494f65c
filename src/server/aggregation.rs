//! API servers beside this one: an APIService names the service that serves a group and version,
//! and requests for it are passed on
//! (<https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/>).
//!
//! * here – who serves what.  [`availability`] – whether they answer.  [`proxy`] – requests.
//! * [`documents`] – what they say of themselves.  [`trust`] – what they need to believe this server.
//!
//! Invariant: a group and version with a service is never answered from here, available or not.

pub mod availability;
mod documents;
pub mod proxy;
#[cfg(test)]
mod tests;
pub mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api::{Object, Status};
use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use self::documents::Documents;
use crate::Server;
use crate::outbound::{Outbound, Vouched};
use crate::service_endpoints;

/// An APIService, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    group: String,
    version: String,
    service: Option<ServiceReference>,
    group_priority_minimum: i64,
    version_priority: i64,
    #[serde(rename = "insecureSkipTLSVerify")]
    insecure_skip_tls_verify: bool,
    /// PEM in base64.
    ca_bundle: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct ServiceReference {
    name: String,
    namespace: String,
    port: Option<u16>,
}

impl ServiceReference {
    fn port(&self) -> u16 {
        self.port.unwrap_or(443)
    }

    /// The name that its certificate must be for.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// How a group and its versions rank.
pub type Rank = (i64, i64);

/// An API server beside this one, for one group and version.
pub struct Backend {
    spec: Spec,
    service: ServiceReference,
    outbound: Result<Outbound, String>,
    available: AtomicBool,
    documents: ArcSwapOption<Documents>,
}

impl Backend {
    fn new(server: &Server, spec: &Spec, service: &ServiceReference) -> Backend {
        let identity = Some(server.pki().front_proxy());
        let outbound = match spec.ca_bundle.as_deref().filter(|b| !b.is_empty()) {
            _ if spec.insecure_skip_tls_verify => Ok(Outbound::new(&Vouched::ByNobody, identity)),
            None => Ok(Outbound::new(&Vouched::BySystem, identity)),
            Some(bundle) => BASE64_STANDARD
                .decode(bundle)
                .map(|pem| Outbound::new(&Vouched::By(&String::from_utf8_lossy(&pem)), identity))
                .map_err(|e| e.to_string()),
        };
        Backend {
            spec: spec.clone(),
            service: service.clone(),
            outbound,
            available: AtomicBool::new(false),
            documents: ArcSwapOption::empty(),
        }
    }

    /// Whether it answered when it was last asked.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Where it is dialled.
    async fn address(&self, server: &Arc<Server>) -> Result<(String, u16), String> {
        let s = &self.service;
        service_endpoints::one_of_port(server, &s.namespace, &s.name, s.port()).await.map_err(|e| e.message)
    }

    /// The version's entry in the aggregated form of discovery.
    pub fn discovery(&self) -> Value {
        documents::entry(&self.spec.version, self.documents.load().as_deref(), self.is_available())
    }

    /// The paths of its OpenAPI v3 documents, with what tells their state.
    pub fn openapi_v3(&self) -> BTreeMap<String, String> {
        self.documents.load().as_ref().map(|d| d.openapi_v3.clone()).unwrap_or_default()
    }

    /// Its OpenAPI v2 document.
    pub fn openapi_v2(&self) -> Option<Arc<Value>> {
        self.documents.load().as_ref().and_then(|d| d.openapi_v2.clone())
    }
}

/// What one APIService says.
#[derive(Clone)]
struct Registered {
    name: String,
    rank: Rank,
    backend: Option<Arc<Backend>>,
}

/// By group and version.
type Table = BTreeMap<(String, String), Registered>;

/// All APIServices.
#[derive(Default)]
pub struct Aggregation {
    table: ArcSwap<Table>,
    /// Held while the table is replaced.
    writer: std::sync::Mutex<()>,
    /// Counts changes of what others say of themselves, and of who they are.
    documents: AtomicU64,
}

impl Aggregation {
    /// Who serves a group and version, if not this server.
    pub fn backend(&self, group: &str, version: &str) -> Option<Arc<Backend>> {
        let table = self.table.load();
        table.get(&(group.to_owned(), version.to_owned())).and_then(|r| r.backend.clone())
    }

    /// Who serves a path, if not this server.
    pub fn backend_of(&self, path: &str) -> Option<Arc<Backend>> {
        let mut parts = path.strip_prefix("/apis/")?.splitn(3, '/');
        match (parts.next(), parts.next()) {
            (Some(group), Some(version)) if !version.is_empty() => self.backend(group, version),
            _ => None,
        }
    }

    /// All groups and versions that others serve.
    pub fn backends(&self) -> Vec<(String, String, Arc<Backend>)> {
        let table = self.table.load();
        let all = table.iter().filter_map(|((g, v), r)| Some((g.clone(), v.clone(), r.backend.clone()?)));
        all.collect()
    }

    /// How a group and version ranks, where an APIService says so.
    pub fn rank(&self, group: &str, version: &str) -> Option<Rank> {
        self.table.load().get(&(group.to_owned(), version.to_owned())).map(|r| r.rank)
    }

    /// The APIServices that a service stands behind.
    fn names_of_service(&self, namespace: &str, name: &str) -> Vec<String> {
        let table = self.table.load();
        let all = table
            .values()
            .filter(|r| r.backend.as_ref().is_some_and(|b| b.service.namespace == namespace && b.service.name == name));
        all.map(|r| r.name.clone()).collect()
    }

    fn names_with_service(&self) -> Vec<String> {
        self.table.load().values().filter(|r| r.backend.is_some()).map(|r| r.name.clone()).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let _one = self.writer.lock().unwrap_or_else(|e| e.into_inner());
        let mut table = Table::clone(&self.table.load());
        change(&mut table);
        self.table.store(Arc::new(table));
        self.documents_changed();
    }

    /// Tells one state of what others say of themselves from all before it.
    pub fn documents_number(&self) -> u64 {
        self.documents.load(Ordering::Acquire)
    }

    fn documents_changed(&self) {
        self.documents.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes in whether a server answers; discovery tells that, too.
    fn set_available(&self, backend: &Backend, available: bool) {
        if backend.available.swap(available, Ordering::Relaxed) != available {
            self.documents_changed();
        }
    }

    /// Takes in what an APIService says now.
    fn set(&self, server: &Server, object: &Object) -> Result<(), Status> {
        let value = object.to_value();
        let spec: Spec = serde_json::from_value(value["spec"].clone()).map_err(Status::internal)?;
        let key = (spec.group.clone(), spec.version.clone());
        let before = self.table.load().get(&key).and_then(|r| r.backend.clone());
        let backend = spec.service.as_ref().map(|service| match before {
            Some(same) if same.spec == spec => same,
            _ => Arc::new(Backend::new(server, &spec, service)),
        });
        if let Some(b) = &backend {
            let mut conditions = value["status"]["conditions"].as_array().into_iter().flatten();
            let available = conditions.any(|c| c["type"] == "Available" && c["status"] == "True");
            self.set_available(b, available);
        }
        let rank = (spec.group_priority_minimum, spec.version_priority);
        let name = object.meta().name.to_owned();
        let same = |r: &Registered| {
            let (a, b) = (r.backend.as_ref().map(Arc::as_ptr), backend.as_ref().map(Arc::as_ptr));
            r.name == name && r.rank == rank && a == b
        };
        if self.table.load().get(&key).is_some_and(same) {
            return Ok(());
        }
        self.change(|table| {
            table.insert(key, Registered { name, rank, backend });
        });
        Ok(())
    }

    /// Forgets an APIService.
    fn remove(&self, name: &str) {
        self.change(|table| table.retain(|_, r| r.name != name));
    }
}
