//! How a webhook of any kind is reached. A service is dialled at one of its endpoints, as the server's host
//! may have no rules for cluster addresses; its certificate must be for `<service>.<namespace>.svc`
//! all the same.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Uri};
use serde::Deserialize;

use crate::Server;
use crate::outbound::{Outbound, Vouched, host_and_port};
use crate::service_endpoints;

/// Where a webhook is, as it is declared.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientConfig {
    url: Option<String>,
    service: Option<ServiceReference>,
    /// PEM in base64.
    ca_bundle: String,
}

#[derive(Deserialize)]
struct ServiceReference {
    name: String,
    namespace: String,
    #[serde(default)]
    path: String,
    #[serde(default = "https_port")]
    port: u16,
}

fn https_port() -> u16 {
    443
}

/// Calls one webhook.
pub(crate) struct Client {
    url: String,
    service: Option<ServiceReference>,
    connections: Result<Outbound, String>,
}

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Client {
        let url = match &config.service {
            Some(s) => format!("https://{}.{}.svc:{}/{}", s.name, s.namespace, s.port, s.path.trim_start_matches('/')),
            None => config.url.unwrap_or_default(),
        };
        Client { url, service: config.service, connections: connections(&config.ca_bundle) }
    }

    /// Posts a review and reads the answer, all within `timeout`.
    pub(crate) async fn post(&self, server: &Arc<Server>, timeout: Duration, body: Bytes) -> Result<Bytes, String> {
        let url = format!("{}?timeout={}s", self.url, timeout.as_secs());
        let answered = tokio::time::timeout(timeout, self.exchange(server, &url, body)).await;
        let answered = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        answered.map_err(|e| format!("Post {url:?}: {e}"))
    }

    async fn exchange(&self, server: &Arc<Server>, url: &str, body: Bytes) -> Result<Bytes, String> {
        let url: Uri = url.parse().map_err(|e| format!("{e}"))?;
        let request =
            Request::post(url.clone()).header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json");
        let (head, ()) = request.body(()).map_err(|e| e.to_string())?.into_parts();
        let connections = self.connections.as_ref().map_err(String::clone)?;
        let (status, answer) = connections.send(&head, body, self.address(server, &url)).await?;
        if status.is_success() {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer);
        Err(match status.as_u16() {
            404 => "the server could not find the requested resource".to_owned(),
            _ => format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim()),
        })
    }

    async fn address(&self, server: &Arc<Server>, url: &Uri) -> Result<(String, u16), String> {
        let Some(s) = &self.service else { return Ok(host_and_port(url)) };
        service_endpoints::one_of_port(server, &s.namespace, &s.name, s.port).await.map_err(|e| e.message)
    }
}

fn connections(bundle: &str) -> Result<Outbound, String> {
    if bundle.is_empty() {
        return Ok(Outbound::new(&Vouched::BySystem, None));
    }
    let pem = BASE64_STANDARD.decode(bundle).map_err(|e| e.to_string())?;
    Ok(Outbound::new(&Vouched::By(&String::from_utf8_lossy(&pem)), None))
}
