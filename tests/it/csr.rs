//! Certificates by signing request, as their users meet them: kubectl, and the certificate at work.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;

use crate::lab::{Cluster, eventually};

const CLIENT: [&str; 2] = ["digital signature", "client auth"];

/// A key, and the object that asks for its certificate.
fn request(name: &str, signer: &str, subject: (&str, &str), usages: &[&str]) -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, subject.0);
    p.distinguished_name.push(DnType::OrganizationName, subject.1);
    let pem = p.serialize_request(&key).unwrap().pem().unwrap();
    let spec = json!({"request": BASE64_STANDARD.encode(pem), "signerName": signer, "usages": usages,
        "expirationSeconds": 3600});
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name}, "spec": spec});
    (key, object.to_string())
}

/// Waits for the certificate and gives its PEM.
fn issued(c: &Cluster, name: &str) -> String {
    let mut found = String::new();
    eventually("the certificate is issued", || {
        found = c.field(&["csr", name], ".status.certificate");
        !found.is_empty()
    });
    String::from_utf8(BASE64_STANDARD.decode(found).unwrap()).unwrap()
}

#[test]
fn an_approved_request_becomes_a_client_of_the_cluster() {
    let c = Cluster::start();
    let signer = "kubernetes.io/kube-apiserver-client";
    let (key, object) = request("ann", signer, ("ann", "team"), &CLIENT);
    c.apply(&object);
    c.kubectl(&["certificate", "approve", "ann"]);
    let pem = issued(&c, "ann");
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 1, "the certificate alone");
    let table = c.kubectl(&["get", "csr"]);
    assert!(table.contains(signer) && table.contains("60m") && table.contains("Approved,Issued"), "{table}");
    let (crt, pk) = (c.directory().join("ann.crt"), c.directory().join("ann.key"));
    std::fs::write(&crt, pem).unwrap();
    std::fs::write(&pk, key.serialize_pem()).unwrap();
    c.kubectl(
        &["config", "set-credentials", "ann", "--client-certificate", crt.to_str().unwrap(), "--client-key"]
            .into_iter()
            .chain([pk.to_str().unwrap()])
            .collect::<Vec<_>>(),
    );
    let who = c.kubectl(&["--user=ann", "auth", "whoami", "-o", "json"]);
    let who: serde_json::Value = serde_json::from_str(&who).unwrap();
    assert_eq!(who["status"]["userInfo"]["username"], "ann");
    assert_eq!(who["status"]["userInfo"]["groups"], json!(["team", "system:authenticated"]));

    // One that nobody approved, one that was denied, and one for another's signer stay as they are.
    for (name, verb) in [("denied", "deny"), ("other", "approve")] {
        let signer = if name == "other" { "example.com/signer" } else { signer };
        c.apply(&request(name, signer, ("ann", "team"), &CLIENT).1);
        c.kubectl(&["certificate", verb, name]);
    }
    c.apply(&request("wrong", signer, ("ann", "team"), &["client auth", "server auth"]).1);
    c.kubectl(&["certificate", "approve", "wrong"]);
    let failed = r#".status.conditions[?(@.type=="Failed")]"#;
    eventually("the signer refuses", || !c.field(&["csr", "wrong"], failed).is_empty());
    assert_eq!(c.field(&["csr", "wrong"], &format!("{failed}.reason")), "SignerValidationFailure");
    let why = c.field(&["csr", "wrong"], &format!("{failed}.message"));
    assert_eq!(why, "invalid usage for client certificate: server auth");
    for name in ["denied", "other", "wrong"] {
        assert_eq!(c.field(&["csr", name], ".status.certificate"), "", "{name}");
    }
}

#[test]
fn a_node_renews_its_own_certificate_without_anybodys_help() {
    let c = Cluster::start();
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let node = ["--as=system:node:n1", "--as-group=system:nodes", "create", "-f", "-"];
    let (_, own) = request("own", signer, ("system:node:n1", "system:nodes"), &CLIENT);
    c.apply_with(&node, &own);
    issued(&c, "own");
    let reason = c.field(&["csr", "own"], ".status.conditions[0].reason");
    assert_eq!(reason, "AutoApproved");
    let (_, others) = request("others", signer, ("system:node:n2", "system:nodes"), &CLIENT);
    // NodeRestriction refuses it, before anybody could approve it.
    let said = c.refused(&node, &others);
    assert!(said.contains("can only create a node CSR with CN=system:node:n1"), "{said}");
}
