//! Client certificates: the common name is the user, the organizations are the groups.

use api::Status;
use async_trait::async_trait;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authenticator, Peer};
use crate::request::User;

/// Reads the certificate that the TLS handshake has verified.
#[derive(Debug)]
pub struct ClientCertificate;

#[async_trait]
impl Authenticator for ClientCertificate {
    async fn authenticate(&self, parts: &http::request::Parts) -> Result<Option<User>, Status> {
        let Some(peer) = parts.extensions.get::<Peer>() else { return Ok(None) };
        let Some(leaf) = peer.certificates.first() else { return Ok(None) };
        Ok(Some(user_of(leaf)?))
    }
}

/// The user that a certificate names.
///
/// # Errors
/// 401 when it has no common name, does not parse, or is out of its time: a long connection
/// must not outlive its certificate.
pub fn user_of(der: &[u8]) -> Result<User, Status> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| Status::unauthorized())?;
    if !cert.validity().is_valid() {
        return Err(Status::unauthorized());
    }
    let subject = cert.subject();
    let name = subject.iter_common_name().next().and_then(|a| a.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::unauthorized());
    }
    let groups: Vec<&str> = subject.iter_organization().filter_map(|a| a.as_str().ok()).collect();
    Ok(User::authenticated(name, &groups))
}
