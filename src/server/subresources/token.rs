//! `serviceaccounts/<name>/token`: TokenRequest.

use std::sync::Arc;

use api::{Resource, Status};
use bytes::Bytes;

use crate::Server;
use crate::http::respond::{self, Reply};
use crate::http::{Call, decode_tree};

/// Issues a bound token.
pub async fn serve(server: &Arc<Server>, call: &Call, accounts: &Arc<Resource>, body: &Bytes) -> Result<Reply, Status> {
    if call.info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let request = decode_tree(call, body)?;
    let account = server.registry().get(accounts, &call.info.namespace, &call.info.name).await?;
    let review = server.tokens().request(server, &account, &request).await?;
    Ok(respond::json(201, &review))
}
