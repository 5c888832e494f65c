//! Calls that the server makes to others, which are not of the cluster: webhooks and identity
//! providers. HTTP/1.1, over TLS unless the URL says otherwise, on connections that are kept for
//! the next call. What goes wrong is told in the words that administrators know from upstream.

mod trust;

use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::tls::{self, Current, Trust};
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Longest answer that is read.
const ANSWER_MAX: usize = 16 << 20;
/// Connections that wait for the next call.
const IDLE_MAX: usize = 25;
/// Where systems keep the authorities that everybody trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type Sender = http1::SendRequest<Full<Bytes>>;

/// Whose certificates are accepted.
pub(crate) enum Vouched<'a> {
    /// Those of the authorities that the system trusts.
    BySystem,
    /// Those that this bundle, in PEM, vouches for.
    By(&'a str),
    /// All.
    ByNobody,
}

/// Connections to one other server.
pub(crate) struct Outbound {
    tls: Result<Arc<rustls::ClientConfig>, String>,
    idle: Mutex<Vec<Sender>>,
}

impl Outbound {
    /// Connections that accept what is vouched for, and show `identity` where they are asked.
    /// A bundle that cannot be used fails the calls.
    pub(crate) fn new(vouched: &Vouched<'_>, identity: Option<Arc<Current>>) -> Outbound {
        Outbound { tls: tls_of(vouched, identity), idle: Mutex::default() }
    }

    /// The settings, for connections of another kind to the same server.
    pub(crate) fn tls(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        self.tls.clone()
    }

    /// Sends a request whose URI is absolute, and reads the answer. `address` says where the
    /// server is dialled; it is asked when no connection is kept.
    pub(crate) async fn send(
        &self,
        head: &Parts,
        body: Bytes,
        address: impl Future<Output = Result<(String, u16), String>>,
    ) -> Result<(StatusCode, Bytes), String> {
        let (parts, body) = self.send_for_headers(head, body, address).await?;
        Ok((parts.status, body))
    }

    /// As [`Outbound::send`], with the headers of the answer.
    pub(crate) async fn send_for_headers(
        &self,
        head: &Parts,
        body: Bytes,
        address: impl Future<Output = Result<(String, u16), String>>,
    ) -> Result<(http::response::Parts, Bytes), String> {
        // A kept connection may have been closed by the other end: then the call has not begun.
        while let Some(sender) = self.kept() {
            match self.call(sender, head, body.clone()).await {
                Err(e) if e.is_canceled() || e.is_closed() => continue,
                answered => return answered.map_err(told)?,
            }
        }
        let sender = self.dial(&head.uri, address.await?).await?;
        self.call(sender, head, body).await.map_err(told)?
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.retain(|s| !s.is_closed());
        idle.pop()
    }

    async fn call(
        &self,
        mut sender: Sender,
        head: &Parts,
        body: Bytes,
    ) -> Result<Result<(http::response::Parts, Bytes), String>, hyper::Error> {
        let mut head = head.clone();
        let authority = head.uri.authority().map(|a| HeaderValue::from_str(a.as_str()));
        if let Some(Ok(authority)) = authority {
            head.headers.insert(HOST, authority);
        }
        head.uri = head.uri.path_and_query().map_or_else(|| Uri::from_static("/"), |p| Uri::from(p.clone()));
        sender.ready().await?;
        let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
        let (parts, body) = response.into_parts();
        let answer = match Limited::new(body, ANSWER_MAX).collect().await {
            Ok(b) => b.to_bytes(),
            Err(e) => return Ok(Err(format!("its answer cannot be read: {e}"))),
        };
        if sender.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
            if idle.len() < IDLE_MAX {
                idle.push(sender);
            }
        }
        Ok(Ok((parts, answer)))
    }

    async fn dial(&self, url: &Uri, (address, port): (String, u16)) -> Result<Sender, String> {
        let tcp = TcpStream::connect((address.as_str(), port))
            .await
            .map_err(|e| format!("dial tcp {address}:{port}: connect: {}", go_words(&e)))?;
        // Calls are one small write: they must not wait for more.
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        if url.scheme_str() == Some("http") {
            return handshake(tcp).await;
        }
        let (host, _) = host_and_port(url);
        let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone()?);
        handshake(connector.connect(name, tcp).await.map_err(|e| handshake_failure(&e, &host))?).await
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends when its sender is dropped, or the peer closes.
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "a connection to a webhook ended");
        }
    });
    Ok(sender)
}

/// What a URL names as host and port.
pub(crate) fn host_and_port(url: &Uri) -> (String, u16) {
    let usual = if url.scheme_str() == Some("http") { 80 } else { 443 };
    (url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(), url.port_u16().unwrap_or(usual))
}

fn told(e: hyper::Error) -> String {
    if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() }
}

pub(crate) fn go_words(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        _ => e.to_string(),
    }
}

fn tls_of(vouched: &Vouched<'_>, identity: Option<Arc<Current>>) -> Result<Arc<rustls::ClientConfig>, String> {
    const HTTP1: &str = "http/1.1";
    let trust = match vouched {
        Vouched::By(pem) => {
            let mut config = trust::client_config(pem, identity)?;
            config.alpn_protocols = vec![HTTP1.into()];
            return Ok(Arc::new(config));
        }
        Vouched::BySystem => Trust::Roots(system_roots()),
        Vouched::ByNobody => Trust::Anyone,
    };
    tls::client_config(trust, identity, &[HTTP1]).map_err(|e| e.to_string())
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
pub(crate) fn handshake_failure(e: &std::io::Error, host: &str) -> String {
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
