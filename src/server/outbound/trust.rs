//! Whom a webhook's connection trusts: the authorities of its `caBundle`, or a certificate that
//! stands in the bundle itself. Those who sign their own make one that is also an authority
//! (`openssl req -x509` does), which is otherwise no certificate of a server.

use std::sync::Arc;

use client::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// See the module.
#[derive(Debug)]
struct Bundle {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

/// TLS towards webhooks whose certificates a bundle, in PEM, vouches for.
///
/// # Errors
/// When the bundle cannot be used.
pub(super) fn client_config(pem: &str, identity: Option<Arc<tls::Current>>) -> Result<rustls::ClientConfig, String> {
    let unusable = |e: &dyn std::fmt::Display| format!("unable to load root certificates: {e}");
    let certificates = tls::certificates(pem).map_err(|e| unusable(&e))?;
    let roots = Arc::new(tls::roots(pem).map_err(|e| unusable(&e))?);
    let authorities = WebPkiServerVerifier::builder_with_provider(roots, tls::provider()).build();
    let authorities = authorities.map_err(|e| unusable(&e))?;
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Bundle { authorities, certificates }));
    Ok(match identity {
        Some(i) => builder.with_client_cert_resolver(i),
        None => builder.with_no_client_auth(),
    })
}

/// Whether a certificate is in force.
fn in_force(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, c)| {
        let validity = c.validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
    })
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.authorities.verify_server_cert(shown, intermediates, name, ocsp, now);
        if verified.is_ok() || !self.certificates.contains(shown) || !in_force(shown, now) {
            return verified;
        }
        verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn own(name: &str, expired: bool) -> (String, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), certificate.der().clone())
    }

    fn accepts(pem: &str, shown: &CertificateDer<'_>, name: &str) -> bool {
        let certificates = tls::certificates(pem).unwrap();
        let roots = Arc::new(tls::roots(pem).unwrap());
        let authorities = WebPkiServerVerifier::builder_with_provider(roots, tls::provider()).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Bundle { authorities, certificates }.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_certificate_in_the_bundle_is_accepted_for_its_name_while_it_lasts() {
        let (pem, certificate) = own("hook.a.svc", false);
        assert!(accepts(&pem, &certificate, "hook.a.svc"));
        assert!(!accepts(&pem, &certificate, "other.a.svc"));
        let (other, _) = own("hook.a.svc", false);
        assert!(!accepts(&other, &certificate, "hook.a.svc"), "it is not in the bundle");
        let (pem, expired) = own("hook.a.svc", true);
        assert!(!accepts(&pem, &expired, "hook.a.svc"));
    }
}
