//! Authentication: who makes a request.
//!
//! The ways, in order: [`front_proxy`] – headers of the front proxy; [`x509`] – client
//! certificates; [`bearer`] – tokens, of which [`tokens`] are service accounts' and [`join_tokens`]
//! joining machines', [`jwt`] those of OpenID Connect issuers, and [`webhook`] asks a service. The first that knows somebody decides. Who shows something that nobody knows
//! is refused; who shows nothing is anonymous. [`impersonation`] – somebody acts as somebody else.

pub mod bearer;
pub mod configuration;
pub mod front_proxy;
pub mod impersonation;
pub mod join_tokens;
pub mod jwt;
pub mod tokens;
pub mod webhook;
pub mod x509;

use std::path::PathBuf;
use std::sync::Arc;

use api::Status;
use arc_swap::ArcSwap;
use http::request::Parts;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::configuration::Configuration;
use crate::request::User;
use crate::{Config, Server, reloaded};

/// How callers are known, beside certificates and service accounts.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// An `AuthenticationConfiguration`, which is followed.
    pub file: Option<PathBuf>,
    /// The text of one, where there is no file.
    pub text: Option<String>,
    /// A service that knows tokens.
    pub webhook: Option<webhook::Settings>,
}

/// What [`Settings`] become.
pub(crate) struct Authentication {
    configuration: ArcSwap<Configuration>,
    /// As it was read.
    text: String,
    webhook: Option<webhook::Webhook>,
}

impl Authentication {
    /// # Errors
    /// A file that cannot be read, or whose contents are wrong.
    pub(crate) fn new(config: &Config) -> Result<Authentication, Status> {
        let settings = &config.authentication;
        let webhook = settings.webhook.as_ref().map(webhook::Webhook::new).transpose()?;
        let given = reloaded::given(settings.file.as_deref(), settings.text.as_deref(), "authentication")?;
        let Some((text, source)) = given else {
            return Ok(Authentication { configuration: ArcSwap::default(), text: String::new(), webhook });
        };
        let wrong = |e| Status::internal_plain(format!("{source} cannot be used: {e}"));
        let configuration = Configuration::parse(&text, &config.issuer).map_err(wrong)?;
        Ok(Authentication { configuration: ArcSwap::from_pointee(configuration), text, webhook })
    }

    /// What is in force now.
    pub(crate) fn current(&self) -> Arc<Configuration> {
        self.configuration.load_full()
    }
}

/// Follows the configuration file, if there is one.
///
/// # Errors
/// When it cannot be watched.
pub(crate) fn follow(server: &Arc<Server>, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<(), Status> {
    let Some(path) = server.config().authentication.file.clone() else { return Ok(()) };
    let (known, weak) = (server.authentication().text.clone(), Arc::downgrade(server));
    reloaded::follow(path, known, tasks, cancel, move |text| {
        let Some(server) = weak.upgrade() else { return Ok(()) };
        let configuration = Configuration::parse(text, &server.config().issuer)?;
        server.authentication().configuration.store(Arc::new(configuration));
        Ok(())
    })
}

/// The other end of a connection, placed in the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The client certificate that the TLS handshake proved.
    pub certificate: Option<Arc<x509::Shown>>,
    /// The remote address.
    pub address: Option<std::net::SocketAddr>,
}

/// That a token was shown that is good for nobody, placed in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedToken;

impl Server {
    /// Who makes a request, or whom they act as. What was shown for it is taken off the request.
    ///
    /// # Errors
    /// 401; 403 for those who may not act as somebody else.
    pub async fn identify(self: &Arc<Self>, parts: &mut Parts) -> Result<User, Status> {
        let user = self.authenticated(parts).await?;
        impersonation::apply(self, user, parts).await
    }

    async fn authenticated(self: &Arc<Self>, parts: &mut Parts) -> Result<User, Status> {
        let mut errors = Vec::new();
        let shown = parts.extensions.get::<Peer>().and_then(|p| p.certificate.clone());
        let by_certificate = shown.map(|c| match front_proxy::user_of(&c, &mut parts.headers) {
            Ok(None) => c.user().map(Some),
            known => known,
        });
        match by_certificate {
            Some(Ok(Some(user))) => return Ok(with_everybody(user)),
            Some(Ok(None)) | None => {}
            Some(Err(e)) => errors.push(e),
        }
        match bearer::take(&mut parts.headers) {
            Ok(None) => {}
            Ok(Some(token)) => match bearer::authenticate(self, &token, &self.own_audiences()).await {
                Ok(identity) => return Ok(with_everybody(identity.user)),
                Err(e) => {
                    parts.extensions.insert(RefusedToken);
                    errors.push(e);
                }
            },
            Err(e) => errors.push(e),
        }
        if errors.is_empty() {
            if self.authentication().current().anonymous.allows(parts.uri.path()) {
                return Ok(User::anonymous());
            }
            return Err(Status::unauthorized());
        }
        tracing::debug!(error = aggregate(&errors), "a request was not authenticated");
        Err(Status::unauthorized())
    }

    /// The audiences that a token must be for, to be good for this API.
    pub fn own_audiences(&self) -> Vec<String> {
        vec![self.config().issuer.clone()]
    }
}

/// Adds the group of all who are known, unless the groups say whether they are.
fn with_everybody(mut user: User) -> User {
    let said = ["system:authenticated", "system:unauthenticated"];
    if user.name != "system:anonymous" && !said.iter().any(|g| user.in_group(g)) {
        user.groups.push(said[0].to_owned());
    }
    user
}

#[cfg(test)]
mod tests;

/// Several errors as upstream tells them.
pub(crate) fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}
