//! One check: exec, HTTP, TCP or gRPC.

use std::time::Duration;

use api::k8s::core::v1::Probe;
use tonic::codegen::http::uri::PathAndQuery;

use super::Target;
use crate::kubelet::cri::ErrorKind;
use crate::kubelet::http::dial;
use crate::kubelet::spec::port;

/// `Err` has the words of the event.
pub(super) async fn check(t: &Target, probe: &Probe, timeout: Duration) -> Result<(), String> {
    if let Some(e) = &probe.exec {
        let command = e.command.clone().unwrap_or_default();
        return match t.runtime.exec_sync(&t.id, &command, timeout).await {
            Ok(out) if out.exit_code == 0 => Ok(()),
            Ok(out) => {
                let mut said = out.stdout;
                said.extend(out.stderr);
                Err(String::from_utf8_lossy(&said).into_owned())
            }
            Err(e) if e.kind == ErrorKind::Timeout => {
                Err(format!("command timed out: {command:?} timed out after {}s", timeout.as_secs()))
            }
            Err(e) => Err(e.message),
        };
    }
    if let Some(g) = &probe.http_get {
        return match crate::kubelet::http::get(g, &t.container, &t.ip, "kube-probe/1.35", timeout).await? {
            (200..=399, _) => Ok(()),
            (code, _) => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    if let Some(s) = &probe.tcp_socket {
        let port = port(&t.container, &s.port).ok_or("the probe's port cannot be found")?;
        let host = s.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| t.ip.clone());
        return match tokio::time::timeout(timeout, dial(&host, port)).await {
            Ok(connected) => connected.map(|_| ()),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    if let Some(g) = &probe.grpc {
        let service = g.service.clone().unwrap_or_default();
        return match tokio::time::timeout(timeout, health(&t.ip, g.port, service)).await {
            Ok(r) => r,
            Err(_) => Err(format!("timeout: health rpc did not complete within {}s", timeout.as_secs())),
        };
    }
    Err("the probe has no action".into())
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; status 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn health(ip: &str, port: i32, service: String) -> Result<(), String> {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let endpoint = tonic::transport::Endpoint::try_from(format!("http://{host}:{port}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| format!("failed to connect service \"{host}:{port}\": {e}"))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| e.to_string())?;
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = grpc.unary(tonic::Request::new(HealthRequest { service }), path, codec).await;
    match answer {
        Ok(a) if a.get_ref().status == 1 => Ok(()),
        Ok(a) => {
            let words = match a.get_ref().status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with {words:?})"))
        }
        Err(s) if s.code() == tonic::Code::Unimplemented => {
            Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into())
        }
        Err(s) => Err(s.message().to_owned()),
    }
}
