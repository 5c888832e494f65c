//! Client certificates: the common name is the user, the organizations are the groups.

use rustls_pki_types::CertificateDer;
use sha2::Digest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::Pki;
use crate::request::User;

/// Where a subject may carry a UID.
const UID: &str = "1.3.6.1.4.1.57683.2";
/// Which credential a user came with.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Who vouches for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VouchedBy {
    /// The authority of clients.
    Clients,
    /// The authority of the front proxy.
    RequestHeader,
}

/// A certificate that a peer has shown and proved to have the key of; read once a connection.
#[derive(Debug)]
pub struct Shown {
    by: VouchedBy,
    user: User,
    not_before: i64,
    not_after: i64,
}

impl Shown {
    /// Reads a chain, leaf first, that the handshake has verified; `None` when it cannot be read.
    pub fn read(pki: &Pki, chain: &[CertificateDer<'_>]) -> Option<Shown> {
        let leaf = chain.first()?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let by = if pki.vouches_for_client(chain) { VouchedBy::Clients } else { VouchedBy::RequestHeader };
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Some(Shown { by, user: user_of(&certificate, leaf), not_before, not_after })
    }

    /// Who vouches for it.
    pub fn by(&self) -> VouchedBy {
        self.by
    }

    /// The common name.
    pub fn common_name(&self) -> &str {
        &self.user.name
    }

    /// Whether it is out of its time: a long connection must not outlive its certificate.
    ///
    /// # Errors
    /// When it is.
    pub fn in_force(&self) -> Result<(), String> {
        let now = jiff::Timestamp::now().as_second();
        let fits = (self.not_before..=self.not_after).contains(&now);
        if fits { Ok(()) } else { Err("x509: certificate has expired or is not yet valid".to_owned()) }
    }

    /// The user that it names.
    ///
    /// # Errors
    /// When it is out of its time, names nobody, or is no client's.
    pub fn user(&self) -> Result<User, String> {
        if self.by != VouchedBy::Clients {
            return Err("x509: certificate signed by unknown authority".to_owned());
        }
        self.in_force()?;
        if self.user.name.is_empty() {
            return Err("x509: the certificate has no common name".to_owned());
        }
        Ok(self.user.clone())
    }
}

fn user_of(certificate: &X509Certificate<'_>, der: &[u8]) -> User {
    let subject = certificate.subject();
    let texts = |of: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
        of.into_iter().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect()
    };
    let uid = subject.iter_attributes().filter(|a| a.attr_type().to_id_string() == UID).collect();
    let id = format!("X509SHA256={}", client::join::hex(&sha2::Sha256::digest(der)));
    User {
        name: texts(subject.iter_common_name().collect()).pop().unwrap_or_default(),
        uid: texts(uid).pop().unwrap_or_default(),
        groups: texts(subject.iter_organization().collect()),
        extra: [(CREDENTIAL_ID.to_owned(), vec![id])].into(),
    }
}

#[cfg(test)]
mod tests {
    use client::tls;

    use super::*;
    use crate::pki::{FRONT_PROXY, Usage};

    #[test]
    fn a_certificate_names_a_user_if_the_authority_of_clients_signed_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &["localhost".to_owned()]).unwrap();
        let shown = |authority: &crate::pki::Authority, name: &str| {
            let leaf = authority.issue(name, Some("team"), Usage::Client, &[]).unwrap();
            Shown::read(&pki, &tls::certificates(&leaf.certificate_pem).unwrap()).unwrap()
        };
        let user = shown(&pki.client_ca, "ann").user().unwrap();
        assert_eq!((user.name.as_str(), &user.groups[..]), ("ann", &["team".to_owned()][..]));
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        let proxy = shown(&pki.request_header_ca, FRONT_PROXY);
        assert_eq!((proxy.by(), proxy.common_name()), (VouchedBy::RequestHeader, FRONT_PROXY));
        assert!(proxy.user().unwrap_err().contains("unknown authority"), "it is no user");
        assert!(shown(&pki.client_ca, "").user().is_err());
    }
}
