//! Images that do not come from a registry: our own sandbox image and tarballs in a folder.
//!
//! * [`oci`] – images as blobs in memory.
//! * [`pause`] – the sandbox image.
//! * [`store`] – writes blobs and names into containerd.
//! * [`import`] – `docker save` and OCI-layout tarballs.

pub mod import;
pub mod oci;
pub mod pause;
pub mod store;

use std::path::PathBuf;

/// Why an image did not get into containerd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No sandbox program for this architecture.
    #[error("there is no sandbox program for the architecture {0}")]
    Architecture(String),
    /// A tar archive that cannot be read or written.
    #[error("the archive cannot be read")]
    Archive(#[source] std::io::Error),
    /// A tarball that is not an image.
    #[error("{0} is not an image archive: {1}")]
    NotAnImage(PathBuf, String),
    /// A call to containerd failed.
    #[error("containerd: {0}: {1}")]
    Containerd(&'static str, String),
}
