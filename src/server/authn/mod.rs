//! Authentication: who makes a request.

use api::Status;
use async_trait::async_trait;

use crate::request::User;

/// The identity that the TLS handshake proved, placed in the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The client certificate chain, DER, leaf first; verified against the client CA.
    pub certificates: Vec<Vec<u8>>,
    /// The remote address.
    pub address: Option<std::net::SocketAddr>,
}

/// One way to authenticate. They are asked in order.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user; `None` when the request carries nothing that this authenticator understands.
    ///
    /// # Errors
    /// 401 when it carries something that is wrong or expired.
    async fn authenticate(&self, parts: &http::request::Parts) -> Result<Option<User>, Status>;
}

pub mod join_tokens;
pub mod tokens;
pub mod x509;

use std::sync::Arc;

/// The authenticators in order.
pub fn authenticators(server: &Arc<crate::Server>) -> Vec<Arc<dyn Authenticator>> {
    vec![
        Arc::new(x509::ClientCertificate),
        Arc::new(join_tokens::JoinTokens(Arc::downgrade(server))),
        Arc::new(tokens::Bearer(Arc::downgrade(server))),
    ]
}
