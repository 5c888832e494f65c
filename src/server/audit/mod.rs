//! The audit log: who did what, in upstream's words
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>).
//!
//! * [`policy`] – which requests are recorded, and how much of them.
//! * [`record`] – a request on its way, and what is known of it; [`event`] – its form.
//! * [`log`] – the file.
//!
//! A request that the policy leaves out costs the policy's check and nothing else. One that is
//! recorded waits, before it is served, until the log has room for it, and never for the disk's
//! sync. Requests of callers in the process are recorded like all others.

mod event;
mod log;
pub mod policy;
mod record;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::HeaderValue;
use http::request::Parts;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::record::Record;

use self::event::Source;
use self::log::Log;
use self::policy::{Level, Policy};
use crate::authn::Peer;
use crate::authn::impersonation::Impersonator;
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
}

/// A name that a request's events have in common, placed in its extensions.
#[derive(Clone, Debug)]
struct AuditId(Arc<str>);

/// Where the events of all requests go.
#[derive(Default)]
pub struct Audit {
    policy: Policy,
    log: Option<Arc<Log>>,
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
        let log = config.log_path.as_ref().map(|path| Log::start(path, config.rotation, tasks, cancel)).transpose()?;
        Ok(Audit { policy, log })
    }

    /// Whether nothing is recorded at all.
    fn is_off(&self) -> bool {
        self.log.is_none()
    }

    /// Begins the record of a request that came over HTTP, if there is to be one. `user`: as
    /// whom it is served.
    pub async fn begin(self: &Arc<Self>, user: &User, info: &RequestInfo, parts: &Parts) -> Option<Arc<Record>> {
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
    pub async fn begin_local(self: &Arc<Self>, user: &User, info: &RequestInfo) -> Option<Arc<Record>> {
        let (level, omit) = self.asks(user, info)?;
        let mut source = Source::new(user, info, new_id(), &info.path);
        source.user_agent = own_agent();
        Some(self.record(level, omit, source).await)
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
        (level != Level::None).then_some((level, omit))
    }

    /// Records that somebody could not say who they are, or may not be whom they want to be.
    pub async fn unidentified(self: &Arc<Self>, parts: &Parts, status: &Status) {
        let query = crate::request::Query::parse(parts.uri.query().unwrap_or_default());
        let info = RequestInfo::new(&parts.method, parts.uri.path(), &query);
        if let Some(record) = self.begin(&User::default(), &info, parts).await {
            let message = match status.code {
                401 => "Authentication failed, attempted: bearer".to_owned(),
                _ => status.message.clone(),
            };
            record.failed(&Status { message, ..status.clone() });
            record.complete(status.code);
        }
    }

    fn emit(&self, line: &[u8]) {
        if let Some(log) = &self.log {
            log.write(line);
        }
    }
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
