//! exec, attach and port-forward: the runtime gives a URL of its own streaming server on this
//! host, and the upgraded connection is spliced to it byte for byte (SPDY/3.1 and WebSocket v4).
//! Protocols that this server does not have (WebSocket v5, port-forward over WebSocket) are refused,
//! at which clients fall back to SPDY.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::core::v1::Pod;
use axum::body::Body;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Answer, Query, Server, text};
use crate::kubelet::cri::{Error, v1};
use crate::kubelet::observed::{Container, Observed, State};

const PROTOCOLS: &str = "sec-websocket-protocol";

fn of_runtime(e: Error) -> Status {
    Status::new(500, "InternalError", e.message)
}

/// Whether containerd's streaming server has a WebSocket sub-protocol for exec and attach.
fn is_known(protocol: &str) -> bool {
    matches!(
        protocol,
        "" | "channel.k8s.io" | "base64.channel.k8s.io" | "v4.channel.k8s.io" | "v4.base64.channel.k8s.io"
    )
}

impl Server {
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<(Arc<Pod>, Arc<Observed>), Status> {
        self.pods.find(namespace, name).ok_or_else(|| Status::new(404, "NotFound", "pod does not exist"))
    }

    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<Container, Status> {
        let (_, seen) = self.pod(namespace, pod)?;
        seen.latest(container)
            .filter(|c| c.state == State::Running)
            .cloned()
            .ok_or_else(|| Status::new(404, "NotFound", format!("container not found (\"{container}\")")))
    }

    /// `/run`: a command to its end.
    pub(super) async fn run_command(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
        let c = self.running(namespace, pod, container)?;
        let command = query.all("cmd");
        let command: Vec<String> = command.iter().flat_map(|c| c.split_whitespace()).map(str::to_owned).collect();
        let out = self.shared.runtime.exec_sync(&c.id, &command, Duration::from_secs(120)).await.map_err(of_runtime)?;
        let mut body = out.stdout;
        body.extend(out.stderr);
        if out.exit_code != 0 {
            body.extend(format!("command terminated with exit code {}\n", out.exit_code).bytes());
            return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", body));
        }
        Ok(text(StatusCode::OK, "text/plain", body))
    }

    pub(super) async fn exec(
        &self,
        request: Request<hyper::body::Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Answer {
        let c = self.running(namespace, pod, container)?;
        let tty = query.flag("tty");
        let ask = v1::ExecRequest {
            container_id: c.id,
            cmd: query.all("command"),
            tty,
            stdin: query.flag("input"),
            stdout: query.flag("output"),
            stderr: query.flag("error") && !tty,
        };
        if !(ask.stdin || ask.stdout || ask.stderr) {
            return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let url = self.shared.runtime.exec(ask).await.map_err(of_runtime)?;
        self.splice(request, &url, is_known).await
    }

    pub(super) async fn attach(
        &self,
        request: Request<hyper::body::Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Answer {
        let c = self.running(namespace, pod, container)?;
        let (spec, _) = self.pod(namespace, pod)?;
        // What the container was started with decides, not what the client believes.
        let tty = spec
            .spec
            .iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|s| s.name == container)
            .map_or_else(|| query.flag("tty"), |s| s.tty == Some(true));
        let ask = v1::AttachRequest {
            container_id: c.id,
            stdin: query.flag("input"),
            tty,
            stdout: query.flag("output"),
            stderr: query.flag("error") && !tty,
        };
        let url = self.shared.runtime.attach(ask).await.map_err(of_runtime)?;
        self.splice(request, &url, is_known).await
    }

    pub(super) async fn port_forward(
        &self,
        request: Request<hyper::body::Incoming>,
        namespace: &str,
        pod: &str,
        query: &Query,
    ) -> Answer {
        let (_, seen) = self.pod(namespace, pod)?;
        let sandbox =
            seen.ready_sandbox().ok_or_else(|| Status::new(404, "NotFound", "the pod's sandbox does not run"))?;
        let port = query.all("port").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        let ask = v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
        let url = self.shared.runtime.port_forward(ask).await.map_err(of_runtime)?;
        self.splice(request, &url, |p| is_known(p) && p != "channel.k8s.io").await
    }

    /// Repeats an upgrade request at the runtime's streaming server and, when that agrees, joins the
    /// two connections.
    async fn splice(
        &self,
        mut request: Request<hyper::body::Incoming>,
        url: &str,
        known: impl Fn(&str) -> bool,
    ) -> Answer {
        if request.headers().get(UPGRADE).is_none() {
            return Err(Status::bad_request("unable to upgrade: missing upgrade headers in request"));
        }
        let offered: Vec<String> = request
            .headers()
            .get_all(PROTOCOLS)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(|p| p.trim().to_owned())
            .collect();
        let usable: Vec<&str> = offered.iter().map(String::as_str).filter(|p| known(p)).collect();
        if !offered.is_empty() && usable.is_empty() {
            let message = format!("none of the sub-protocols is supported: {}", offered.join(", "));
            return Err(Status::new(403, "Forbidden", message));
        }
        let to: Uri = url.parse().map_err(|e| Status::internal(format!("the runtime's streaming URL: {e}")))?;
        let authority =
            to.authority().ok_or_else(|| Status::internal("the runtime's streaming URL has no host"))?.clone();
        let stream =
            TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80)))
                .await
                .map_err(|e| Status::internal(format!("cannot reach the runtime's streaming server: {e}")))?;
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Status::internal)?;
        let cancel = self.shared.cancel.clone();
        self.shared.tasks.spawn(async move {
            let _ = cancel.run_until_cancelled(connection.with_upgrades()).await;
        });
        let mut forward = Request::builder()
            .method(request.method().clone())
            .uri(to.path_and_query().map_or("/", http::uri::PathAndQuery::as_str));
        if let Some(headers) = forward.headers_mut() {
            for (k, v) in request.headers() {
                if k != HOST && k != PROTOCOLS && k != http::header::AUTHORIZATION && k != http::header::CONTENT_LENGTH
                {
                    headers.append(k.clone(), v.clone());
                }
            }
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                headers.insert(HOST, host);
            }
            if let Ok(protocols) = HeaderValue::from_str(&usable.join(", "))
                && !offered.is_empty()
            {
                headers.insert(PROTOCOLS, protocols);
            }
        }
        let forward = forward.body(http_body_util::Empty::<bytes::Bytes>::new()).map_err(Status::internal)?;
        let mut answer = sender.send_request(forward).await.map_err(Status::internal)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = answer.into_parts();
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        let ours = hyper::upgrade::on(&mut request);
        let theirs = hyper::upgrade::on(&mut answer);
        let cancel = self.shared.cancel.clone();
        self.shared.tasks.spawn(async move {
            let join = async {
                let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
                let _ = ours.shutdown().await;
            };
            let _ = cancel.run_until_cancelled(join).await;
        });
        let mut out = Response::new(Body::empty());
        *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (k, v) in answer.headers() {
            out.headers_mut().append(k.clone(), v.clone());
        }
        if !out.headers().contains_key(CONNECTION) {
            out.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        Ok(out)
    }
}
