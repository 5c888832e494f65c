//! A server that is measured: ours, or the one that it is compared with.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::lab::https::{Connection, Endpoint};
use super::lab::{Server, pss_mib};
use super::workload::NAMESPACE;

pub struct Subject {
    pub name: &'static str,
    pub endpoint: Endpoint,
    pids: Vec<u32>,
    /// Ends with it.
    _server: Option<Server>,
}

impl Subject {
    /// A server of this project, on a directory of its own.
    pub async fn ours() -> Subject {
        let server = Server::start(false);
        let (endpoint, _) = server.answers().await;
        Subject { name: "sampan", endpoint, pids: vec![server.pid()], _server: Some(server) }
    }

    /// The server that the environment names, if it does.
    pub async fn reference() -> Option<Subject> {
        let kubeconfig = PathBuf::from(std::env::var_os("SAMPAN_BENCH_REFERENCE_KUBECONFIG")?);
        let endpoint = Endpoint::of(&kubeconfig).expect("the kubeconfig of the reference");
        let pids = std::env::var("SAMPAN_BENCH_REFERENCE_PIDS").unwrap_or_default();
        let pids = pids.split([',', ' ', '\n']).filter_map(|p| p.trim().parse().ok()).collect();
        Some(Subject { name: "reference", endpoint, pids, _server: None })
    }

    /// Makes the namespace, and waits for the service account that pods need there.
    pub async fn prepare(&self) {
        let mut api = self.endpoint.connect().await.expect("a connection");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        api.send(Method::POST, "/api/v1/namespaces", namespace.to_string()).await.expect("a namespace");
        for name in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            self.appears(&mut api, name).await;
        }
    }

    async fn appears(&self, api: &mut Connection, name: &str) {
        let (plural, name) = name.split_once('/').expect("a resource and a name");
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{plural}?fieldSelector=metadata.name%3D{name}");
        let list: Value = api.json(Method::GET, &path, "").await.expect("a list");
        if list["items"].as_array().is_some_and(|i| !i.is_empty()) {
            return;
        }
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let connection = self.endpoint.connect().await.expect("a connection");
        let path = format!("{path}&watch=true&resourceVersion={revision}");
        let mut watch = connection.watch(&path, "application/json").await.expect("a watch");
        watch.line().await.expect("an event");
    }

    /// Takes away what a server keeps that is there after this.
    pub async fn clean_up(&self) {
        if self._server.is_none() {
            let mut api = self.endpoint.connect().await.expect("a connection");
            api.send(Method::DELETE, &format!("/api/v1/namespaces/{NAMESPACE}"), "").await.expect("no namespace");
        }
    }

    /// Processor time that its processes have used.
    pub fn cpu(&self) -> Duration {
        self.pids.iter().map(|p| super::lab::cpu(*p)).sum()
    }

    /// Its processes' share of memory.
    pub fn memory_mib(&self) -> f64 {
        self.pids.iter().map(|p| pss_mib(*p)).sum()
    }
}
