//! Certificate authorities, the server's own leaves and the service account key.
//!
//! Files under `<data>/server/tls`, private keys with mode 0600: `server-ca`, `client-ca`,
//! `kubelet-ca`, `request-header-ca` (each `.crt` and `.key`), `service.key`. Kubelets have an
//! authority of their own, so that no node can pass for an API server.
//! Leaves live in memory: they are made at every start and renewed by a restart of nothing –
//! the TLS configuration reads them through a resolver that [`Pki::renew`] feeds.

mod signing;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::private_file;
use client::tls::{self, Current, Trust};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

/// How long a leaf lives.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a CA lives.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of joining machines may be a little behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A file does not hold what it should.
    #[error("{} is not usable: {what}. Restore it from a backup, or remove the whole tls directory to start with new authorities (every node must then join again)", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate for {subject}: {what}")]
    Issue {
        /// For whom.
        subject: String,
        /// What is wrong.
        what: String,
    },
    /// TLS cannot be set up with them.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// A certificate authority.
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate with its key, both PEM. The certificate is followed by its CA's.
#[derive(Clone)]
pub struct Leaf {
    /// Certificate chain.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaf")
    }
}

/// Whether a leaf proves a server or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// `serverAuth`
    Server,
    /// `clientAuth`
    Client,
}

fn not_before_after(lifetime: Duration) -> (rcgen_time::OffsetDateTime, rcgen_time::OffsetDateTime) {
    let now = rcgen_time::OffsetDateTime::now_utc();
    (now - CLOCK_SKEW, now + lifetime)
}

use time as rcgen_time;

impl Authority {
    /// Loads an authority, or makes it when neither of its files exists.
    ///
    /// # Errors
    /// A file that cannot be read, written or understood.
    pub fn load_or_create(directory: &Path, name: &str) -> Result<Authority, Error> {
        let (crt, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        let (pem, key_pem) = match (private_file::read(&crt)?, private_file::read(&key)?) {
            (Some(c), Some(k)) => (c, k),
            (None, None) => {
                let (c, k) = Self::make(name)?;
                private_file::write(&key, &k)?;
                private_file::write(&crt, &c)?;
                (c, k)
            }
            (c, _) => {
                let path = if c.is_none() { crt } else { key };
                return Err(Error::Bad { path, what: "it is missing although its counterpart exists".into() });
            }
        };
        let pair = KeyPair::from_pem(&key_pem).map_err(|e| Error::Bad { path: key, what: e.to_string() })?;
        let issuer = Issuer::from_ca_cert_pem(&pem, pair).map_err(|e| Error::Bad { path: crt, what: e.to_string() })?;
        Ok(Authority { certificate_pem: pem, issuer })
    }

    fn make(name: &str) -> Result<(String, String), Error> {
        let failed = |e: rcgen::Error| Error::Issue { subject: name.into(), what: e.to_string() };
        let key = KeyPair::generate().map_err(failed)?;
        let mut p = CertificateParams::default();
        p.distinguished_name = DistinguishedName::new();
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        p.distinguished_name.push(DnType::CommonName, format!("sampan-{name}@{stamp}"));
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        (p.not_before, p.not_after) = not_before_after(CA_LIFETIME);
        let cert = p.self_signed(&key).map_err(failed)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    /// Issues a leaf with a new key.
    ///
    /// # Errors
    /// [`Error::Issue`], such as for a name that is no DNS name.
    pub fn issue(&self, common_name: &str, group: Option<&str>, usage: Usage, names: &[String]) -> Result<Leaf, Error> {
        let key = KeyPair::generate().map_err(|e| Error::Issue { subject: common_name.into(), what: e.to_string() })?;
        let certificate_pem = self.sign(common_name, group, usage, names, &key)?;
        Ok(Leaf { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// Signs a leaf for a public key; the chain's PEM.
    ///
    /// # Errors
    /// [`Error::Issue`].
    pub fn sign(
        &self,
        common_name: &str,
        group: Option<&str>,
        usage: Usage,
        names: &[String],
        key: &impl rcgen::PublicKeyData,
    ) -> Result<String, Error> {
        let failed = |e: rcgen::Error| Error::Issue { subject: common_name.into(), what: e.to_string() };
        let mut p = CertificateParams::default();
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, common_name);
        if let Some(g) = group {
            p.distinguished_name.push(DnType::OrganizationName, g);
        }
        for n in names {
            p.subject_alt_names.push(match n.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(n.as_str().try_into().map_err(failed)?),
            });
        }
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        p.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        p.use_authority_key_identifier_extension = true;
        (p.not_before, p.not_after) = not_before_after(LEAF_LIFETIME);
        let cert = p.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(format!("{}{}", cert.pem(), self.certificate_pem))
    }

    /// Signs the public key of a PKCS#10 request, whatever subject it asks for: the caller
    /// decides who the requester is.
    ///
    /// # Errors
    /// [`Error::Issue`] for a request that does not parse or is not signed by its own key.
    pub fn sign_request(
        &self,
        request_pem: &str,
        common_name: &str,
        group: Option<&str>,
        usage: Usage,
        names: &[String],
    ) -> Result<String, Error> {
        let request = rcgen::CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|e| Error::Issue { subject: common_name.into(), what: format!("the signing request: {e}") })?;
        self.sign(common_name, group, usage, names, &request.public_key)
    }

    /// The roots that trust this authority alone.
    ///
    /// # Errors
    /// When the certificate does not parse.
    pub fn roots(&self) -> Result<RootCertStore, Error> {
        Ok(tls::roots(&self.certificate_pem)?)
    }
}

impl Leaf {
    /// Chain and key for rustls.
    ///
    /// # Errors
    /// When they do not parse or do not belong together.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, Error> {
        Ok(tls::certified(&self.certificate_pem, &self.key_pem)?)
    }
}

/// Everything the server signs and proves with.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    /// Signs the API servers' certificates.
    pub server_ca: Authority,
    /// Signs the kubelets' serving certificates.
    pub kubelet_ca: Authority,
    /// Signs client certificates.
    pub client_ca: Authority,
    /// Signs the front proxy's client certificate.
    pub request_header_ca: Authority,
    /// PKCS#8 PEM of the key that signs service account tokens (ECDSA P-256).
    pub service_key_pem: String,
    serving: Arc<Current>,
    kubelet_client: Arc<Current>,
    front_proxy: Arc<Current>,
    clients: Arc<dyn ClientCertVerifier>,
    kubelet_tls: Arc<rustls::ClientConfig>,
    insecure_tls: Arc<rustls::ClientConfig>,
    names: Vec<String>,
}

/// The user that the API server is towards kubelets.
pub const KUBELET_CLIENT: &str = "system:kube-apiserver";
/// The name that the API server proves to aggregated servers, which take users from its headers.
pub const FRONT_PROXY: &str = "system:auth-proxy";

impl Pki {
    /// Loads what is under `directory`, makes what is missing. `names` are the DNS names and
    /// addresses of the serving certificate.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load_or_create(directory: &Path, names: &[String]) -> Result<Pki, Error> {
        let server_ca = Authority::load_or_create(directory, "server-ca")?;
        let kubelet_ca = Authority::load_or_create(directory, "kubelet-ca")?;
        let client_ca = Authority::load_or_create(directory, "client-ca")?;
        let request_header_ca = Authority::load_or_create(directory, "request-header-ca")?;
        let path = directory.join("service.key");
        let service_key_pem = match private_file::read(&path)? {
            Some(k) => k,
            None => {
                let k = KeyPair::generate()
                    .map_err(|e| Error::Issue { subject: "service accounts".into(), what: e.to_string() })?
                    .serialize_pem();
                private_file::write(&path, &k)?;
                k
            }
        };
        let serving = Current::new(server_ca.issue("kube-apiserver", None, Usage::Server, names)?.certified()?);
        let kubelet_client =
            Current::new(client_ca.issue(KUBELET_CLIENT, Some("system:masters"), Usage::Client, &[])?.certified()?);
        let front_proxy = Current::new(request_header_ca.issue(FRONT_PROXY, None, Usage::Client, &[])?.certified()?);
        let clients = tls::client_verifier(client_ca.roots()?)?;
        let http1 = ["http/1.1"];
        let kubelet_tls = tls::client_config(Trust::Roots(kubelet_ca.roots()?), Some(kubelet_client.clone()), &http1)?;
        let insecure_tls = tls::client_config(Trust::Anyone, None, &http1)?;
        Ok(Pki {
            directory: directory.to_owned(),
            server_ca,
            kubelet_ca,
            client_ca,
            request_header_ca,
            service_key_pem,
            serving,
            kubelet_client,
            front_proxy,
            clients,
            kubelet_tls,
            insecure_tls,
            names: names.to_vec(),
        })
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes new leaves for the server itself; connections from now on see them.
    ///
    /// # Errors
    /// [`Error::Issue`].
    pub fn renew(&self) -> Result<(), Error> {
        self.serving.set(self.server_ca.issue("kube-apiserver", None, Usage::Server, &self.names)?.certified()?);
        let leaf = self.client_ca.issue(KUBELET_CLIENT, Some("system:masters"), Usage::Client, &[])?;
        self.kubelet_client.set(leaf.certified()?);
        self.front_proxy.set(self.request_header_ca.issue(FRONT_PROXY, None, Usage::Client, &[])?.certified()?);
        Ok(())
    }

    /// Whether the authority of clients, and not that of the front proxy, vouches for a chain.
    pub fn vouches_for_client(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, others)) = chain.split_first() else { return false };
        self.clients.verify_client_cert(leaf, others, UnixTime::now()).is_ok()
    }

    /// TLS for the listener: client certificates are asked for, not required; those of clients and
    /// of the front proxy are good.
    ///
    /// # Errors
    /// When the client CA cannot verify anything.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, Error> {
        let mut shown_by = self.client_ca.roots()?;
        shown_by.extend(self.request_header_ca.roots()?.roots);
        Ok(tls::listener_config(shown_by, self.serving.clone())?)
    }

    /// TLS towards kubelets.
    pub fn kubelet_client(&self) -> Arc<rustls::ClientConfig> {
        self.kubelet_tls.clone()
    }

    /// The identity of the front proxy, of the request-header authority: for TLS towards aggregated
    /// API servers. It stays current.
    pub fn front_proxy(&self) -> Arc<Current> {
        self.front_proxy.clone()
    }

    /// TLS towards targets that are not verified.
    pub fn insecure_client(&self) -> Arc<rustls::ClientConfig> {
        self.insecure_tls.clone()
    }

    /// SHA-256 of the server CA's certificate, hexadecimal: what a join token pins.
    ///
    /// # Errors
    /// When there is no certificate in the file.
    pub fn ca_hash(&self) -> Result<String, Error> {
        Ok(client::join::ca_hash(&self.server_ca.certificate_pem)?)
    }

    /// The time at which the leaves should be renewed, from when they were made.
    pub fn renew_after() -> Duration {
        LEAF_LIFETIME * 2 / 3
    }
}

#[cfg(test)]
mod fuzz_tests;
