//! The kubelet's HTTPS server, port 10250: logs, exec, attach, port-forward, stats, metrics.
//!
//! Who asks is known by a client certificate (which the given `ServerConfig` verifies) or a bearer
//! token (TokenReview); whether it may is asked by SubjectAccessReview. See [`auth`].
//!
//! * [`logs`] – container logs. [`streams`] – connections spliced to the runtime's streaming server.
//! * [`stats`] – `/stats/summary` and the metrics.

mod auth;
mod logs;
mod stats;
mod streams;

use std::collections::HashMap;
use std::sync::Arc;

use api::Status;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::kubelet::Shared;
use crate::kubelet::pods::Pods;

type Answer = Result<Response<Body>, Status>;

/// See the module.
pub struct Server {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    stats: stats::Stats,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

/// The query of a request; names may come more than once.
pub(crate) struct Query(Vec<(String, String)>);

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let hex: Vec<u8> = bytes.by_ref().take(2).collect();
                match std::str::from_utf8(&hex).ok().and_then(|h| u8::from_str_radix(h, 16).ok()) {
                    Some(b) => out.push(b),
                    None => {
                        out.push(b'%');
                        out.extend(hex);
                    }
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (decoded(k), decoded(v))
        });
        Query(pairs.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            None => Ok(None),
            Some(v) => match v.parse::<i64>() {
                Ok(n) if n >= 0 => Ok(Some(n)),
                _ => Err(Status::bad_request(format!("{name} must be a number that is not negative"))),
            },
        }
    }
}

fn text(code: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut r = Response::new(body.into());
    *r.status_mut() = code;
    r.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    r
}

fn json_answer(value: &serde_json::Value) -> Response<Body> {
    text(StatusCode::OK, "application/json", value.to_string())
}

/// Failures are plain text, as upstream's kubelet answers them.
fn failure(s: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(s.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    text(code, "text/plain; charset=utf-8", format!("{}\n", s.message))
}

impl Server {
    /// A server over these pods.
    pub fn new(shared: Arc<Shared>, pods: Arc<Pods>) -> Arc<Server> {
        Arc::new(Server { shared, pods, stats: stats::Stats::default() })
    }

    /// Accepts connections until it is cancelled.
    pub async fn run(self: Arc<Self>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        loop {
            let (stream, _) = match listener.accept().await {
                Ok(s) => s,
                Err(e) => {
                    tracing::debug!(error = %e, "a connection was not accepted");
                    // Out of file descriptors, most likely.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            let cancel = self.shared.cancel.clone();
            self.shared.tasks.spawn(async move {
                let _ = cancel.run_until_cancelled(server.connection(stream, acceptor)).await;
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(std::time::Duration::from_secs(10), acceptor.accept(stream));
        let Ok(Ok(stream)) = handshake.await else { return };
        let peer = auth::Peer::of(stream.get_ref().1.peer_certificates());
        let service = hyper::service::service_fn(move |r: Request<hyper::body::Incoming>| {
            let (server, peer) = (self.clone(), peer.clone());
            async move {
                let answer = server.answer(r, peer).await.unwrap_or_else(|s| failure(&s));
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let served =
            Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        if let Err(e) = served {
            tracing::debug!(error = %e, "a connection ended badly");
        }
    }

    async fn answer(&self, request: Request<hyper::body::Incoming>, peer: Option<auth::Peer>) -> Answer {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        auth::check(&self.shared, &request, peer, &path).await?;
        let parts: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => Ok(text(StatusCode::OK, "text/plain", "ok")),
            ["pods"] => Ok(self.pod_list()),
            ["runningpods"] => Ok(self.pod_list()),
            ["configz"] => Ok(self.configz()),
            ["containerLogs", namespace, pod, container] => self.logs(namespace, pod, container, &query).await,
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
                self.run_command(namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.exec(request, namespace, pod, container, &query).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.attach(request, namespace, pod, container, &query).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(request, namespace, pod, &query).await
            }
            ["stats"] | ["stats", "summary"] => Ok(json_answer(&self.stats.summary(&self.shared, &self.pods).await?)),
            ["metrics"] => Ok(self.metrics(self.stats.own(&self.pods))),
            ["metrics", "cadvisor"] => Ok(self.metrics(self.stats.cadvisor(&self.shared).await?)),
            ["metrics", "resource"] => Ok(self.metrics(self.stats.resource(&self.shared).await?)),
            ["metrics", "probes"] => Ok(self.metrics(String::new())),
            _ => Err(Status::new(404, "NotFound", "404 page not found")),
        }
    }

    fn metrics(&self, body: String) -> Response<Body> {
        text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
    }

    fn pod_list(&self) -> Response<Body> {
        let items: Vec<serde_json::Value> = self
            .pods
            .list()
            .into_iter()
            .map(|(pod, _)| {
                let mut pod = (*pod).clone();
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                if let Some(status) = self.shared.statuses.get(&uid) {
                    pod.status = Some(status);
                }
                serde_json::to_value(pod).unwrap_or_default()
            })
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn configz(&self) -> Response<Body> {
        let c = &self.shared.config;
        json_answer(&json!({"kubeletconfig": {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "staticPodPath": c.static_pod_dir, "port": c.kubelet_bind.port(), "maxPods": c.max_pods,
            "clusterDomain": c.cluster_domain, "clusterDNS": c.cluster_dns, "resolvConf": c.resolv_conf,
            "cgroupDriver": "cgroupfs", "containerLogMaxSize": "10Mi", "containerLogMaxFiles": 5,
            "nodeStatusUpdateFrequency": "10s", "nodeStatusReportFrequency": "5m0s", "nodeLeaseDurationSeconds": 40,
        }}))
    }
}

/// Names of one pod's containers by id, for stats.
pub(crate) fn container_names(labels: &HashMap<String, String>) -> Option<(String, String, String, String)> {
    use crate::kubelet::observed::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
    Some((
        labels.get(POD_NAMESPACE)?.clone(),
        labels.get(POD_NAME)?.clone(),
        labels.get(POD_UID)?.clone(),
        labels.get(CONTAINER_NAME).cloned().unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let q = Query::parse("command=sh&command=-c&command=echo+a%20b%2Bc&tty=1");
        assert_eq!(q.all("command"), ["sh", "-c", "echo a b+c"]);
        assert!(q.flag("tty") && !q.flag("input"));
    }
}
