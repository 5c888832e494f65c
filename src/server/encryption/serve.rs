//! `/v1-sampan/encrypt/…`: what `sampan secrets-encrypt` asks for. Like any path that no rule
//! names, it is open to administrators alone.

use std::sync::Arc;

use api::Status;
use client::encryption::{Change, KeyStatus, Status as Answer};
use http::Method;

use super::rewrite;
use crate::Server;
use crate::http::respond::{self, Reply};
use crate::http::{RequestBody, read_body};

impl Server {
    /// Serves a path of the encryption of stored values.
    ///
    /// # Errors
    /// 404, 405, and what the change says.
    pub async fn serve_encryption(
        self: &Arc<Self>,
        method: &Method,
        rest: &str,
        body: RequestBody,
    ) -> Result<Reply, Status> {
        match (method, rest) {
            (&Method::GET, "status") => {}
            (&Method::POST, "config") => {
                let change: Change = serde_json::from_slice(&read_body(body).await?)
                    .map_err(|e| Status::bad_request(format!("the body is no change of the encryption: {e}")))?;
                self.change_encryption(change).await?;
            }
            (_, "status" | "config") => return Err(Status::method_not_allowed()),
            _ => return Err(Status::no_such_resource()),
        }
        Ok(respond::json(200, &serde_json::to_value(self.encryption_status()).map_err(Status::internal)?))
    }

    /// Runs to its end though the client may go away.
    async fn change_encryption(self: &Arc<Self>, change: Change) -> Result<(), Status> {
        let own = self.clone();
        let task = tokio::spawn(async move {
            let (storage, caches) = (own.registry().storage(), own.registry().caches());
            let config = |mut config: super::Config| match change {
                Change::RotateKeys => config.with_new_key(),
                Change::Enable | Change::Disable => {
                    config.enabled = change == Change::Enable;
                    config
                }
            };
            rewrite::change(storage, caches, config).await
        });
        task.await.map_err(Status::internal)?
    }

    fn encryption_status(&self) -> Answer {
        let keys = self.registry().storage().keys();
        let config = keys.config();
        let active = |i: usize| config.enabled && i == 0;
        Answer {
            enabled: config.enabled,
            changing: config.keys.len() > 1,
            resources: config.resources.clone(),
            keys: config
                .keys
                .iter()
                .enumerate()
                .map(|(i, k)| KeyStatus { name: k.name.clone(), active: active(i) })
                .collect(),
        }
    }
}
