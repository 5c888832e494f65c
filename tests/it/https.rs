//! The API over HTTPS with the administrator's certificate and no kubectl: a request costs
//! microseconds where a process costs tenths of a second. The benchmarks use it too.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio_rustls::TlsConnector;

/// Where a server listens, and how to be its administrator.
#[derive(Clone)]
pub struct Endpoint {
    tls: TlsConnector,
    address: SocketAddr,
}

impl Endpoint {
    /// What a kubeconfig with embedded certificates says.
    pub fn of(kubeconfig: &Path) -> Result<Endpoint> {
        let config: Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let text = |v: &Value| v.as_str().map(str::to_owned).context("the kubeconfig lacks a field");
        let pem = |v: &Value| Ok::<_, anyhow::Error>(BASE64_STANDARD.decode(text(v)?)?);
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])?)?)?;
        let chain =
            CertificateDer::pem_slice_iter(&pem(&user["client-certificate-data"])?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let server = text(&cluster["server"])?;
        let address = server.strip_prefix("https://").context("the server is no https:// address")?.parse()?;
        Ok(Endpoint { tls: TlsConnector::from(Arc::new(tls)), address })
    }

    /// One connection; it serves one request at a time.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the sender, or says through it why it ended.
        tokio::spawn(connection);
        Ok(Connection { sender, host: self.address.to_string() })
    }
}

/// See [`Endpoint::connect`].
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    async fn start(&mut self, method: Method, path: &str, body: Bytes) -> Result<hyper::Response<Incoming>> {
        self.start_with(method, path, &[], body).await
    }

    async fn start_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<hyper::Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Sends a request with further headers, and reads whatever the answer is.
    #[allow(dead_code, reason = "the benchmarks use it")]
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<(hyper::StatusCode, hyper::HeaderMap, Bytes)> {
        let (head, body) = self.start_with(method, path, headers, body.into()).await?.into_parts();
        Ok((head.status, head.headers, body.collect().await?.to_bytes()))
    }

    /// Sends a request and reads the answer, which must be a success.
    pub async fn send(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        let response = self.start(method, path, body.into()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// As [`Connection::send`], with a JSON answer.
    pub async fn json(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Value> {
        Ok(serde_json::from_slice(&self.send(method, path, body).await?)?)
    }

    /// Starts a watch.
    pub async fn watch(mut self, path: &str) -> Result<Watch> {
        let response = self.start(Method::GET, path, Bytes::new()).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(Watch { body: response.into_body(), read: BytesMut::new(), _connection: self })
    }
}

/// The events of a watch, as lines.
pub struct Watch {
    body: Incoming,
    read: BytesMut,
    _connection: Connection,
}

impl Watch {
    /// The next event; `None` when the stream has ended, however it did.
    pub async fn line(&mut self) -> Option<Bytes> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                return Some(self.read.split_to(end + 1).freeze());
            }
            if let Ok(data) = self.body.frame().await?.ok()?.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}
