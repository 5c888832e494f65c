//! `emptyDir`: a folder on the node's disk, or a tmpfs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::k8s::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::kubelet::resources;

fn is_tmpfs(path: &Path) -> bool {
    let own = std::fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::dev(&m));
    let above = path.parent().and_then(|p| std::fs::metadata(p).ok()).map(|m| std::os::unix::fs::MetadataExt::dev(&m));
    own.ok() != above && statfs(path).is_ok_and(|s| s.filesystem_type() == TMPFS_MAGIC)
}

/// Mounts a tmpfs on a folder, unless there is one.
pub(super) fn tmpfs(path: &Path, size: Option<i64>) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|e| e.to_string())?;
    if is_tmpfs(path) {
        return Ok(());
    }
    let options = match size.filter(|s| *s > 0) {
        Some(bytes) => format!("mode=0777,size={bytes}"),
        None => "mode=0777".to_owned(),
    };
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(|e| format!("cannot mount a tmpfs: {e}"))
}

pub(super) fn set_up(path: &Path, v: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), String> {
    let medium = v.medium.as_deref().unwrap_or_default();
    let fresh = !path.exists();
    match medium {
        "" => std::fs::create_dir_all(path).map_err(|e| e.to_string())?,
        "Memory" => tmpfs(path, v.size_limit.as_ref().map(resources::value))?,
        other => return Err(format!("emptyDir on the medium {other} is not supported by this node")),
    }
    if fresh {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).map_err(|e| e.to_string())?;
        if let Some(gid) = group {
            super::own_by_group(path, gid).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}
