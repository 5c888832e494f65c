//! Certificate signing requests that nobody should send.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fuzzing::Decoder;
use rcgen::{CertificateParams, KeyPair};

use super::Pki;

#[test]
fn requests_are_signed_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(directory.path(), &["localhost".to_owned()]).unwrap();
    let names = vec!["a.b".to_owned(), "10.0.0.1".to_owned()];
    let made = CertificateParams::new(names).unwrap().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let usages = ["client auth".to_owned(), "digital signature".to_owned()];
    let sign = |pem: &[u8]| pki.client_ca.sign_as_requested(pem, &usages, Duration::from_secs(3600)).ok();
    assert!(sign(made.pem().unwrap().as_bytes()).is_some());
    let words = &[
        "-----BEGIN CERTIFICATE REQUEST-----\n",
        "-----END CERTIFICATE REQUEST-----\n",
        "-----",
        "\n",
        "MII",
        "=",
        "==",
        "BEGIN",
        ": ",
    ];
    Decoder::of([made.pem().unwrap()]).words(words).memory(16 << 20, 1_000).cases(128).run(sign);
    Decoder::of([made.der().to_vec()]).memory(16 << 20, 1_000).cases(128).run(|der| {
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            BASE64_STANDARD.encode(der)
        );
        sign(pem.as_bytes())
    });
    let deep = [0x30, 0x80].repeat(50_000);
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        BASE64_STANDARD.encode(deep)
    );
    assert!(sign(pem.as_bytes()).is_none());
}
