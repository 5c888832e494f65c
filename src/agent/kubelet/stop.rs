//! Stops containers, gracefully: preStop, SIGTERM, and SIGKILL after the grace period.

use std::time::{Duration, Instant};

use api::k8s::core::v1::Pod;

use super::Shared;
use super::actions::Role;
use super::observed::{Container, Observed};
use super::resources::is_sidecar;
use super::start::{about, find};

/// Containers get at least this much after a preStop hook that used all of the time.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// The role of a container by its name.
pub(super) fn role(pod: &Pod, name: &str) -> Role {
    let Some(s) = pod.spec.as_ref() else { return Role::Regular };
    if s.containers.iter().any(|c| c.name == name) {
        return Role::Regular;
    }
    match s.init_containers.iter().flatten().find(|c| c.name == name) {
        Some(c) if is_sidecar(c) => Role::Sidecar,
        Some(_) => Role::Init,
        None => Role::Ephemeral,
    }
}

/// Stops one container.
pub(super) async fn container(
    shared: &Shared,
    pod: &Pod,
    c: &Container,
    pod_ip: &str,
    grace: Duration,
    message: &str,
) -> Result<(), super::cri::Error> {
    let role = role(pod, &c.name);
    let about = about(pod, &c.name, role);
    shared.recorder.normal(about.clone(), "Killing", message);
    let begun = Instant::now();
    let spec = find(pod, &c.name, role);
    let hook = spec.as_ref().and_then(|s| s.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    if let (Some(spec), Some(hook)) = (&spec, hook)
        && !grace.is_zero()
    {
        let run = super::hooks::run(&*shared.runtime, hook, spec, &c.id, pod_ip, grace);
        match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => shared.recorder.warning(about, "FailedPreStopHook", format!("PreStopHook failed: {why}")),
            Err(_) => tracing::warn!(container = %c.id, "the preStop hook did not end within the grace period"),
        }
    }
    let left = if grace.is_zero() { grace } else { grace.saturating_sub(begun.elapsed()).max(GRACE_MIN) };
    shared.runtime.stop_container(&c.id, left).await
}

/// Stops everything of a pod: regular containers at once, then sidecars, the last first.
pub(super) async fn pod(shared: &Shared, pod: &Pod, seen: &Observed, grace: Duration) -> Result<(), super::cri::Error> {
    let ip = seen.ready_sandbox().and_then(|s| s.ips.first()).cloned().unwrap_or_default();
    let begun = Instant::now();
    let (sidecars, others): (Vec<&Container>, Vec<&Container>) =
        seen.running().partition(|c| role(pod, &c.name) == Role::Sidecar);
    let one = |c: &Container, grace: Duration| {
        let (c, ip) = (c.clone(), ip.clone());
        async move {
            let message = format!("Stopping container {}", c.name);
            container(shared, pod, &c, &ip, grace, &message).await
        }
    };
    futures::future::try_join_all(others.into_iter().map(|c| one(c, grace))).await?;
    let order: Vec<&str> =
        pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| c.name.as_str()).rev().collect();
    for name in order {
        if let Some(c) = sidecars.iter().find(|c| c.name == name) {
            let left = if grace.is_zero() { grace } else { grace.saturating_sub(begun.elapsed()).max(GRACE_MIN) };
            one(c, left).await?;
        }
    }
    for s in seen.sandboxes.iter().filter(|s| s.ready) {
        shared.runtime.stop_sandbox(&s.id).await?;
    }
    Ok(())
}
