//! How a machine becomes a node: it shows a join token and gets certificates
//! (the protocol is described in `client::join`).
//!
//! A name belongs to the first machine that joins with it: that machine's password is kept, hashed,
//! in the secret `<node>.node-password.sampan` of `kube-system`, and another machine that comes with
//! the same name is refused for as long as the Node exists.

use std::sync::Arc;

use api::Status;
use api::codec::Decoded;
use client::join::{ClusterSettings, JOINERS, JoinRequest, JoinResponse, hex};
use serde_json::{Value, json};
use sha2::Digest;

use crate::Server;
use crate::bootstrap::system;
use crate::pki::{KUBELET_CLIENT, Usage};
use crate::registry::WriteContext;
use crate::request::User;

const NAMESPACE: &str = "kube-system";
const HASH: &str = "hash";

fn hash_of(password: &str) -> String {
    hex(&sha2::Sha256::digest(password))
}

impl Server {
    /// Answers a machine that joins, or a node that renews its certificates.
    ///
    /// # Errors
    /// 400 for a request that makes no sense, 403 for somebody who may not have that name.
    pub async fn join(self: &Arc<Self>, user: &User, body: &[u8]) -> Result<JoinResponse, Status> {
        let request: JoinRequest =
            serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("no join request: {e}")))?;
        let node = &request.node_name;
        if let Some(e) = api::names::dns1123_subdomain(node) {
            return Err(Status::bad_request(format!("the node name {node:?} cannot be used: {e}")));
        }
        let identity = format!("system:node:{node}");
        if user.name != identity {
            if !user.in_group(JOINERS) {
                let why = format!("only the node itself may renew its certificates, and {:?} is not", user.name);
                return Err(Status::forbidden("", "nodes", node, &why));
            }
            self.admit(node, &request.node_password).await?;
        }
        let refused = |e: crate::pki::Error| Status::bad_request(format!("{e}"));
        let (pki, clients) = (self.pki(), Some("system:nodes"));
        let client_certificate = pki
            .client_ca
            .sign_request(&request.client_request, &identity, clients, Usage::Client, &[])
            .map_err(refused)?;
        let names: Vec<String> =
            std::iter::once(node.clone()).chain(request.addresses.iter().map(ToString::to_string)).collect();
        let serving_certificate = pki
            .kubelet_ca
            .sign_request(&request.serving_request, &identity, clients, Usage::Server, &names)
            .map_err(refused)?;
        tracing::info!(node, by = user.name, "certificates were issued");
        let config = self.config();
        Ok(JoinResponse {
            client_certificate,
            serving_certificate,
            client_ca: pki.client_ca.certificate_pem.clone(),
            cluster: ClusterSettings {
                cluster_cidr: config.cluster_cidr,
                service_cidr: config.service_cidr,
                cluster_domain: config.cluster_domain.clone(),
                kubelet_client: KUBELET_CLIENT.to_owned(),
                servers: vec![format!("https://{}", self.address())],
            },
        })
    }

    /// Lets a machine have a node's name, and remembers its password.
    async fn admit(&self, node: &str, password: &str) -> Result<(), Status> {
        if password.is_empty() {
            return Err(Status::bad_request("a machine that joins must have a node password"));
        }
        let secrets = self.resource("", "v1", "secrets")?;
        let nodes = self.resource("", "v1", "nodes")?;
        let name = format!("{node}.node-password.sampan");
        let known = match self.registry().get(&secrets, NAMESPACE, &name).await {
            Ok(s) => Some(stored_hash(&s)),
            Err(s) if s.is_not_found() => None,
            Err(s) => return Err(s),
        };
        if known.as_deref() == Some(&hash_of(password)) {
            return Ok(());
        }
        match self.registry().get(&nodes, "", node).await {
            Ok(_) => {
                return Err(Status::forbidden(
                    "",
                    "nodes",
                    node,
                    "another machine has joined under this name. Give this machine another one with --node-name, \
                     or, if it replaces the other, delete the Node first",
                ));
            }
            Err(s) if s.is_not_found() => {}
            Err(s) => return Err(s),
        }
        self.remember(&secrets, &name, password).await
    }

    async fn remember(&self, secrets: &api::Resource, name: &str, password: &str) -> Result<(), Status> {
        let wanted = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": false,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": {HASH: hash_of(password)},
        });
        let ctx = WriteContext::new(system());
        let change = |_: &Value| Ok(Decoded { value: wanted.clone(), unknown: Vec::new(), duplicate: Vec::new() });
        self.registry().update(&ctx, secrets, NAMESPACE, name, "", true, &change).await.map(|_| ())
    }
}

fn stored_hash(secret: &api::Object) -> String {
    use base64::Engine;
    let value = secret.to_value();
    let bytes = base64::prelude::BASE64_STANDARD.decode(value["data"][HASH].as_str().unwrap_or_default());
    bytes.ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
}
