//! How a webhook of any kind is reached: HTTP/1.1 over TLS, on connections that are kept for the
//! next call. [`trust`] – whose certificates are accepted.
//!
//! A service is dialled at one of its endpoints, as the server's host may have no rules for
//! cluster addresses; its certificate must be for `<service>.<namespace>.svc` all the same.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use client::tls::{self, Trust};
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::Server;
use crate::service_endpoints;

pub(crate) mod trust;

/// Longest answer that is read.
const ANSWER_MAX: usize = 16 << 20;
/// Connections that wait for the next call.
const IDLE_MAX: usize = 25;
/// Where systems keep the authorities that everybody trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type Sender = http1::SendRequest<Full<Bytes>>;

/// Where a webhook is, as it is declared.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientConfig {
    url: Option<String>,
    service: Option<ServiceReference>,
    /// PEM in base64.
    ca_bundle: String,
}

#[derive(Deserialize)]
struct ServiceReference {
    name: String,
    namespace: String,
    #[serde(default)]
    path: String,
    #[serde(default = "https_port")]
    port: u16,
}

fn https_port() -> u16 {
    443
}

/// Calls one webhook.
pub(crate) struct Client {
    url: String,
    service: Option<ServiceReference>,
    tls: Result<Arc<rustls::ClientConfig>, String>,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Client {
        let url = match &config.service {
            Some(s) => format!("https://{}.{}.svc:{}/{}", s.name, s.namespace, s.port, s.path.trim_start_matches('/')),
            None => config.url.unwrap_or_default(),
        };
        Client { url, service: config.service, tls: tls_of(&config.ca_bundle), idle: Mutex::default() }
    }

    /// Posts a review and reads the answer, all within `timeout`.
    pub(crate) async fn post(&self, server: &Arc<Server>, timeout: Duration, body: Bytes) -> Result<Bytes, String> {
        let url = format!("{}?timeout={}s", self.url, timeout.as_secs());
        let answered = tokio::time::timeout(timeout, self.exchange(server, &url, body)).await;
        let answered = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        answered.map_err(|e| format!("Post {url:?}: {e}"))
    }

    async fn exchange(&self, server: &Arc<Server>, url: &str, body: Bytes) -> Result<Bytes, String> {
        let url: Uri = url.parse().map_err(|e| format!("{e}"))?;
        // A kept connection may have been closed by the other end: then the call has not begun.
        while let Some(sender) = self.kept() {
            match self.call(sender, &url, body.clone()).await {
                Err(e) if e.is_canceled() || e.is_closed() => continue,
                answered => return answered.map_err(told)?,
            }
        }
        let sender = self.dial(server, &url).await?;
        self.call(sender, &url, body).await.map_err(told)?
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.retain(|s| !s.is_closed());
        idle.pop()
    }

    async fn call(&self, mut sender: Sender, url: &Uri, body: Bytes) -> Result<Result<Bytes, String>, hyper::Error> {
        let mut request = Request::post(url.path_and_query().map_or("/", |p| p.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json");
        if let Some(authority) = url.authority() {
            request = request.header(HOST, authority.as_str());
        }
        let request = match request.body(Full::new(body)) {
            Ok(r) => r,
            Err(e) => return Ok(Err(e.to_string())),
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = match Limited::new(response.into_body(), ANSWER_MAX).collect().await {
            Ok(b) => b.to_bytes(),
            Err(e) => return Ok(Err(format!("its answer cannot be read: {e}"))),
        };
        if sender.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
            if idle.len() < IDLE_MAX {
                idle.push(sender);
            }
        }
        if status.is_success() {
            return Ok(Ok(answer));
        }
        let text = String::from_utf8_lossy(&answer);
        Ok(Err(match status.as_u16() {
            404 => "the server could not find the requested resource".to_owned(),
            _ => format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim()),
        }))
    }

    async fn dial(&self, server: &Arc<Server>, url: &Uri) -> Result<Sender, String> {
        let tls = self.tls.clone()?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let (address, port) = match &self.service {
            Some(s) => {
                let one = service_endpoints::one_of_port(server, &s.namespace, &s.name, s.port).await;
                one.map_err(|e| e.message)?
            }
            None => (host.clone(), url.port_u16().unwrap_or(443)),
        };
        let tcp = TcpStream::connect((address.as_str(), port))
            .await
            .map_err(|e| format!("dial tcp {address}:{port}: connect: {}", go_words(&e)))?;
        // Calls are one small write: they must not wait for more.
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(tls);
        let stream = connector.connect(name, tcp).await.map_err(|e| handshake_failure(&e, &host))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends when its sender is dropped, or the peer closes.
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to a webhook ended");
            }
        });
        Ok(sender)
    }
}

fn told(e: hyper::Error) -> String {
    if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() }
}

fn go_words(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        _ => e.to_string(),
    }
}

fn tls_of(bundle: &str) -> Result<Arc<rustls::ClientConfig>, String> {
    if bundle.is_empty() {
        return tls::client_config(Trust::Roots(system_roots()), None, &["http/1.1"]).map_err(|e| e.to_string());
    }
    let pem = BASE64_STANDARD.decode(bundle).map_err(|e| e.to_string())?;
    let mut config = trust::client_config(&String::from_utf8_lossy(&pem))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The authorities that the system trusts; none where it keeps none.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let pem = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok());
    if let Some(certificates) = pem.and_then(|pem| tls::certificates(&pem).ok()) {
        roots.add_parsable_certificates(certificates);
    }
    roots
}

/// What is wrong with a certificate, in the words that administrators know.
fn handshake_failure(e: &std::io::Error, host: &str) -> String {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!("certificate is not valid for {host}"),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "certificate has expired or is not yet valid".to_owned(),
        _ => return e.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
