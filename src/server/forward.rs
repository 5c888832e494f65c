//! Requests that are passed on to somebody else, streamed both ways, also after an upgrade of the
//! connection (upstream: `k8s.io/apimachinery/pkg/util/proxy`).
//!
//! * here – the connection, the headers, the exchange.  [`rewrite`] – links in what comes back.

pub(crate) mod rewrite;

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::authn::Peer;
use crate::http::RequestBody;
use crate::http::respond::{Body, Reply};
use crate::outbound::{go_words, handshake_failure};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers that are about one connection only.
const HOPS: [HeaderName; 4] = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING];
const MORE_HOPS: [&str; 4] = ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A connection to where a request goes.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How a target proves who it is.
pub(crate) struct Tls {
    /// Whom to trust, and who this server is.
    pub(crate) config: Arc<rustls::ClientConfig>,
    /// The name that the certificate must be for.
    pub(crate) name: String,
}

/// Connects to a target.
///
/// # Errors
/// In Go's words, which are what administrators know.
pub(crate) async fn connect(host: &str, port: u16, tls: Option<&Tls>) -> Result<Box<dyn Stream>, String> {
    let host = host.trim_matches(['[', ']']);
    let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let dialled = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
    let tcp = match dialled {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return Err(format!("dial tcp {at}: connect: {}", go_words(&e))),
        Err(_) => return Err(format!("dial tcp {at}: i/o timeout")),
    };
    // Interactive streams: small writes must not wait.
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(tls.name.clone()).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
    Ok(Box::new(connector.connect(name, tcp).await.map_err(|e| handshake_failure(&e, &tls.name))?))
}

/// Whether a request asks for another protocol on its connection.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    connection.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
        && headers.contains_key(UPGRADE)
}

/// The headers of a request as they are passed on: without the caller's credentials, which are for
/// this server only, and without what is about the connection to it.
pub(crate) fn headers(parts: &Parts) -> HeaderMap {
    let mut headers = parts.headers.clone();
    let upgrade = is_upgrade(&headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    for name in HOPS.iter().chain([&UPGRADE, &AUTHORIZATION]) {
        headers.remove(name);
    }
    let private = headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect::<Vec<_>>();
    for name in private.iter().map(HeaderName::as_str).chain(MORE_HOPS) {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if !headers.contains_key(HOST)
        && let Some(Ok(authority)) = parts.uri.authority().map(|a| HeaderValue::from_str(a.as_str()))
    {
        headers.insert(HOST, authority);
    }
    if let Some(client) = parts.extensions.get::<Peer>().and_then(|p| p.address) {
        let before = headers.get_all(&FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok());
        let chain: Vec<String> = before.map(str::to_owned).chain([client.ip().to_string()]).collect();
        if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
            headers.insert(FORWARDED_FOR, chain);
        }
    }
    headers
}

/// The request as it goes to a target, by its path and query there.
///
/// # Errors
/// When the path cannot be one.
pub(crate) fn request(parts: &Parts, path: &str, body: RequestBody) -> Result<Request<RequestBody>, String> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = path.parse::<Uri>().map_err(|e| format!("the path cannot be passed on: {e}"))?;
    *request.headers_mut() = headers(parts);
    Ok(request)
}

/// Sends a request and gives the answer, whose body is streamed. Where the target changes the
/// protocol, both sides are joined.
///
/// # Errors
/// When the target breaks off before it has answered.
pub(crate) async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<RequestBody>,
    client: Option<OnUpgrade>,
) -> Result<Reply, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the exchange, or with the upgraded stream that is taken out of it.
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "a proxied connection ended");
        }
    });
    let answer = sender.send_request(request).await;
    let mut response = answer.map_err(|e| if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() })?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let target = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(a), Ok(b)) = tokio::join!(client, target) {
                let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
                // How a stream ends is between those who talk on it.
                let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
            }
        });
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::default()));
    }
    let (mut parts, incoming) = response.into_parts();
    for hop in HOPS.iter().map(HeaderName::as_str).chain(MORE_HOPS) {
        parts.headers.remove(hop);
    }
    // A target that breaks off in the middle ends the body early; the client sees a short stream.
    let frames = http_body_util::BodyStream::new(incoming);
    let stream = futures::StreamExt::filter_map(frames, |f| async { f.ok().map(Ok) });
    Ok(Response::from_parts(parts, http_body_util::StreamBody::new(stream).boxed_unsync()))
}
