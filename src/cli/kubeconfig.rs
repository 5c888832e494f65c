//! The kubeconfig that `sampan server` writes.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use server::pki::{Authority, Leaf};

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// Writes a kubeconfig for `user`, readable by its owner only, replacing an older one at once.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, server: &str, ca: &Authority, user: &str, leaf: &Leaf) -> Result<()> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {},
        "clusters": [{"name": "default", "cluster": {"server": server, "certificate-authority-data": base64(&ca.certificate_pem)}}],
        "users": [{"name": user, "user": {"client-certificate-data": base64(&leaf.certificate_pem), "client-key-data": base64(&leaf.key_pem)}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": user}}],
        "current-context": "default",
    });
    let text = serde_yaml::to_string(&config).context("the kubeconfig cannot be written as YAML")?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut f = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        f.write_all(text.as_bytes())?;
        f.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}; choose another place with --write-kubeconfig", path.display()))
}
