//! What a machine that joins and a server say to each other.
//!
//! 1. The agent reads the server's authority at [`CA_PATH`], trusting nobody yet, and compares it
//!    with the hash in its [`JoinToken`].
//! 2. It posts a [`JoinRequest`] with two signing requests to [`JOIN_PATH`], trusting that
//!    authority, with the token's `id.secret` as the bearer.
//! 3. It keeps the certificates of the [`JoinResponse`], and renews them at the same path, then as
//!    the node that it is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::tls;

/// The PEM of the authority that signs servers' certificates; anybody may read it.
pub const CA_PATH: &str = "/cacerts";
/// Where signing requests are posted.
pub const JOIN_PATH: &str = "/v1-sampan/join";
/// The group of those who may join.
pub const JOINERS: &str = "system:bootstrappers:sampan:default-node-token";
/// The id of the secret that servers share.
pub const SERVER: &str = "server";
/// The id of the secret that agents join with.
pub const AGENT: &str = "agent";
const PREFIX: &str = "K10";

/// `K10<sha256 of the CA>::<id>:<secret>`, as k3s writes it. Without the part up to `::` the
/// server's authority is not checked; a secret alone is the one that all machines were given, and
/// `<id>.<secret>` is kubeadm's spelling.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA certificate, lower-case hexadecimal.
    pub ca_hash: Option<String>,
    /// Such as `server`, or six characters of a token with an end.
    pub id: String,
    /// The secret.
    pub secret: String,
}

/// Text that is no join token.
#[derive(Debug, thiserror::Error)]
#[error("this is not a join token: {0}. Take one from `sampan token create --print-join-command` on the server")]
pub struct BadToken(&'static str);

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<JoinToken, BadToken> {
        let text = text.trim();
        let (ca_hash, rest) = match text.strip_prefix(PREFIX).and_then(|t| t.split_once("::")) {
            Some((hash, rest)) => {
                if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(BadToken("between K10 and :: there must be 64 hexadecimal digits"));
                }
                (Some(hash.to_ascii_lowercase()), rest)
            }
            None => (None, text),
        };
        let (id, secret) = match (rest.split_once(':'), rest.split_once('.')) {
            (Some(parts), _) => parts,
            (None, Some(parts)) if is_bootstrap_token(parts.0, parts.1) => parts,
            _ => (AGENT, rest),
        };
        if id.is_empty() || secret.is_empty() {
            return Err(BadToken("its id or its secret is empty"));
        }
        if !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadToken("it has blanks or characters beyond ASCII"));
        }
        Ok(JoinToken { ca_hash, id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(h) = &self.ca_hash {
            write!(f, "{PREFIX}{h}::")?;
        }
        write!(f, "{}:{}", self.id, self.secret)
    }
}

/// Whether an id and a secret have the form of upstream's bootstrap tokens.
pub fn is_bootstrap_token(id: &str, secret: &str) -> bool {
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)
}

/// The secret stays out of logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl JoinToken {
    /// What the server sees as `Authorization: Bearer …`.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// SHA-256 of the first certificate in a PEM, lower-case hexadecimal: what a token pins.
///
/// # Errors
/// When there is no certificate in the text.
pub fn ca_hash(pem: &str) -> Result<String, tls::Error> {
    Ok(hex(&sha2::Sha256::digest(&tls::certificates(pem)?[0])))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a machine asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The name of its Node.
    pub node_name: String,
    /// What proves in later requests that it is the same machine: a secret of its own making.
    pub node_password: String,
    /// Its addresses, for the kubelet's certificate.
    pub addresses: Vec<IpAddr>,
    /// PKCS#10 PEM for the client certificate.
    pub client_request: String,
    /// PKCS#10 PEM for the kubelet's certificate.
    pub serving_request: String,
}

/// What it gets. Certificates are PEM, the leaf first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinResponse {
    /// For `system:node:<name>`.
    pub client_certificate: String,
    /// For the kubelet's listener.
    pub serving_certificate: String,
    /// Signs clients of the kubelet.
    pub client_ca: String,
    /// The cluster it is in now.
    pub cluster: ClusterSettings,
}

/// What every node of a cluster must know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSettings {
    /// Addresses of pods.
    pub cluster_cidr: IpNet,
    /// Addresses of services.
    pub service_cidr: IpNet,
    /// The DNS domain.
    pub cluster_domain: String,
    /// The common name under which API servers call kubelets.
    pub kubelet_client: String,
    /// The servers, as `https://host:port`.
    pub servers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_all_their_spellings() {
        let hash = "ab".repeat(32);
        let full: JoinToken = format!(" K10{hash}::server:s3cret\n").parse().unwrap();
        assert_eq!(
            (full.ca_hash.as_deref(), full.id.as_str(), full.secret.as_str()),
            (Some(&*hash), "server", "s3cret")
        );
        assert_eq!(full.to_string(), format!("K10{hash}::server:s3cret"));
        let short: JoinToken = "abcdef.0123456789abcdef".parse().unwrap();
        assert_eq!((short.ca_hash.as_deref(), short.bearer().as_str()), (None, "abcdef.0123456789abcdef"));
        let bare: JoinToken = "my.pass phrase".replace(' ', "-").parse().unwrap();
        assert_eq!((bare.id.as_str(), bare.secret.as_str()), (AGENT, "my.pass-phrase"));
        assert!(!format!("{full:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_no_token_says_why() {
        for (text, why) in [("", "empty"), ("K10abc::a:b", "64 hexadecimal"), ("a:", "empty"), ("a:b c", "blanks")] {
            let e = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(e.contains(why) && e.contains("sampan token create"), "{text:?}: {e}");
        }
    }
}
