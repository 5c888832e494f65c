//! The API server.
//!
//! * [`storage`], [`watch_cache`], [`registry`] – objects over the store, in memory, and the one pipeline.
//! * [`request`], [`http`], [`paths`], [`discovery`], [`openapi`], [`subresources`] – what travels over HTTP.
//! * [`served`] – the table of resources.  [`custom_resources`] – definitions at work.
//! * [`conversion`] – webhooks that convert custom resources.  [`webhook_client`] – how webhooks are called.
//! * [`aggregation`] – API servers beside this one.
//! * [`flow_control`] – who is served when all cannot be.  [`metrics`] – what is counted.
//! * [`audit`] – what is recorded of requests.
//! * [`authn`], [`authz`], [`admission`] – who, may they, and the last word before a write.
//! * [`pki`] – certificate authorities, leaves, service account keys.  [`join`] – machines become nodes.
//! * [`local`] – `client::Api` in process: the same pipeline without a socket.
//! * [`encryption`] – secrets at rest.  [`expiry`] – events go.
//! * [`service_endpoints`] – where services are dialled.  [`outbound`] – calls to webhooks and issuers.
//! * [`forward`] – requests that are passed on.
//! * [`serving`] – the TLS listener.  [`bootstrap`], [`api_services`] – the objects every cluster starts with.
//!
//! Knows nothing of controllers, scheduler or agent.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
pub mod aggregation;
pub mod api_services;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod conversion;
pub mod custom_resources;
pub mod discovery;
pub mod encryption;
mod expiring;
pub mod expiry;
pub mod flow_control;
mod forward;
mod health;
#[cfg(test)]
mod histories;
pub mod http;
pub mod join;
pub mod local;
pub mod metrics;
pub mod openapi;
mod outbound;
pub mod paths;
pub mod pki;
pub mod registry;
mod reloaded;
pub mod request;
mod reviewer;
pub mod served;
pub mod service_endpoints;
pub mod serving;
pub mod storage;
pub mod subresources;
#[cfg(test)]
mod testing;
pub mod watch_cache;
mod webhook_client;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use api::{Resource, Status};
use serde_json::{Value, json};
use store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::tokens::Tokens;
use crate::registry::Registry;
use crate::watch_cache::Caches;

/// What the API server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address that others reach it at.
    pub advertise_address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// `https://kubernetes.default.svc.cluster.local`, the issuer of service account tokens.
    pub issuer: String,
    /// The range of pod addresses.
    pub cluster_cidr: ipnet::IpNet,
    /// The range of service addresses.
    pub service_cidr: ipnet::IpNet,
    /// `cluster.local`
    pub cluster_domain: String,
    /// Node ports, first and last.
    pub node_ports: (u16, u16),
    /// How many requests that read, and that write, are served at once.
    pub requests_inflight: (u32, u32),
    /// What machines may join with.
    pub join_secrets: authn::join_tokens::JoinSecrets,
    /// What is recorded of requests, and where.
    pub audit: audit::Config,
    /// How long events are kept.
    pub event_ttl: std::time::Duration,
    /// What stored secrets are sealed with.
    pub keyring: Arc<encryption::Keyring>,
    /// How callers are known, beside certificates and service accounts.
    pub authentication: authn::Settings,
    /// Which authorizers there are.
    pub authorization: authz::Settings,
    /// The other components of the process, by upstream's names, and whether they are alive.
    pub components: Vec<(&'static str, client::Liveness)>,
    /// The queues of the controllers, whose numbers are metrics.
    pub queues: client::workqueue::Queues,
    /// Which admission plugins run.
    pub admission: admission::Settings,
}

/// The API server, without its sockets.
pub struct Server {
    config: Config,
    address: String,
    registry: Registry,
    metrics: metrics::Metrics,
    table: served::Table,
    authentication: authn::Authentication,
    authorizers: OnceLock<authz::Authorizers>,
    aggregation: aggregation::Aggregation,
    documents: openapi::Documents,
    flow_control: flow_control::FlowControl,
    tokens: Arc<Tokens>,
    audit: Arc<audit::Audit>,
    pki: Arc<pki::Pki>,
    shutting_down: AtomicBool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

impl Server {
    /// Loads the caches from the store and starts following it on `tasks`. When following
    /// fails, `cancel` ends everything: a server with stale caches must not go on.
    ///
    /// # Errors
    /// A store error, or stored values that do not decode.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        pki: Arc<pki::Pki>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Arc<Server>, Status> {
        let resources = api::registry::builtin();
        let mut prefixes: Vec<String> = resources.iter().filter(|r| r.stored).map(|r| storage::prefix(r)).collect();
        prefixes.sort();
        prefixes.dedup();
        let storage = Arc::new(storage::Storage::new(store, config.keyring.clone()).with_transient(&resources));
        let caches = Caches::load(storage.clone(), &prefixes).await?;
        // Only now is it known that what is stored needs no other key.
        config.keyring.keep().map_err(|e| Status::internal_plain(e.to_string()))?;
        let address = match config.advertise_address {
            IpAddr::V6(a) => format!("[{a}]:{}", config.port),
            IpAddr::V4(a) => format!("{a}:{}", config.port),
        };
        let audit = audit::Audit::start(&config.audit, tasks, cancel).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            Status::internal_plain(format!("{e}{cause}"))
        })?;
        let tokens = Arc::new(Tokens::new(&pki, &config.issuer)?);
        let registry = Registry::new(storage, caches.clone());
        let server = Arc::new(Server {
            address,
            metrics: metrics::Metrics { admission: registry.admission_times().clone(), ..Default::default() },
            registry,
            table: served::Table::new(resources),
            authentication: authn::Authentication::new(&config)?,
            aggregation: Default::default(),
            documents: Default::default(),
            authorizers: OnceLock::new(),
            flow_control: flow_control::FlowControl::new(
                (config.requests_inflight.0 + config.requests_inflight.1).into(),
            ),
            tokens,
            audit: Arc::new(audit),
            pki,
            shutting_down: AtomicBool::new(false),
            config,
        });
        server.registry.set_conversions(Arc::new(conversion::Conversions::new(Arc::downgrade(&server))));
        server.registry.set_admission(admission::plugins(&server));
        let _ = server.authorizers.set(authz::Authorizers::new(&server)?);
        custom_resources::restore(&server).await?;
        custom_resources::start(&server, tasks, cancel);
        authn::follow(&server, tasks, cancel)?;
        authz::follow(&server, tasks, cancel)?;
        expiry::start(&server, tasks, cancel);
        aggregation::availability::restore(&server)?;
        aggregation::availability::start(&server, tasks, cancel);
        let (ended, own) = (cancel.clone(), server.clone());
        tasks.spawn(async move {
            let cancel = ended;
            if let Err(s) = own.registry.caches().run(cancel.clone()).await {
                tracing::error!(error = %s, "the watch cache cannot follow the store; shutting down");
            }
            own.shutting_down.store(true, Ordering::Relaxed);
            cancel.cancel();
        });
        let settled = encryption::settle(server.registry.storage(), server.registry.caches());
        match cancel.run_until_cancelled(settled).await {
            Some(settled) => settled.map(|()| server.clone()),
            None => Err(Status::unavailable("the server is shutting down")),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `host:port` as others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The pipeline.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything that is served.
    pub fn resources(&self) -> Arc<Vec<Arc<Resource>>> {
        self.table.current().resources.clone()
    }

    /// The table of what is served.
    pub fn table(&self) -> &served::Table {
        &self.table
    }

    /// The API servers beside this one.
    pub fn aggregation(&self) -> &aggregation::Aggregation {
        &self.aggregation
    }

    /// The OpenAPI documents that are in demand.
    pub fn documents(&self) -> &openapi::Documents {
        &self.documents
    }

    /// One served resource.
    ///
    /// # Errors
    /// 404.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Result<Arc<Resource>, Status> {
        self.table.current().resource(group, version, plural)
    }

    /// How callers are known.
    pub(crate) fn authentication(&self) -> &authn::Authentication {
        &self.authentication
    }

    /// Flow control.
    pub fn flow_control(&self) -> &flow_control::FlowControl {
        &self.flow_control
    }

    /// The authorizers; nobody may do anything before they are set.
    pub(crate) fn authorizers(&self) -> Option<&authz::Authorizers> {
        self.authorizers.get()
    }

    /// Service account tokens.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// What is recorded of requests.
    pub fn audit(&self) -> &Arc<audit::Audit> {
        &self.audit
    }

    /// Keys and certificates.
    pub fn pki(&self) -> &Arc<pki::Pki> {
        &self.pki
    }

    /// TLS towards kubelets, with this server's client certificate.
    pub fn kubelet_tls(&self) -> Arc<rustls::ClientConfig> {
        self.pki.kubelet_client()
    }

    /// TLS towards `https:` proxy targets, whose certificates nobody vouches for (as upstream).
    pub fn insecure_tls(&self) -> Arc<rustls::ClientConfig> {
        self.pki.insecure_client()
    }

    /// The public keys of service account tokens, as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        self.tokens.jwks()
    }

    /// The OpenID discovery document.
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.config.issuer,
            "jwks_uri": format!("https://{}/openid/v1/jwks", self.address),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// What is counted.
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.metrics
    }

    /// Whether the server is about to end.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }
}
