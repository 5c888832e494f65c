//! Volumes: one file for each kind. Setting up is idempotent: it is run again whenever an object
//! that a volume shows has changed, and only writes what differs.
//!
//! * [`writer`] – writes a set of files so that readers see all of the old or all of the new ones.
//! * [`payload`] – what ConfigMaps, Secrets, the downward API and tokens put into files.
//! * [`empty_dir`], [`host_path`], [`claim`] – folders.
//! * [`mounts`] – from volumeMounts to the runtime's mounts.
//!
//! Layout, as upstream's: `<pod>/volumes/kubernetes.io~<kind>/<name>`.

pub mod claim;
pub mod empty_dir;
pub mod host_path;
pub mod mounts;
pub mod payload;
pub mod writer;

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::k8s::core::v1::{Pod, Volume};
use client::Client;
use jiff::Timestamp;
use nix::mount::{MntFlags, umount2};

use super::env::PodFacts;
use super::objects::Objects;
use super::spec::identity;
use crate::config::Paths;

/// A volume that cannot be set up: the words of the FailedMount event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
pub struct Error {
    /// Its name.
    pub volume: String,
    /// Why.
    pub message: String,
}

/// Volumes that are set up.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Where each volume is on the host.
    pub paths: HashMap<String, PathBuf>,
    /// When a token in one of them must be renewed.
    pub refresh_at: Option<Timestamp>,
}

/// Sets volumes up and takes them down.
#[derive(Debug)]
pub struct Volumes {
    paths: Paths,
    client: Client,
    tokens: payload::Tokens,
}

/// What the kinds need.
pub(super) struct Setup<'a> {
    pub pod: &'a Pod,
    pub facts: &'a PodFacts,
    pub objects: &'a Objects,
    pub client: &'a Client,
    pub tokens: &'a payload::Tokens,
    pub fs_group: Option<u32>,
    pub refresh_at: Option<Timestamp>,
}

fn kind(v: &Volume) -> &'static str {
    let value = serde_json::to_value(v).unwrap_or_default();
    let keys = value.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    // Only for words in events.
    [
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "csi",
        "ephemeral",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "glusterfs",
        "image",
        "iscsi",
        "nfs",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ]
    .into_iter()
    .find(|k| keys.iter().any(|own| own == k))
    .unwrap_or("unknown")
}

impl Volumes {
    /// A new one.
    pub fn new(paths: Paths, client: Client) -> Volumes {
        Volumes { paths, tokens: payload::Tokens::new(client.clone()), client }
    }

    fn folder(&self, uid: &str, kind: &str, name: &str) -> PathBuf {
        self.paths.pod(uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
    }

    /// Sets up all of a pod's volumes, or brings them up to date.
    ///
    /// # Errors
    /// The first volume that cannot be set up.
    pub async fn set_up(&self, pod: &Pod, facts: &PodFacts, objects: &Objects) -> Result<Ready, Error> {
        let uid = identity(pod).uid;
        let spec = pod.spec.as_ref();
        let fs_group =
            spec.and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
        let mut setup =
            Setup { pod, facts, objects, client: &self.client, tokens: &self.tokens, fs_group, refresh_at: None };
        let mut ready = Ready::default();
        for v in spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
            let path =
                self.one(&uid, v, &mut setup).await.map_err(|message| Error { volume: v.name.clone(), message })?;
            ready.paths.insert(v.name.clone(), path);
        }
        ready.refresh_at = setup.refresh_at;
        Ok(ready)
    }

    async fn one(&self, uid: &str, v: &Volume, setup: &mut Setup<'_>) -> Result<PathBuf, String> {
        let dir = |kind: &str| self.folder(uid, kind, &v.name);
        if let Some(e) = &v.empty_dir {
            let path = dir("empty-dir");
            empty_dir::set_up(&path, e, setup.fs_group)?;
            return Ok(path);
        }
        if let Some(h) = &v.host_path {
            return host_path::check(&h.path, h.type_.as_deref().unwrap_or_default());
        }
        if let Some(p) = &v.persistent_volume_claim {
            return claim::set_up(setup, &p.claim_name).await;
        }
        if v.ephemeral.is_some() {
            let name = format!("{}-{}", identity(setup.pod).name, v.name);
            return claim::set_up(setup, &name).await;
        }
        let (kind_of_path, files) = if let Some(c) = &v.config_map {
            ("configmap", payload::config_map(setup, c).await?)
        } else if let Some(s) = &v.secret {
            ("secret", payload::secret(setup, s).await?)
        } else if let Some(d) = &v.downward_api {
            ("downward-api", payload::downward(setup, d.items.as_deref().unwrap_or_default(), d.default_mode)?)
        } else if let Some(p) = &v.projected {
            ("projected", payload::projected(setup, p).await?)
        } else {
            return Err(format!("volumes of kind {} are not supported by this node", kind(v)));
        };
        let path = dir(kind_of_path);
        // Contents that may be secret never reach the disk.
        empty_dir::tmpfs(&path, None)?;
        writer::write(&path, &files, setup.fs_group).map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// Unmounts and removes everything of a pod. Fails while something is still in use.
    ///
    /// # Errors
    /// What could not be unmounted or removed.
    pub fn tear_down(&self, uid: &str) -> std::io::Result<()> {
        let dir = self.paths.pod(uid);
        for mount in crate::containerd::mounts_below(&[&dir]) {
            umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => {
                self.tokens.forget(uid);
                Ok(())
            }
        }
    }

    /// UIDs of pods that have a folder.
    pub fn pods(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.paths.pods()).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }
}

/// Gives a tree to a group: group ownership, read and write for the group, setgid on folders.
pub(super) fn own_by_group(path: &Path, gid: u32) -> std::io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    if meta.gid() != gid {
        std::os::unix::fs::lchown(path, None, Some(gid))?;
    }
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let extra = if meta.is_dir() { 0o2770 } else { 0o660 };
    let mode = meta.mode() & 0o7777;
    if mode & extra != extra {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | extra))?;
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            own_by_group(&entry?.path(), gid)?;
        }
    }
    Ok(())
}
