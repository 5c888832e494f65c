//! Lifecycle hooks: `postStart` and `preStop`. Upstream: `pkg/kubelet/lifecycle/handlers.go`.

use std::time::Duration;

use api::k8s::core::v1::{Container, LifecycleHandler};

use super::cri::Runtime;
use super::spec::port;

/// Runs a hook to its end.
///
/// # Errors
/// What went wrong, for the event.
pub async fn run(
    runtime: &dyn Runtime,
    handler: &LifecycleHandler,
    c: &Container,
    id: &str,
    pod_ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(e) = &handler.exec {
        let command = e.command.clone().unwrap_or_default();
        let out = runtime.exec_sync(id, &command, timeout).await.map_err(|e| e.message)?;
        if out.exit_code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(if out.stderr.is_empty() { &out.stdout } else { &out.stderr }).into_owned();
        return Err(format!("command '{}' exited with {}: {said}", command.join(" "), out.exit_code));
    }
    if let Some(g) = &handler.http_get {
        return match super::http::get(g, c, pod_ip, "kube-lifecycle/1.35", timeout).await? {
            (200..=399, _) => Ok(()),
            (code, _) => Err(format!("HTTP hook failed with statuscode: {code}")),
        };
    }
    if let Some(t) = &handler.tcp_socket {
        let port = port(c, &t.port).ok_or("the hook's port cannot be found")?;
        let host = t.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let connect = tokio::net::TcpStream::connect((host.as_str(), port));
        return match tokio::time::timeout(timeout, connect).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("timed out".into()),
        };
    }
    if let Some(s) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0)).min(timeout)).await;
        return Ok(());
    }
    Err("invalid handler: no action is given".into())
}
