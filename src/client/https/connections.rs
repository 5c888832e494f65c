//! HTTP/2 connections to the cluster's servers: opened when needed, shared by requests, checked by
//! pings so that a dead link is noticed, and replaced by one to the next server when they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that is silent for this long is asked whether it lives …
const PING: Duration = Duration::from_secs(10);
/// … and given up when it does not answer within this time.
const PONG: Duration = Duration::from_secs(10);
/// Requests that share a connection; servers allow 250.
const STREAMS: usize = 100;
/// Bytes that may wait for one reader, and for all of a connection: a watch whose reader is slow
/// must not stop the others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

type Sender = http2::SendRequest<Full<Bytes>>;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    host: String,
    port: u16,
    authority: String,
}

impl std::str::FromStr for Server {
    type Err = String;

    /// Reads `https://host[:port]`.
    fn from_str(text: &str) -> Result<Server, String> {
        let form = || format!("{text:?} is no address of a server: it must be https://<host>:<port>");
        let uri: http::Uri = text.trim().trim_end_matches('/').parse().map_err(|_| form())?;
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(form)?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
            return Err(form());
        }
        let port = uri.port_u16().unwrap_or(443);
        let authority = format!("{host}:{port}");
        Ok(Server { host: host.trim_matches(['[', ']']).to_owned(), port, authority })
    }
}

impl Server {
    /// The host's name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}", self.authority)
    }
}

/// A place on a connection; holds it until dropped.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) sender: Sender,
    pub(super) authority: String,
    _place: Arc<()>,
}

#[derive(Clone)]
struct Connection {
    sender: Sender,
    authority: String,
}

struct Slot {
    opening: Shared<BoxFuture<'static, Result<Connection, Status>>>,
    places: Arc<()>,
}

impl Slot {
    /// Whether a request can go over it: it is being opened, or open.
    fn usable(&self) -> bool {
        match self.opening.peek() {
            Some(Ok(c)) => !c.sender.is_closed(),
            Some(Err(_)) => false,
            None => true,
        }
    }
}

/// See the module.
pub(super) struct Connections {
    dialler: Arc<Dialler>,
    slots: Mutex<Vec<Slot>>,
}

struct Dialler {
    servers: Vec<Server>,
    /// The one that answered last.
    preferred: AtomicUsize,
    tls: Arc<ClientConfig>,
    tasks: TaskTracker,
}

impl Connections {
    pub(super) fn new(servers: Vec<Server>, tls: Arc<ClientConfig>, tasks: TaskTracker) -> Connections {
        let dialler = Arc::new(Dialler { servers, preferred: AtomicUsize::new(0), tls, tasks });
        Connections { dialler, slots: Mutex::default() }
    }

    /// A place on an open connection.
    pub(super) async fn stream(&self) -> Result<Stream, Status> {
        let (opening, place) = {
            let mut slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
            slots.retain(Slot::usable);
            let free = slots.iter().position(|s| Arc::strong_count(&s.places) <= STREAMS);
            let at = free.unwrap_or_else(|| {
                let opening = self.dialler.clone().any().boxed().shared();
                slots.push(Slot { opening, places: Arc::new(()) });
                slots.len() - 1
            });
            (slots[at].opening.clone(), slots[at].places.clone())
        };
        let connection = opening.await?;
        Ok(Stream { sender: connection.sender, authority: connection.authority, _place: place })
    }

    /// Lets requests from now on use new connections; those under way go on.
    pub(super) fn renew(&self) {
        self.slots.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

impl Dialler {
    /// Opens a connection to the first server that answers, beginning with the one that did last.
    async fn any(self: Arc<Self>) -> Result<Connection, Status> {
        let mut failure = Status::unavailable("no server is known");
        let first = self.preferred.load(Ordering::Relaxed);
        for i in 0..self.servers.len() {
            let at = (first + i) % self.servers.len();
            let server = &self.servers[at];
            let dialled = tokio::time::timeout(CONNECT, self.dial(server)).await;
            match dialled.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT.as_secs()))) {
                Ok(sender) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(Connection { sender, authority: server.authority.clone() });
                }
                Err(e) => failure = Status::unavailable(format!("cannot reach {server}: {e}")),
            }
        }
        Err(failure)
    }

    async fn dial(&self, server: &Server) -> Result<Sender, String> {
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(|e| e.to_string())?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(server.host.clone()).map_err(|e| e.to_string())?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(|e| handshake_failure(&e))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|e| e.to_string())?;
        // Ends when its last sender is gone, or the peer.
        self.tasks.spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to a server ended");
            }
        });
        Ok(sender)
    }
}

/// What went wrong in a TLS handshake, and what to do.
fn handshake_failure(e: &std::io::Error) -> String {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is not signed by the authority of this node's cluster: is it another cluster's server?"
                .into()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "its certificate is not made for this name or address; start the server with --tls-san for it".into(),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => format!("{e}; are the clocks of both machines right?"),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        let read = |s: &str| s.parse::<Server>().map(|s| (s.host.clone(), s.port, s.to_string()));
        assert_eq!(read("https://a.b:6443/").unwrap(), ("a.b".into(), 6443, "https://a.b:6443".into()));
        assert_eq!(read("https://[fd00::1]:6443").unwrap().0, "fd00::1");
        assert_eq!(read("https://10.0.0.1").unwrap().1, 443);
        for wrong in ["", "10.0.0.1:6443", "http://a:1", "https://", "https://a/b"] {
            assert!(read(wrong).unwrap_err().contains("https://<host>:<port>"), "{wrong:?}");
        }
    }
}
