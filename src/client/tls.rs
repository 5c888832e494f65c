//! TLS as both ends of the cluster's connections use it: identities that are replaced while they
//! are in use, and verification against the cluster's own authorities.

use std::sync::{Arc, RwLock};

use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

/// A certificate, key or combination of settings that TLS cannot work with.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    what: &'static str,
    why: String,
}

fn bad(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Error {
    move |why| Error { what, why: why.to_string() }
}

/// The cryptography behind all TLS here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in a PEM text; it must hold at least one.
///
/// # Errors
/// When it is no PEM or holds none.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = bad("the certificate is not usable");
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|e| bad(&e))?;
    if all.is_empty() { Err(bad(&"there is none in the text")) } else { Ok(all) }
}

/// The roots that trust the authorities in a PEM text alone.
///
/// # Errors
/// When one of them cannot be trusted.
pub fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for c in certificates(pem)? {
        roots.add(c).map_err(|e| bad("the authority is not usable")(&e))?;
    }
    Ok(roots)
}

/// A certificate chain and its key, both PEM, ready for use.
///
/// # Errors
/// When they do not parse.
pub fn certified(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, Error> {
    let bad = bad("the private key is not usable");
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad(&e))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|e| bad(&e))?;
    Ok(Arc::new(CertifiedKey::new(certificates(chain_pem)?, key)))
}

/// A certificate that can be replaced while connections are served.
#[derive(Debug)]
pub struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    /// Starts with a leaf.
    pub fn new(key: Arc<CertifiedKey>) -> Arc<Current> {
        Arc::new(Current(RwLock::new(key)))
    }

    /// Replaces it; connections from now on see the new one.
    pub fn set(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = key;
    }

    fn get(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl rustls::server::ResolvesServerCert for Current {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl rustls::client::ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whom a connection trusts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Certificates of these authorities, for the name that is dialled.
    Roots(RootCertStore),
    /// Anybody: pods and services, whose certificates nobody vouches for (as upstream), and a
    /// server whose authority is about to be compared with a join token.
    Anyone,
}

/// TLS for connections to others.
///
/// # Errors
/// When the settings do not fit together.
pub fn client_config(
    trust: Trust,
    identity: Option<Arc<Current>>,
    alpn: &[&str],
) -> Result<Arc<rustls::ClientConfig>, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS cannot be set up")(&e))?;
    let builder = match trust {
        Trust::Roots(r) => builder.with_root_certificates(r),
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider()))),
    };
    let mut config = match identity {
        Some(i) => builder.with_client_cert_resolver(i),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Verifies client certificates of these authorities, when they are shown.
///
/// # Errors
/// When the authorities cannot verify anything.
pub fn client_verifier(clients: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad("TLS cannot be set up")(&e))
}

/// TLS for a listener that verifies client certificates of `clients` when they are shown.
///
/// # Errors
/// When the authorities cannot verify anything.
pub fn listener_config(clients: RootCertStore, serving: Arc<Current>) -> Result<Arc<rustls::ServerConfig>, Error> {
    let bad = bad("TLS cannot be set up");
    let verifier = client_verifier(clients)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
