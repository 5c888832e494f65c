//! The TLS listener: accepts, shakes hands, hands requests with their peer's identity to the
//! server, and drains at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Server;
use crate::authn::Peer;
use crate::authn::x509::Shown;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long connections may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a connection of HTTP/1 may be idle, as upstream. It is the limit for the headers of the
/// next request as well: hyper has one for both.
const IDLE: Duration = Duration::from_secs(90);

/// The headers of a request, in bytes, as upstream; and how many there may be, which HTTP/1 must know.
const HEADER_BYTES: usize = 1 << 20;
const HEADERS: usize = 512;

/// Listens on an address.
///
/// # Errors
/// The system's answer, such as an address in use.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Serves connections until cancelled, then gives those that are open a moment to finish.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    cancel: CancellationToken,
) {
    let connections = TaskTracker::new();
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            a = listener.accept() => a,
        };
        match accepted {
            Ok((tcp, address)) => {
                let task = connection(server.clone(), acceptor.clone(), tcp, address, cancel.clone());
                connections.spawn(task);
            }
            Err(e) => {
                // Out of file descriptors, for example: existing connections go on.
                tracing::warn!(error = %e, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
    cancel: CancellationToken,
) {
    // Interactive streams and watch events must not wait for more to send.
    let _ = tcp.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(s)) => s,
        Ok(Err(e)) => {
            tracing::debug!(%address, error = %e, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| Shown::read(server.pki(), chain));
    let peer = Peer { certificate: shown.map(Arc::new), address: Some(address) };
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            request.extensions_mut().insert(peer);
            Ok::<_, std::convert::Infallible>(server.serve(request.map(axum::body::Body::new)).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEADER_BYTES).max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_header_list_size(HEADER_BYTES as u32)
        .max_concurrent_streams(250);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(serving);
    tokio::select! {
        result = serving.as_mut() => {
            if let Err(e) = result {
                tracing::debug!(%address, error = %e, "a connection ended");
            }
            return;
        }
        () = cancel.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(DRAIN, serving).await;
}
