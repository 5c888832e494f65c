//! `persistentVolumeClaim` (and the claims of `ephemeral`), for volumes that are folders of this
//! node: `local` and `hostPath`.

use std::path::PathBuf;

use api::k8s::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{Setup, host_path, own_by_group};
use crate::kubelet::spec::identity;

pub(super) async fn set_up(setup: &Setup<'_>, claim: &str) -> Result<PathBuf, String> {
    let namespace = identity(setup.pod).namespace;
    let found = setup.client.get::<PersistentVolumeClaim>(&namespace, claim).await.map_err(|s| s.to_string())?;
    let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = found.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| bound && !n.is_empty());
    let name = name.ok_or_else(|| format!("persistentvolumeclaim {namespace}/{claim} is not bound"))?;
    let volume = setup.client.get::<PersistentVolume>("", name).await.map_err(|s| s.to_string())?;
    let spec = volume.spec.as_ref().ok_or_else(|| format!("persistentvolume {name} has no spec"))?;
    if spec.claim_ref.as_ref().is_none_or(|c| c.uid != found.metadata.uid) {
        return Err(format!("persistentvolume {name} is not bound to {namespace}/{claim}"));
    }
    if let Some(h) = &spec.host_path {
        return host_path::check(&h.path, h.type_.as_deref().unwrap_or_default());
    }
    if let Some(l) = &spec.local {
        let path = PathBuf::from(&l.path);
        if !path.is_dir() {
            return Err(format!("path {:?} does not exist", l.path));
        }
        if let Some(gid) = setup.fs_group {
            own_by_group(&path, gid).map_err(|e| e.to_string())?;
        }
        return Ok(path);
    }
    Err(format!("persistentvolume {name} is of a kind that is not supported by this node"))
}
