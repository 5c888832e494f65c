//! From a container's volumeMounts to the runtime's mounts.

use std::path::{Component, Path, PathBuf};

use api::k8s::core::v1::{Container, Pod, VolumeMount};

use super::Ready;
use crate::kubelet::cri::v1;
use crate::kubelet::env::expand;
use crate::kubelet::spec::is_privileged;

/// Resolves a sub path without letting a link in the volume lead out of it.
fn sub_path(volume: &Path, sub: &str, may_create: bool) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(format!("subPath {sub:?} must be a relative path without '..'"));
    }
    let root = volume.canonicalize().map_err(|e| e.to_string())?;
    let path = root.join(relative);
    if !path.exists() {
        if !may_create {
            return Err(format!("subPath {sub:?} does not exist"));
        }
        // Only below what is there already and inside.
        let mut above = path.as_path();
        while !above.exists() {
            above = above.parent().ok_or("a subPath has no parent")?;
        }
        if !above.canonicalize().map_err(|e| e.to_string())?.starts_with(&root) {
            return Err(format!("subPath {sub:?} leads out of the volume"));
        }
        std::fs::create_dir_all(&path)
            .map_err(|e| format!("failed to create subPath directory for volumeMount: {e}"))?;
    }
    let real = path.canonicalize().map_err(|e| e.to_string())?;
    if real.starts_with(&root) { Ok(real) } else { Err(format!("subPath {sub:?} leads out of the volume")) }
}

fn one(
    pod: &Pod,
    c: &Container,
    m: &VolumeMount,
    ready: &Ready,
    env: &[(String, String)],
) -> Result<v1::Mount, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let volume = spec.volumes.iter().flatten().find(|v| v.name == m.name);
    let (Some(volume), Some(host)) = (volume, ready.paths.get(&m.name)) else {
        return Err(format!("mount {:?} has no volume", m.name));
    };
    let sub = match (&m.sub_path_expr, &m.sub_path) {
        (Some(e), _) if !e.is_empty() => expand(e, |n| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone())),
        (_, Some(s)) => s.clone(),
        _ => String::new(),
    };
    let generated = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    let host = if sub.is_empty() { host.clone() } else { sub_path(host, &sub, !generated)? };
    let propagation = match m.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") if is_privileged(c) => v1::MountPropagation::PropagationBidirectional,
        Some("Bidirectional") => return Err("Bidirectional mount propagation is for privileged containers only".into()),
        _ => v1::MountPropagation::PropagationPrivate,
    };
    let claim_read_only = volume.persistent_volume_claim.as_ref().and_then(|p| p.read_only) == Some(true);
    let container_path =
        if m.mount_path.starts_with('/') { m.mount_path.clone() } else { format!("/{}", m.mount_path) };
    Ok(v1::Mount {
        container_path,
        host_path: host.to_string_lossy().into_owned(),
        readonly: m.read_only == Some(true) || generated || claim_read_only,
        propagation: propagation as i32,
        ..Default::default()
    })
}

/// All mounts that a container's spec names.
///
/// # Errors
/// The words of the event, when one cannot be.
pub fn mounts(pod: &Pod, c: &Container, ready: &Ready, env: &[(String, String)]) -> Result<Vec<v1::Mount>, String> {
    if let Some(d) = c.volume_devices.iter().flatten().next() {
        return Err(format!("block volume {:?} is not supported by this node", d.name));
    }
    c.volume_mounts.iter().flatten().map(|m| one(pod, c, m, ready, env)).collect()
}

#[cfg(test)]
mod tests {
    use super::sub_path;

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sub_path(dir.path(), "a/b", true).unwrap().is_dir());
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        assert!(sub_path(dir.path(), "out", true).is_err());
        assert!(sub_path(dir.path(), "out/new", true).is_err());
        assert!(sub_path(dir.path(), "../x", true).is_err());
        assert!(sub_path(dir.path(), "none", false).is_err());
    }
}
