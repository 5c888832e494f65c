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
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio_rustls::TlsConnector;

/// What is sent, and what is wanted.
#[derive(Clone, Copy)]
pub struct Form {
    /// `Content-Type`.
    pub sent: &'static str,
    /// `Accept`.
    pub accept: &'static str,
}

/// How much of a long answer is kept.
#[allow(dead_code, reason = "the benchmarks use it")]
const HEAD: usize = 1024;
const JSON: Form = Form { sent: "application/json", accept: "application/json" };

/// Where a server listens, and how to be its administrator.
#[derive(Clone)]
pub struct Endpoint {
    tls: TlsConnector,
    address: SocketAddr,
}

impl Endpoint {
    /// What a kubeconfig says, whose certificates are embedded in it or files that it names.
    pub fn of(kubeconfig: &Path) -> Result<Endpoint> {
        let config: Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&pem(cluster, "certificate-authority")?) {
            roots.add(authority?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem(user, "client-certificate")?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(user, "client-key")?)?;
        // The cipher that clients in Go ask for, and that kube-apiserver prefers.
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|s| s.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let server = cluster["server"].as_str().context("the kubeconfig names no server")?;
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

/// What a field of a kubeconfig holds, or the file that it names.
fn pem(part: &Value, field: &str) -> Result<Vec<u8>> {
    if let Some(data) = part[format!("{field}-data")].as_str() {
        return Ok(BASE64_STANDARD.decode(data)?);
    }
    let path = part[field].as_str().with_context(|| format!("the kubeconfig lacks {field}"))?;
    Ok(std::fs::read(path)?)
}

/// See [`Endpoint::connect`].
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    async fn start(
        &mut self,
        method: Method,
        path: &str,
        form: Form,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<hyper::Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("content-type", form.sent)
            .header("accept", form.accept)
            .body(Full::new(body))?;
        for (name, value) in headers {
            // In place of the form's own.
            request.headers_mut().insert(HeaderName::try_from(*name)?, HeaderValue::try_from(*value)?);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
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
        let (head, body) = self.start(method, path, JSON, headers, body.into()).await?.into_parts();
        Ok((head.status, head.headers, body.collect().await?.to_bytes()))
    }

    /// Sends a request and reads the answer, which must be a success.
    pub async fn call(&mut self, method: Method, path: &str, form: Form, body: Bytes) -> Result<Bytes> {
        let response = self.start(method, path, form, &[], body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// As [`Connection::call`] of a GET, of whose answer only the length and the beginning are kept.
    #[allow(dead_code, reason = "the benchmarks use it")]
    pub async fn skim(&mut self, path: &str, form: Form) -> Result<(u64, Bytes)> {
        let mut response = self.start(Method::GET, path, form, &[], Bytes::new()).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        let (mut length, mut head) = (0, BytesMut::new());
        while let Some(frame) = response.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length += data.len() as u64;
            if head.len() < HEAD {
                head.extend_from_slice(&data[..data.len().min(HEAD - head.len())]);
            }
        }
        Ok((length, head.freeze()))
    }

    /// As [`Connection::call`], with JSON in both directions.
    pub async fn send(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        self.call(method, path, JSON, body.into()).await
    }

    /// As [`Connection::send`], with a JSON answer.
    pub async fn json(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Value> {
        Ok(serde_json::from_slice(&self.send(method, path, body).await?)?)
    }

    /// Starts a watch.
    pub async fn watch(mut self, path: &str, accept: &'static str) -> Result<Watch> {
        let response = self.start(Method::GET, path, Form { accept, ..JSON }, &[], Bytes::new()).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(Watch { body: response.into_body(), read: BytesMut::new(), _connection: self })
    }
}

/// The events of a watch.
pub struct Watch {
    body: Incoming,
    /// What has been read and not yet been taken.
    pub read: BytesMut,
    _connection: Connection,
}

impl Watch {
    /// Reads on; `None` when the stream has ended, however it did.
    pub async fn more(&mut self) -> Option<()> {
        if let Ok(data) = self.body.frame().await?.ok()?.into_data() {
            self.read.extend_from_slice(&data);
        }
        Some(())
    }

    /// The next event, as a line.
    pub async fn line(&mut self) -> Option<Bytes> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                return Some(self.read.split_to(end + 1).freeze());
            }
            self.more().await?;
        }
    }
}
