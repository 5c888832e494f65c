//! `serviceaccounts/<name>/token`: TokenRequest.

use std::sync::Arc;

use api::{Resource, Status};
use serde_json::Value;

use crate::Server;
use crate::http::Call;
use crate::http::respond::{self, Reply};

/// The annotation that says in the audit log which token was issued.
const ISSUED: &str = "authentication.kubernetes.io/issued-credential-id";

/// Issues a bound token.
pub async fn serve(
    server: &Arc<Server>,
    call: &Call,
    accounts: &Arc<Resource>,
    request: &Value,
) -> Result<Reply, Status> {
    let account = server.registry().get(accounts, &call.info.namespace, &call.info.name).await?;
    let (review, credential) = server.tokens().request(server, &account, request).await?;
    if let Some(record) = &call.audit {
        record.annotate(ISSUED, credential);
    }
    Ok(respond::json(201, &review))
}
