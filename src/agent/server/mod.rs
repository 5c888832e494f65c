//! The kubelet's HTTPS server.
use std::sync::Arc;
use crate::kubelet::{Shared, pods::Pods};
/// See the module.
pub struct Server { shared: Arc<Shared>, pods: Arc<Pods> }
impl Server {
    /// A server.
    pub fn new(shared: Arc<Shared>, pods: Arc<Pods>) -> Arc<Server> { Arc::new(Server { shared, pods }) }
    /// Serves.
    pub async fn run(self: Arc<Self>, _l: tokio::net::TcpListener, _t: Arc<rustls::ServerConfig>) { let _ = (&self.shared, &self.pods); }
}
