//! Who this machine is in its cluster: keys, certificates and what it was told when it joined
//! (the protocol is described in `client::join`).
//!
//! Kept in `<data>/agent/identity.json`, so that a restart needs neither token nor server. The
//! certificates are renewed at two thirds of their life and replaced while they are in use.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use client::https::{Https, Server};
use client::join::{CA_PATH, ClusterSettings, JOIN_PATH, JoinRequest, JoinResponse, JoinToken, ca_hash, hex};
use client::private_file;
use client::tls::{self, Current, Trust};
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Waits before a server that cannot be reached is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Longest time between two looks at the clock: a machine may sleep in between.
const LOOK: Duration = Duration::from_secs(12 * 3600);
/// Wait before a renewal that failed is tried again.
const RENEW_RETRY: Duration = Duration::from_secs(600);

/// Why this machine has no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has not joined, and was not told where.
    #[error(
        "this machine has not joined a cluster yet: give it --join <url> and --token <token>, as `sampan token create --print-join-command` prints them on the server"
    )]
    NotJoined,
    /// Its certificate has ended while it was away.
    #[error(
        "the certificate of this node has expired while it was away. Start it once more with --join and a new --token from `sampan token create --print-join-command`"
    )]
    Expired,
    /// The server is another one than the token names.
    #[error(
        "{url} is not the server that the token is for: its certificate authority has the hash {found}, the token names {wanted}. Take a new join command from the right server with `sampan token create --print-join-command`"
    )]
    WrongAuthority {
        /// The server.
        url: String,
        /// Its hash.
        found: String,
        /// The token's.
        wanted: String,
    },
    /// The server does not know the token.
    #[error(
        "{0} refused the token: it is wrong, was deleted or has expired. Make a new one on the server with `sampan token create --print-join-command`"
    )]
    TokenRefused(String),
    /// The server refused for another reason, or said something that makes no sense.
    #[error("{url} did not let this machine join: {why}")]
    Refused {
        /// The server.
        url: String,
        /// Its message.
        why: String,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The identity file is damaged.
    #[error("{} is damaged ({why}). Remove it and join again with --join and --token", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Keys or TLS.
    #[error("cannot make keys: {0}")]
    Keys(String),
}

/// How to join.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// A server.
    pub server: Server,
    /// The proof.
    pub token: JoinToken,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    node_name: String,
    addresses: Vec<IpAddr>,
    joined_at: String,
    server_ca: String,
    client_ca: String,
    client_certificate: String,
    client_key: String,
    serving_certificate: String,
    serving_key: String,
    cluster: ClusterSettings,
}

/// See the module.
pub struct Identity {
    path: PathBuf,
    addresses: Vec<IpAddr>,
    password: String,
    stored: Mutex<Stored>,
    client: Arc<Current>,
    serving: Arc<Current>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

fn keys(e: impl std::fmt::Display) -> Error {
    Error::Keys(e.to_string())
}

/// The secret by which the servers know this machine again.
fn node_password(path: &Path) -> Result<String, Error> {
    if let Some(p) = private_file::read(path)?.map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()) {
        return Ok(p);
    }
    let made = hex(&rand::random::<[u8; 16]>());
    private_file::write(path, &format!("{made}\n"))?;
    Ok(made)
}

/// When a certificate should be renewed and when it ends, in seconds since 1970.
fn lifetime(pem: &str) -> Result<(i64, i64), Error> {
    let first = tls::certificates(pem).map_err(keys)?;
    let (_, cert) = x509_parser::parse_x509_certificate(&first[0]).map_err(keys)?;
    let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    Ok((from + (to - from) * 2 / 3, to))
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Two new keys and the requests for their certificates.
struct Fresh {
    client_key: String,
    serving_key: String,
    request: JoinRequest,
}

impl Fresh {
    fn new(node_name: &str, node_password: &str, addresses: &[IpAddr]) -> Result<Fresh, Error> {
        let make = || -> Result<(String, String), rcgen::Error> {
            let key = KeyPair::generate()?;
            let request = CertificateParams::default().serialize_request(&key)?.pem()?;
            Ok((key.serialize_pem(), request))
        };
        let (client_key, client_request) = make().map_err(keys)?;
        let (serving_key, serving_request) = make().map_err(keys)?;
        let request = JoinRequest {
            node_name: node_name.to_owned(),
            node_password: node_password.to_owned(),
            addresses: addresses.to_vec(),
            client_request,
            serving_request,
        };
        Ok(Fresh { client_key, serving_key, request })
    }

    /// Asks a server for the certificates.
    async fn ask(self, https: &Https, server_ca: &str) -> Result<Stored, Status> {
        let body = serde_json::to_vec(&self.request).map_err(Status::internal)?;
        let answer = https.post(JOIN_PATH, body.into()).await?;
        let answer: JoinResponse = serde_json::from_slice(&answer).map_err(Status::internal)?;
        Ok(Stored {
            node_name: self.request.node_name,
            addresses: self.request.addresses,
            joined_at: jiff::Timestamp::now().to_string(),
            server_ca: server_ca.to_owned(),
            client_ca: answer.client_ca,
            client_certificate: answer.client_certificate,
            client_key: self.client_key,
            serving_certificate: answer.serving_certificate,
            serving_key: self.serving_key,
            cluster: answer.cluster,
        })
    }
}

impl Identity {
    /// The identity of earlier, or a new one from the server that the invitation names. A server
    /// that cannot be reached is tried until it can be, or `cancel`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn obtain(
        data: &Path,
        node_name: &str,
        addresses: &[IpAddr],
        invitation: Option<&Invitation>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Identity, Error> {
        let path = data.join("identity.json");
        let password = node_password(&data.join("node-password"))?;
        let kept = match private_file::read(&path)? {
            Some(text) => Some(
                serde_json::from_str::<Stored>(&text)
                    .map_err(|e| Error::Damaged { path: path.clone(), why: e.to_string() })?,
            ),
            None => None,
        };
        let kept = kept.filter(|k| k.node_name == node_name);
        let stored = match (kept, invitation) {
            (Some(k), _) if lifetime(&k.client_certificate)?.1 > now() => k,
            (_, Some(i)) => {
                let joined = cancel.run_until_cancelled(join(i, node_name, &password, addresses, tasks)).await;
                let stored = joined.unwrap_or(Err(Error::NotJoined))?;
                save(&path, &stored)?;
                stored
            }
            (Some(_), None) => return Err(Error::Expired),
            (None, None) => return Err(Error::NotJoined),
        };
        let certified = |c: &str, k: &str| tls::certified(c, k).map_err(|e| damaged(&path, &e));
        let client = Current::new(certified(&stored.client_certificate, &stored.client_key)?);
        let serving = Current::new(certified(&stored.serving_certificate, &stored.serving_key)?);
        Ok(Identity { addresses: addresses.to_vec(), password, stored: Mutex::new(stored), client, serving, path })
    }

    fn stored(&self) -> Stored {
        self.stored.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The cluster that this machine is in.
    pub fn cluster(&self) -> ClusterSettings {
        self.stored().cluster
    }

    /// A client of the cluster's servers, as the node: those that the cluster named, then `more`.
    ///
    /// # Errors
    /// When the stored identity cannot be used.
    pub fn connect(&self, more: &[Server], tasks: &TaskTracker) -> Result<Arc<Https>, Error> {
        let stored = self.stored();
        let mut servers = more.to_vec();
        for s in &stored.cluster.servers {
            let server: Server = s.parse().map_err(|e: String| damaged(&self.path, &e))?;
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        let roots = tls::roots(&stored.server_ca).map_err(|e| damaged(&self.path, &e))?;
        let config = tls::client_config(Trust::Roots(roots), Some(self.client.clone()), &["h2"]).map_err(keys)?;
        let https = Https::new(servers, config, None, &user_agent(), tasks.clone()).map_err(keys)?;
        Ok(Arc::new(https))
    }

    /// TLS for the kubelet's listener.
    ///
    /// # Errors
    /// When the stored identity cannot be used.
    pub fn listener(&self) -> Result<Arc<rustls::ServerConfig>, Error> {
        let roots = tls::roots(&self.stored().client_ca).map_err(|e| damaged(&self.path, &e))?;
        tls::listener_config(roots, self.serving.clone()).map_err(keys)
    }

    /// Renews the certificates at two thirds of their life, and at once when this machine's
    /// addresses are no longer those of the certificate. Until cancelled.
    pub async fn keep(self: Arc<Self>, https: Arc<Https>, cancel: CancellationToken) {
        let work = async {
            loop {
                let wait = match self.renew_when_due(&https).await {
                    Ok(wait) => wait,
                    Err(e) => {
                        tracing::warn!(error = e, "the certificates of this node could not be renewed; trying again");
                        RENEW_RETRY
                    }
                };
                tokio::time::sleep(wait).await;
            }
        };
        let _ = cancel.run_until_cancelled(work).await;
    }

    async fn renew_when_due(&self, https: &Https) -> Result<Duration, String> {
        let stored = self.stored();
        let (due, _) = lifetime(&stored.client_certificate).map_err(|e| e.to_string())?;
        let left = due - now();
        if left > 0 && stored.addresses == self.addresses {
            return Ok(LOOK.min(Duration::from_secs(left.unsigned_abs())));
        }
        let fresh = Fresh::new(&stored.node_name, &self.password, &self.addresses).map_err(|e| e.to_string())?;
        let new = fresh.ask(https, &stored.server_ca).await.map_err(|s| s.message)?;
        let certified = |c: &str, k: &str| tls::certified(c, k).map_err(|e| e.to_string());
        let client = certified(&new.client_certificate, &new.client_key)?;
        let serving = certified(&new.serving_certificate, &new.serving_key)?;
        save(&self.path, &new).map_err(|e| e.to_string())?;
        self.client.set(client);
        self.serving.set(serving);
        *self.stored.lock().unwrap_or_else(|e| e.into_inner()) = new;
        https.renew_connections();
        tracing::info!("the certificates of this node were renewed");
        Ok(Duration::ZERO)
    }
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Damaged { path: path.to_owned(), why: why.to_string() }
}

fn save(path: &Path, stored: &Stored) -> Result<(), Error> {
    Ok(private_file::write(path, &serde_json::to_string_pretty(stored).map_err(keys)?)?)
}

/// The kubelet's: it is what fields that a node manages are listed under.
fn user_agent() -> String {
    format!("kubelet/{}", api::VERSION)
}

/// Joins, however long it takes until a server answers.
async fn join(
    invitation: &Invitation,
    node_name: &str,
    password: &str,
    addresses: &[IpAddr],
    tasks: &TaskTracker,
) -> Result<Stored, Error> {
    let mut wait = RETRY.0;
    loop {
        match try_join(invitation, node_name, password, addresses, tasks).await {
            Ok(stored) => return Ok(stored),
            Err(Failure::Final(e)) => return Err(e),
            Err(Failure::Away(s)) => {
                tracing::warn!(error = s.message, "cannot join yet; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

enum Failure {
    Final(Error),
    Away(Status),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Final(e)
    }
}

async fn try_join(
    invitation: &Invitation,
    node_name: &str,
    password: &str,
    addresses: &[IpAddr],
    tasks: &TaskTracker,
) -> Result<Stored, Failure> {
    let url = invitation.server.to_string();
    let failed = |s: Status| match s.code {
        401 => Failure::Final(Error::TokenRefused(url.clone())),
        code if code >= 500 || code == 429 => Failure::Away(s),
        _ => Failure::Final(Error::Refused { url: url.clone(), why: s.message }),
    };
    let connect = |trust: Trust, bearer: Option<&str>| -> Result<Https, Error> {
        let config = tls::client_config(trust, None, &["h2"]).map_err(keys)?;
        Https::new(vec![invitation.server.clone()], config, bearer, &user_agent(), tasks.clone()).map_err(keys)
    };
    use client::Api;
    let server_ca = connect(Trust::Anyone, None)?.raw_get(CA_PATH).await.map_err(failed)?;
    let server_ca = String::from_utf8_lossy(&server_ca).into_owned();
    let no_ca = |e: tls::Error| Error::Refused { url: url.clone(), why: format!("it shows no authority: {e}") };
    let found = ca_hash(&server_ca).map_err(no_ca)?;
    match &invitation.token.ca_hash {
        Some(wanted) if *wanted != found => {
            return Err(Error::WrongAuthority { url, found, wanted: wanted.clone() }.into());
        }
        Some(_) => {}
        None => tracing::warn!(
            url,
            ca = found,
            "the token does not name the cluster's certificate authority: trusting the one that the server shows"
        ),
    }
    let roots = tls::roots(&server_ca).map_err(no_ca)?;
    let https = connect(Trust::Roots(roots), Some(&invitation.token.bearer()))?;
    let fresh = Fresh::new(node_name, password, addresses)?;
    fresh.ask(&https, &server_ca).await.map_err(failed)
}
