//! A server on a memory store, without sockets, for unit tests.

pub mod webhook;

use std::sync::Arc;

use api::{Object, Status};
use client::api::{Call, Gvr, Verb};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::join_tokens::JoinSecrets;
use crate::encryption::{self, Keyring};
use crate::request::User;
use crate::{Config, Server};

/// What one input costs is measured.
#[global_allocator]
static ALLOCATOR: fuzzing::Counting = fuzzing::Counting;

/// The server, and what must live as long as it.
pub struct Testing {
    pub server: Arc<Server>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _keys: Arc<tempfile::TempDir>,
}

impl Drop for Testing {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Testing {
    /// A server with the objects that every cluster starts with.
    pub async fn start() -> Testing {
        Testing::configured(|_| {}).await
    }

    /// The same, in which events are kept for a shorter time.
    pub async fn with_event_ttl(event_ttl: std::time::Duration) -> Testing {
        Testing::configured(|c| c.event_ttl = event_ttl).await
    }

    /// The same, which records requests.
    pub async fn auditing(audit: crate::audit::Config) -> Testing {
        Testing::configured(|c| c.audit = audit).await
    }

    /// The same, with another configuration.
    pub async fn configured(change: impl FnOnce(&mut Config)) -> Testing {
        let (store, keys) = (Arc::new(store::MemoryStore::new()), Arc::new(tempfile::tempdir().unwrap()));
        Testing::over(store, keys, change).await
    }

    /// A server on a store that may hold something already, with the keys of the one before.
    pub async fn on(store: Arc<dyn store::Store>, keys: Arc<tempfile::TempDir>) -> Testing {
        Testing::over(store, keys, |_| {}).await
    }

    async fn over(
        store: Arc<dyn store::Store>,
        keys: Arc<tempfile::TempDir>,
        change: impl FnOnce(&mut Config),
    ) -> Testing {
        let pki = Arc::new(crate::pki::Pki::load_or_create(keys.path(), &["localhost".to_owned()]).unwrap());
        let mut config = Config {
            advertise_address: [127, 0, 0, 1].into(),
            port: 6443,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            node_ports: (30000, 32767),
            requests_inflight: (400, 200),
            join_secrets: JoinSecrets::load_or_create(keys.path(), &pki, None, None).unwrap(),
            audit: Default::default(),
            event_ttl: std::time::Duration::from_secs(3600),
            keyring: Arc::new(Keyring::load(&keys.path().join(encryption::config::FILE)).unwrap()),
            components: Vec::new(),
            queues: Default::default(),
            admission: crate::admission::Settings::default(),
            authentication: crate::authn::Settings::default(),
            authorization: crate::authz::Settings::default(),
        };
        change(&mut config);
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let server = Server::start(config, store, pki, &tasks, &cancel).await.unwrap();
        crate::bootstrap::run(&server).await.unwrap();
        Testing { server, tasks, cancel, _keys: keys }
    }

    /// Ends the server, and waits for what it has begun.
    pub async fn end(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// One call; `path` is `<namespace>/<name>[/<subresource>]`, the namespace `-` for none.
    pub async fn call(
        &self,
        user: &User,
        verb: Verb,
        gvr: &Gvr,
        path: &str,
        body: &Value,
    ) -> Result<Arc<Object>, Status> {
        let parts: Vec<&str> = path.split('/').collect();
        let part = |i: usize| parts.get(i).filter(|p| **p != "-").map(|p| (*p).to_owned()).unwrap_or_default();
        let call = Call {
            verb,
            gvr: gvr.clone(),
            namespace: part(0),
            name: part(1),
            subresource: part(2),
            query: Vec::new(),
            body: (!body.is_null()).then(|| body.to_string().into()),
        };
        self.server.client(user.clone()).api().call(call).await
    }

    /// A request of the administrator, by way of HTTP: the code and the body, which is JSON.
    pub async fn http(&self, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", media);
        let reply = self.server.serve_as(admin(), request.body(body.into()).unwrap()).await;
        let code = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
    }

    /// Reads over HTTP until `done` is content with what comes.
    pub async fn get_until(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let (_, body) = self.http("GET", path, "", &Value::Null).await;
            if done(&body) {
                return body;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{path} never came to what was waited for");
    }

    /// Creates an object as the administrator; what reads the caches, as authorization does, sees it.
    pub async fn create(&self, gvr: &Gvr, namespace: &str, body: &Value) -> Arc<Object> {
        let created = self.call(&admin(), Verb::Create, gvr, namespace, body).await.unwrap();
        self.server.registry().caches().fresh().await.unwrap();
        created
    }

    /// Endpoints on this host with these ports, past the rules for clients: nobody else may name
    /// loopback addresses.
    pub async fn endpoints_here(&self, name: &str, ports: &Value) {
        let resource = self.server.resource("", "v1", "endpoints").unwrap();
        let elsewhere = json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": ports}]);
        if self.server.registry().get(&resource, "default", name).await.is_err() {
            let body = json!({"metadata": {"name": name}, "subsets": elsewhere});
            self.create(&core("endpoints"), "default", &body).await;
        }
        let ctx = crate::registry::WriteContext::new(admin());
        let here = |current: &Value| {
            let mut new = current.clone();
            new["subsets"] = json!([{"addresses": [{"ip": "127.0.0.1"}], "ports": ports}]);
            Ok(api::codec::Decoded { value: new, unknown: Vec::new(), duplicate: Vec::new() })
        };
        self.server.registry().modify(&ctx, &resource, "default", name, &here).await.unwrap();
        self.server.registry().caches().fresh().await.unwrap();
    }
}

/// The administrator.
pub fn admin() -> User {
    User::authenticated("admin", &["system:masters"])
}

/// A resource of the core group.
pub fn core(plural: &str) -> Gvr {
    Gvr::dynamic("", "v1", plural)
}

/// A pod that is bound to a node.
pub fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}
