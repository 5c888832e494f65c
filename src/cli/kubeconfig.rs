//! The kubeconfig that `sampan server` writes, and that other commands reach the cluster with.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::private_file;
use client::tls::{self, Current, Trust};
use client::{Client, Https};
use serde_json::{Value, json};
use server::pki::{Authority, Leaf};
use tokio_util::task::TaskTracker;

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
    private_file::write(path, &text)
        .context("the kubeconfig was not written; choose another place with --write-kubeconfig")
}

/// A cluster, and who somebody is in it.
pub struct Access {
    server: String,
    /// The authority of the servers, PEM.
    pub ca: String,
    certificate: String,
    key: String,
}

fn named<'a>(config: &'a Value, list: &str, name: &Value, what: &str) -> Result<&'a Value> {
    let found = config[list].as_array().into_iter().flatten().find(|e| e["name"] == *name);
    found.map(|e| &e[what]).with_context(|| format!("it names the {what} {name}, which is not in it"))
}

fn embedded(of: &Value, field: &str) -> Result<String> {
    let text = of[field].as_str().with_context(|| format!("its {field} is missing"))?;
    let bytes = BASE64_STANDARD.decode(text).with_context(|| format!("its {field} is no base64"))?;
    String::from_utf8(bytes).with_context(|| format!("its {field} is no text"))
}

impl Access {
    /// Reads the current context of a kubeconfig whose certificates are embedded.
    ///
    /// # Errors
    /// A file that cannot be read, or lacks something.
    pub fn read(path: &Path) -> Result<Access> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read {}; run this on a server, or name its kubeconfig with --kubeconfig", path.display())
        })?;
        let parse = || -> Result<Access> {
            let config: Value = serde_yaml::from_str(&text)?;
            let context = named(&config, "contexts", &config["current-context"], "context")?;
            let cluster = named(&config, "clusters", &context["cluster"], "cluster")?;
            let user = named(&config, "users", &context["user"], "user")?;
            Ok(Access {
                server: cluster["server"].as_str().context("its cluster has no server")?.to_owned(),
                ca: embedded(cluster, "certificate-authority-data")?,
                certificate: embedded(user, "client-certificate-data")?,
                key: embedded(user, "client-key-data")?,
            })
        };
        parse().with_context(|| format!("{} is not a kubeconfig that can be used here", path.display()))
    }

    /// A client of that cluster as that user.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn connect(&self, tasks: &TaskTracker) -> Result<Client> {
        Ok(Client::new(Arc::new(self.https(tasks)?)))
    }

    /// The connections of [`Access::connect`], for paths that are no resources.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn https(&self, tasks: &TaskTracker) -> Result<Https> {
        let server = self.server.parse().map_err(anyhow::Error::msg)?;
        let identity = Current::new(tls::certified(&self.certificate, &self.key)?);
        let config = tls::client_config(Trust::Roots(tls::roots(&self.ca)?), Some(identity), &["h2"])?;
        let agent = format!("sampan/{}", api::VERSION);
        Https::new(vec![server], config, None, &agent, tasks.clone()).map_err(anyhow::Error::new)
    }
}
