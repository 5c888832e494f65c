//! Certificates for those who ask: subject, key and alternative names as in a PKCS#10 request,
//! usages and lifetime as the caller decides (upstream: `pkg/controller/certificates/authority`).
//!
//! The certificate is written here, not by rcgen: that one keeps a single value of each kind in a
//! subject, but every organization of a client's subject is a group.

use std::time::Duration;

use rcgen::{CertificateParams, SigningKey};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, DERWriterSeq, Tag};

use super::{Authority, Error};

/// How far a certificate reaches into the past: clocks differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A certificate that is shorter than this does not lose the backdate at its end.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Usages by the bit that stands for them.
const KEY_USAGES: [(&str, u8); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Usages by their object identifiers, in the order in which they are written.
const EXTENDED_USAGES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];

impl Authority {
    /// Signs what a request in PEM asks for. Gives the certificate alone, in PEM.
    ///
    /// # Errors
    /// [`Error::Issue`] for a request that does not parse, a usage that is none, and when the
    /// authority has expired.
    pub fn sign_as_requested(
        &self,
        request_pem: &[u8],
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, Error> {
        self.signed(request_pem, usages, lifetime, OffsetDateTime::now_utc())
            .map_err(|what| Error::Issue { subject: "a certificate signing request".into(), what })
    }

    fn signed(
        &self,
        request_pem: &[u8],
        usages: &[String],
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<String, String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let block =
            |pem: &[u8]| Pem::iter_from_buffer(pem).next().ok_or("there is no PEM block")?.map_err(|e| told(&e));
        let request = block(request_pem)?;
        let (_, request) = X509CertificationRequest::from_der(&request.contents).map_err(|e| told(&e))?;
        let own = block(self.certificate_pem.as_bytes())?;
        let (_, own) = X509Certificate::from_der(&own.contents).map_err(|e| told(&e))?;
        let (from, until) = validity(now, lifetime, own.validity().not_after.to_datetime())?;
        let (key_usages, extended) = usages_of(usages)?;
        let names = names_of(&request);
        let algorithm = self.signature_algorithm()?;
        let info = &request.certification_request_info;
        let no_subject = info.subject.iter_rdn().next().is_none();
        let mut serial: [u8; 16] = rand::random();
        serial[0] &= 0x7f;
        let signed_part = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
                w.next().write_bigint_bytes(&serial, true);
                w.next().write_der(&algorithm);
                w.next().write_der(own.subject().as_raw());
                w.next().write_sequence(|w| {
                    write_time(w.next(), from);
                    write_time(w.next(), until);
                });
                w.next().write_der(info.subject.as_raw());
                w.next().write_der(info.subject_pki.raw);
                w.next().write_tagged(Tag::context(3), |w| {
                    w.write_sequence(|w| {
                        write_key_usage(w, key_usages);
                        if !extended.is_empty() {
                            extension(w, EXTENDED_KEY_USAGE, false, |w| {
                                w.write_sequence(|w| extended.iter().for_each(|o| w.next().write_oid(&oid(o))));
                            });
                        }
                        // No authority: an empty sequence.
                        extension(w, BASIC_CONSTRAINTS, true, |w| w.write_sequence(|_| {}));
                        write_authority_key(w, &own);
                        if !names.is_empty() {
                            extension(w, ALTERNATIVE_NAMES, no_subject, |w| write_names(w, &names));
                        }
                    });
                });
            });
        });
        let signature = self.issuer.key().sign(&signed_part).map_err(|e| told(&e))?;
        let certificate = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&signed_part);
                w.next().write_der(&algorithm);
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(in_pem(&certificate))
    }

    /// How the key signs, as DER. rcgen does not tell, but writes it into a request of its own.
    fn signature_algorithm(&self) -> Result<Vec<u8>, String> {
        let own = CertificateParams::default().serialize_request(self.issuer.key()).map_err(|e| e.to_string())?;
        let read = yasna::parse_der(own.der(), |r| {
            r.read_sequence(|r| {
                r.next().read_der()?;
                let algorithm = r.next().read_der()?;
                r.next().read_der()?;
                Ok(algorithm)
            })
        });
        read.map_err(|e| e.to_string())
    }
}

fn validity(
    now: OffsetDateTime,
    lifetime: Duration,
    end: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), String> {
    if now >= end {
        return Err(format!("refusing to sign a certificate that expired in the past: NotAfter={end}"));
    }
    let until = if lifetime < SHORT { now + lifetime } else { now + lifetime - BACKDATE };
    Ok((now - BACKDATE, until.min(end)))
}

fn usages_of(usages: &[String]) -> Result<(u16, Vec<&'static [u64]>), String> {
    let mut bits = 0;
    let known = |u: &str| KEY_USAGES.iter().any(|k| k.0 == u) || EXTENDED_USAGES.iter().any(|k| k.0 == u);
    let unknown: Vec<&str> = usages.iter().map(String::as_str).filter(|u| !known(u)).collect();
    if !unknown.is_empty() {
        return Err(format!("unrecognized usage values: {unknown:?}"));
    }
    for (_, bit) in KEY_USAGES.iter().filter(|k| usages.iter().any(|u| u == k.0)) {
        bits |= 0x8000 >> bit;
    }
    let mut extended: Vec<&[u64]> =
        EXTENDED_USAGES.iter().filter(|k| usages.iter().any(|u| u == k.0)).map(|k| k.1).collect();
    extended.dedup();
    Ok((bits, extended))
}

/// The alternative names that certificates of Kubernetes have.
fn names_of<'r>(request: &'r X509CertificationRequest<'_>) -> Vec<GeneralName<'r>> {
    let names = request.requested_extensions().into_iter().flatten().filter_map(|e| match e {
        ParsedExtension::SubjectAlternativeName(s) => Some(&s.general_names),
        _ => None,
    });
    let kept = |n: &&GeneralName<'_>| {
        matches!(
            n,
            GeneralName::DNSName(_) | GeneralName::RFC822Name(_) | GeneralName::URI(_) | GeneralName::IPAddress(_)
        )
    };
    names.flatten().filter(kept).cloned().collect()
}

fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

fn write_time(w: DERWriter<'_>, time: OffsetDateTime) {
    // To whole seconds, and in the form that its year asks for.
    let time = time.replace_nanosecond(0).unwrap_or(time);
    if (1950..2050).contains(&time.year()) {
        w.write_utctime(&UTCTime::from_datetime(time));
    } else {
        w.write_generalized_time(&GeneralizedTime::from_datetime(time));
    }
}

fn extension(w: &mut DERWriterSeq<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    w.next().write_sequence(|w| {
        w.next().write_oid(&oid(id));
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(&yasna::construct_der(value));
    });
}

fn write_key_usage(w: &mut DERWriterSeq<'_>, bits: u16) {
    if bits != 0 {
        let length = 16 - bits.trailing_zeros() as usize;
        extension(w, KEY_USAGE, true, |w| w.write_bitvec_bytes(&bits.to_be_bytes()[..length.div_ceil(8)], length));
    }
}

fn write_authority_key(w: &mut DERWriterSeq<'_>, own: &X509Certificate<'_>) {
    let id = own.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    if let Some(id) = id {
        extension(w, AUTHORITY_KEY, false, |w| {
            w.write_sequence(|w| w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id)));
        });
    }
}

fn write_names(w: DERWriter<'_>, names: &[GeneralName<'_>]) {
    w.write_sequence(|w| {
        for name in names {
            let mut text = |tag, t: &str| w.next().write_tagged_implicit(Tag::context(tag), |w| w.write_ia5_string(t));
            match name {
                GeneralName::RFC822Name(t) => text(1, t),
                GeneralName::DNSName(t) => text(2, t),
                GeneralName::URI(t) => text(6, t),
                GeneralName::IPAddress(a) => {
                    w.next().write_tagged_implicit(Tag::context(7), |w| w.write_bytes(a));
                }
                _ => {}
            }
        }
    });
}

fn in_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|i| &text[i..text.len().min(i + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CustomExtension, DistinguishedName, DnType, KeyPair};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|u| (*u).to_owned()).collect()
    }

    fn request(common_name: &str, organization: &str, names: &[&str]) -> String {
        let mut p = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, common_name);
        p.distinguished_name.push(DnType::OrganizationName, organization);
        // A second organization, as rcgen can be made to write one.
        p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "second");
        p.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path(), "test-ca").unwrap();
        (dir, authority)
    }

    #[test]
    fn a_certificate_is_as_it_was_asked_for_and_verifies() {
        let (_dir, ca) = authority();
        let pem = request("ann", "first", &["a.example", "10.0.0.1"]);
        let wanted = usages(&["digital signature", "key encipherment", "client auth", "server auth"]);
        let made = ca.sign_as_requested(pem.as_bytes(), &wanted, DAY * 365).unwrap();
        let block = Pem::iter_from_buffer(made.as_bytes()).next().unwrap().unwrap();
        let (_, c) = X509Certificate::from_der(&block.contents).unwrap();
        let organizations: Vec<&str> = c.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
        assert_eq!(organizations, ["first", "second"]);
        let own = Pem::iter_from_buffer(ca.certificate_pem.as_bytes()).next().unwrap().unwrap();
        let (_, own) = X509Certificate::from_der(&own.contents).unwrap();
        c.verify_signature(Some(own.public_key())).unwrap();
        let usage = c.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
        assert!(!usage.value.key_cert_sign() && !c.is_ca());
        let extended = c.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.server_auth && !extended.any);
        let names = &c.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 2);
        let lived = c.validity().not_after.timestamp() - c.validity().not_before.timestamp();
        assert_eq!(lived, 365 * 24 * 3600);
        // As rustls sees it: a client that a server of this authority lets in.
        let roots = std::sync::Arc::new(ca.roots().unwrap());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, client::tls::provider());
        let shown = client::tls::certificates(&made).unwrap();
        let now = rustls_pki_types::UnixTime::now();
        verifier.build().unwrap().verify_client_cert(&shown[0], &[], now).unwrap();
    }

    #[test]
    fn a_short_life_is_as_long_as_asked_and_none_outlives_the_authority() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let (hour, far) = (Duration::from_secs(3600), now + DAY * 1000);
        assert_eq!(validity(now, hour, far).unwrap(), (now - BACKDATE, now + hour));
        assert_eq!(validity(now, DAY, far).unwrap(), (now - BACKDATE, now + DAY - BACKDATE));
        assert_eq!(validity(now, DAY, now + hour).unwrap().1, now + hour);
        assert!(validity(now, DAY, now).unwrap_err().contains("expired in the past"));
    }

    #[test]
    fn usages_are_known_and_what_else_is_asked_for_is_left_out() {
        assert!(usages_of(&usages(&["client auth", "magic"])).unwrap_err().contains("magic"));
        let (bits, extended) = usages_of(&usages(&["email protection", "s/mime", "decipher only"])).unwrap();
        assert_eq!((bits, extended.len()), (0x0080, 1));
        let (_dir, ca) = authority();
        let mut p = CertificateParams::new(Vec::new()).unwrap();
        p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
        let pem = p.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let made = ca.sign_as_requested(pem.as_bytes(), &usages(&["client auth"]), DAY).unwrap();
        let block = Pem::iter_from_buffer(made.as_bytes()).next().unwrap().unwrap();
        let (_, c) = X509Certificate::from_der(&block.contents).unwrap();
        assert!(c.extensions().iter().all(|e| e.oid.to_id_string() != "1.2.3.4"));
    }
}
