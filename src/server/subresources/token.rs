//! `serviceaccounts/<name>/token`: TokenRequest.

use std::sync::Arc;

use api::{Resource, Status};
use serde_json::Value;

use crate::Server;
use crate::http::Call;
use crate::http::respond::{self, Reply};

/// Issues a bound token.
pub async fn serve(
    server: &Arc<Server>,
    call: &Call,
    accounts: &Arc<Resource>,
    request: &Value,
) -> Result<Reply, Status> {
    let account = server.registry().get(accounts, &call.info.namespace, &call.info.name).await?;
    let review = server.tokens().request(server, &account, request).await?;
    Ok(respond::json(201, &review))
}
