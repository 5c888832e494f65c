//! What other API servers need to believe this one: the authority of its front proxy, and the
//! headers in which it names users, in the ConfigMap where they look for them
//! (upstream: `pkg/controlplane/controller/clusterauthenticationtrust`).

use std::sync::Arc;

use api::Status;
use api::codec::Decoded;
use serde_json::{Value, json};

use crate::Server;
use crate::bootstrap::{ensure, system};
use crate::pki::FRONT_PROXY;
use crate::registry::WriteContext;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

fn data(server: &Server) -> Value {
    let list = |item: &str| json!([item]).to_string();
    json!({
        "client-ca-file": server.pki().client_ca.certificate_pem,
        "requestheader-client-ca-file": server.pki().request_header_ca.certificate_pem,
        "requestheader-allowed-names": list(FRONT_PROXY),
        "requestheader-username-headers": list("X-Remote-User"),
        "requestheader-uid-headers": list("X-Remote-Uid"),
        "requestheader-group-headers": list("X-Remote-Group"),
        "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
    })
}

/// Publishes it, as it is now.
///
/// # Errors
/// What the pipeline says.
pub async fn publish(server: &Arc<Server>) -> Result<(), Status> {
    let data = data(server);
    let metadata = json!({"name": NAME, "namespace": NAMESPACE});
    ensure(server, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})).await?;
    let resource = server.resource("", "v1", "configmaps")?;
    if server.registry().get(&resource, NAMESPACE, NAME).await?.to_value()["data"] == data {
        return Ok(());
    }
    let change = |old: &Value| {
        let mut new = old.clone();
        new["data"] = data.clone();
        Ok(Decoded { value: new, ..Default::default() })
    };
    let ctx = WriteContext::new(system());
    server.registry().update(&ctx, &resource, NAMESPACE, NAME, "", false, &change).await.map(|_| ())
}
