//! The audit log: who did what, in upstream's words
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>).
//!
//! * [`policy`] – which requests are recorded, and how much of them.
//! * [`record`] – a request on its way, and what is known of it; [`event`] – its form.
//! * [`log`] – the file.  [`webhook`] – a service that they are posted to; [`truncate`] – what is too
//!   large for it.  [`counts`] – how many there were.
//!
//! A request that the policy leaves out costs the policy's check and nothing else. One that is
//! recorded waits, before it is served, until the log has room for it, and never for the disk's
//! sync. Requests of callers in the process are recorded like all others.

mod counts;
mod event;
mod log;
pub mod policy;
mod record;
#[cfg(test)]
mod tests;
pub mod truncate;
pub mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::HeaderValue;
use http::request::Parts;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::record::Record;

use self::counts::Counts;
use self::event::Source;
use self::log::Log;
use self::policy::{Level, Policy};
use self::webhook::Webhook;
use crate::authn::impersonation::{Impersonator, NotAllowed};
use crate::authn::{Peer, RefusedToken};
use crate::http::respond::Reply;
use crate::request::{RequestInfo, User};

/// The header that names the events of a request, in both directions.
const AUDIT_ID: &str = "audit-id";
/// The longest name that a client may give.
const ID_MAX: usize = 64;

/// Where events go.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What is recorded; the built-in policy when none is given.
    pub policy_file: Option<PathBuf>,
    /// The log, `-` for standard output; none is written without.
    pub log_path: Option<PathBuf>,
    /// See [`Rotation`].
    pub rotation: Rotation,
    /// A service that events are posted to.
    pub webhook: Option<webhook::Settings>,
}

/// When a log file is set aside, and how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The size of a file, in MiB.
    pub max_size: u64,
    /// How many days old files are kept; 0 for ever.
    pub max_age: u64,
    /// How many old files are kept; 0 for all.
    pub max_backup: usize,
}

impl Default for Rotation {
    fn default() -> Rotation {
        Rotation { max_size: 20, max_age: 30, max_backup: 5 }
    }
}

/// Why nothing can be audited as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file that does not say what it should.
    #[error("{} is no {what}: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The service cannot be used as it is described.
    #[error("{0}")]
    Webhook(String),
}

/// A name that a request's events have in common, placed in its extensions.
#[derive(Clone, Debug)]
struct AuditId(Arc<str>);

/// Where the events of all requests go.
#[derive(Default)]
pub struct Audit {
    policy: Policy,
    log: Option<Arc<Log>>,
    webhook: Option<Webhook>,
    counts: Arc<Counts>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit")
    }
}

impl Audit {
    /// Opens what is configured; it is written to on `tasks`.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn start(config: &Config, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<Audit, Error> {
        let policy = match &config.policy_file {
            Some(path) => Policy::read(path)?,
            None => Policy::builtin(),
        };
        let counts = Arc::<Counts>::default();
        let log = |path: &PathBuf| Log::start(path, config.rotation, counts.clone(), tasks, cancel);
        let log = config.log_path.as_ref().map(log).transpose()?;
        let webhook = |s: &webhook::Settings| Webhook::start(s, counts.clone(), tasks, cancel);
        let webhook = config.webhook.as_ref().map(webhook).transpose().map_err(|s| Error::Webhook(s.message))?;
        Ok(Audit { policy, log, webhook, counts })
    }

    /// Whether nothing is recorded at all.
    fn is_off(&self) -> bool {
        self.log.is_none() && self.webhook.is_none()
    }

    /// Begins the record of a request that came over HTTP, if there is to be one. `user`: as
    /// whom it is served.
    ///
    /// # Errors
    /// 500 when its first event must be taken by the webhook, and is not.
    pub async fn begin(
        self: &Arc<Self>,
        user: &User,
        info: &RequestInfo,
        parts: &Parts,
    ) -> Result<Option<Arc<Record>>, Status> {
        match self.record_of(user, info, parts).await {
            Some(record) => self.received(record).await.map(Some),
            None => Ok(None),
        }
    }

    async fn record_of(self: &Arc<Self>, user: &User, info: &RequestInfo, parts: &Parts) -> Option<Arc<Record>> {
        let impersonator = parts.extensions.get::<Impersonator>().map(|i| &i.0);
        let (level, omit) = self.asks(impersonator.unwrap_or(user), info)?;
        let own = || AuditId(new_id());
        let id = parts.extensions.get::<AuditId>().cloned().unwrap_or_else(own);
        let uri = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut source = Source::new(impersonator.unwrap_or(user), info, id.0, uri);
        source.impersonated = impersonator.map(|_| user.clone());
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        source.user_agent = match header("user-agent") {
            "" if parts.extensions.get::<Peer>().is_none() => own_agent(),
            agent => agent.to_owned(),
        };
        source.addresses = addresses(parts);
        Some(self.record(level, omit, source).await)
    }

    /// Begins the record of a call within the process.
    ///
    /// # Errors
    /// As [`Audit::begin`].
    pub async fn begin_local(self: &Arc<Self>, user: &User, info: &RequestInfo) -> Result<Option<Arc<Record>>, Status> {
        let Some((level, omit)) = self.asks(user, info) else { return Ok(None) };
        let mut source = Source::new(user, info, new_id(), &info.path);
        source.user_agent = own_agent();
        let record = self.record(level, omit, source).await;
        self.received(record).await.map(Some)
    }

    async fn received(&self, record: Arc<Record>) -> Result<Arc<Record>, Status> {
        if record.received().await {
            return Ok(record);
        }
        self.counts.rejected();
        let why = format!("Internal Server Error: {:?}: failed to store audit event", record.uri());
        Err(Status::internal_plain(why))
    }

    async fn record(self: &Arc<Self>, level: Level, omit: policy::Omit, source: Source) -> Arc<Record> {
        if let Some(log) = &self.log {
            log.room().await;
        }
        Arc::new(Record::new(self.clone(), level, omit, source))
    }

    /// How much of a request the policy wants; `None` for nothing.
    fn asks(&self, user: &User, info: &RequestInfo) -> Option<(Level, policy::Omit)> {
        if self.is_off() {
            return None;
        }
        let (level, omit) = self.policy.evaluate(user, info);
        self.counts.level(level);
        (level != Level::None).then_some((level, omit))
    }

    /// Records that somebody could not say who they are, or may not be whom they want to be.
    pub async fn unidentified(self: &Arc<Self>, parts: &Parts, status: &Status) {
        let query = crate::request::Query::parse(parts.uri.query().unwrap_or_default());
        let info = RequestInfo::new(&parts.method, parts.uri.path(), &query);
        let user = parts.extensions.get::<NotAllowed>().map(|u| u.0.clone());
        let Some(record) = self.record_of(&user.clone().unwrap_or_default(), &info, parts).await else { return };
        if user.is_some() {
            record.received().await;
            record.failed(status);
            record.complete(status.code).await;
        } else {
            // As upstream: there is but one event, of the answer's beginning.
            record.failed(&Status { message: attempted(parts), ..status.clone() });
            record.started(status.code).await;
        }
    }

    /// Takes an event. What is given says, when it is to be waited for, whether the request may
    /// go on.
    fn emit(&self, line: &[u8]) -> Option<JoinHandle<bool>> {
        self.counts.event();
        if let Some(log) = &self.log {
            log.write(line);
        }
        self.webhook.as_ref().and_then(|w| w.take(line))
    }

    /// Writes what is counted in the text exposition format.
    pub fn write_metrics(&self, out: &mut String) {
        self.counts.write(out);
    }
}

/// By which means somebody failed to say who they are.
fn attempted(parts: &Parts) -> String {
    let shown = parts.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let scheme = shown.trim().split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
    // It was taken off the request.
    let token = parts.extensions.get::<RefusedToken>().is_some();
    let certified = parts.extensions.get::<Peer>().is_some_and(|p| p.certificate.is_some());
    let means = [("basic", scheme == "basic"), ("bearer", token), ("x509", certified)];
    let means: Vec<&str> = means.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    if means.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", means.join(", "))
}

/// What callers in the process are called.
fn own_agent() -> String {
    format!("sampan/{}", api::VERSION)
}

fn new_id() -> Arc<str> {
    let mut buffer = uuid::Uuid::encode_buffer();
    Arc::from(&*uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
}

/// Where a request came from: what proxies say, then who is connected.
fn addresses(parts: &Parts) -> Vec<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut all: Vec<String> = header("x-forwarded-for")
        .split(',')
        .chain([header("x-real-ip")])
        .map(str::trim)
        .filter(|a| a.parse::<std::net::IpAddr>().is_ok())
        .map(str::to_owned)
        .collect();
    if let Some(address) = parts.extensions.get::<Peer>().and_then(|p| p.address) {
        all.push(address.ip().to_canonical().to_string());
    }
    all.dedup();
    all
}

/// Names a request: as its client does, or by chance.
pub fn name(parts: &mut Parts) -> HeaderValue {
    let given = parts.headers.get(AUDIT_ID).filter(|v| !v.is_empty() && v.len() <= ID_MAX);
    let id: Arc<str> = match given.and_then(|v| v.to_str().ok()) {
        Some(given) => given.into(),
        None => new_id(),
    };
    let value = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static(""));
    parts.extensions.insert(AuditId(id));
    value
}

/// Tells the client how its request is named.
pub fn show_name(reply: &mut Reply, id: HeaderValue) {
    reply.headers_mut().entry(AUDIT_ID).or_insert(id);
}

/// The body of a request or an answer, if it can be recorded.
fn recordable(body: &Bytes) -> Option<Box<serde_json::value::RawValue>> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str(text).ok()
}
