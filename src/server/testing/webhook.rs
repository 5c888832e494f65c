//! A webhook server over TLS on loopback, for tests. The whole-system tests use it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use client::tls;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Judge = dyn Fn(&str, &Value) -> Value + Send + Sync;

/// A webhook server. What it answers is `response` of the review, without the UID.
pub struct Webhook {
    /// On loopback.
    pub port: u16,
    /// PEM in base64.
    pub authority: String,
    pub connections: Arc<AtomicUsize>,
    pub calls: Arc<AtomicUsize>,
}

/// TLS with a certificate for `names` of an authority of its own, which is given in base64; whoever
/// connects may prove to be of `clients`, in PEM.
pub fn acceptor(names: &[&str], clients: Option<&str>) -> (tokio_rustls::TlsAcceptor, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = BASE64_STANDARD.encode(ca.self_signed(&ca_key).unwrap().pem());
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let certified = tls::certified(&leaf.pem(), &key.serialize_pem()).unwrap();
    let clients = tls::roots(clients.unwrap_or(&leaf.pem())).unwrap();
    let config = tls::listener_config(clients, tls::Current::new(certified)).unwrap();
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), authority)
}

/// Starts one for admission, with a certificate for `names` of an authority of its own.
pub async fn webhook(names: &[&str], judge: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Webhook {
    https(names, move |_, review| {
        let mut response = judge(&review["request"]);
        response["uid"] = review["request"]["uid"].clone();
        let mut review = review.clone();
        review["response"] = response;
        review
    })
    .await
}

/// Starts a server that answers a path and a body in JSON with JSON.
pub async fn https(names: &[&str], judge: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Webhook {
    let judge: Arc<Judge> = Arc::new(judge);
    let (acceptor, authority) = acceptor(names, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, calls) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let made = Webhook { port, authority, connections: connections.clone(), calls: calls.clone() };
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, judge, calls) = (acceptor.clone(), judge.clone(), calls.clone());
            connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (judge, calls) = (judge.clone(), calls.clone());
                    async move {
                        calls.fetch_add(1, Ordering::Relaxed);
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await?.to_bytes();
                        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
                        let answer = judge(&path, &body).to_string();
                        Ok::<_, hyper::Error>(hyper::Response::new(Full::new(Bytes::from(answer))))
                    }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    made
}

impl Webhook {
    /// A webhook of a configuration, about configmaps; `more` are further fields.
    pub fn entry(&self, name: &str, more: Value) -> Value {
        let mut entry = json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/x", self.port), "caBundle": self.authority},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        for (k, v) in more.as_object().into_iter().flatten() {
            entry[k] = v.clone();
        }
        entry
    }
}

/// The answer that asks for a JSON patch.
pub fn patch(operations: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64_STANDARD.encode(operations.to_string())})
}
