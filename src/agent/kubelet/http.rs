//! The small HTTP client of probes and lifecycle hooks: one GET, no redirects to other hosts,
//! certificates are not verified (as upstream: the pod is asked, by its address).

use std::io::ErrorKind;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::k8s::core::v1::{Container, HTTPGetAction};
use client::tls::{self, Trust};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::spec::port;

/// Bytes of an answer that are read.
const BODY_MAX: usize = 10 << 10;

fn tls() -> Result<tokio_rustls::TlsConnector, String> {
    static CONFIG: OnceLock<Result<Arc<rustls::ClientConfig>, String>> = OnceLock::new();
    let config =
        CONFIG.get_or_init(|| tls::client_config(Trust::Anyone, None, &["http/1.1"]).map_err(|e| e.to_string()));
    config.clone().map(tokio_rustls::TlsConnector::from)
}

/// Connects; what went wrong is in the words of Go's `net` package, as in upstream's events.
///
/// # Errors
/// What went wrong, for the event.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let refused = |e: std::io::Error| {
        let why = match e.kind() {
            ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {authority}: {why}")
    };
    TcpStream::connect((host, port)).await.map_err(refused)
}

/// Does an `httpGet`; gives the status code and the beginning of the body.
///
/// # Errors
/// What went wrong, for the event.
pub async fn get(
    action: &HTTPGetAction,
    c: &Container,
    pod_ip: &str,
    agent: &str,
    timeout: Duration,
) -> Result<(u16, String), String> {
    let port = port(c, &action.port).ok_or_else(|| format!("the port of container {} cannot be found", c.name))?;
    let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let path = action.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let url = format!("{scheme}://{authority}{path}");
    let mut request =
        http::Request::get(&path).header("user-agent", agent).header("accept", "*/*").header("connection", "close");
    let mut has_host = false;
    for h in action.http_headers.iter().flatten() {
        has_host |= h.name.eq_ignore_ascii_case("host");
        request = request.header(&h.name, &h.value);
    }
    if !has_host {
        request = request.header("host", &authority);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| e.to_string())?;
    let exchange = async {
        let stream = dial(&host, port).await?;
        if scheme == "https" {
            let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            let stream = tls()?.connect(name, stream).await.map_err(|e| e.to_string())?;
            talk(TokioIo::new(stream), request).await
        } else {
            talk(TokioIo::new(stream), request).await
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(format!("Get \"{url}\": {e}")),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn talk<S>(stream: S, request: http::Request<Empty<bytes::Bytes>>) -> Result<(u16, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status().as_u16();
        let body = match Limited::new(answer.into_body(), BODY_MAX).collect().await {
            Ok(b) => String::from_utf8_lossy(&b.to_bytes()).into_owned(),
            // Longer than we care to read.
            Err(_) => String::new(),
        };
        Ok((code, body))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            done = &mut exchange => return done,
            _ = &mut connection, if open => open = false,
        }
    }
}
