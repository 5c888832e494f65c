//! What is written and read.

use serde_json::{Value, json};

use super::encoding::Encoding;

/// Where everything happens.
pub const NAMESPACE: &str = "bench";
/// Clients at once.
pub const CLIENTS: usize = 32;
/// Watchers at once.
pub const WATCHERS: usize = 100;
/// Objects a page.
pub const PAGE: u64 = 500;
/// How often everything is listed.
pub const LISTS: usize = 10;
/// The annotation that a write for the watchers tells its time in.
pub const SENT: &str = "bench/sent";

/// How much of what is done.
pub struct Plan {
    pub objects: u64,
    pub writes: u64,
    pub encoding: Encoding,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pods,
    ConfigMaps,
}

impl Kind {
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Pods => "pods",
            Kind::ConfigMaps => "configmaps",
        }
    }

    pub fn collection(self) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/{}", self.plural())
    }

    pub fn path(self, number: u64) -> String {
        format!("{}/{}", self.collection(), name(number))
    }

    pub fn object(self, number: u64) -> Value {
        match self {
            Kind::Pods => pod(&name(number)),
            Kind::ConfigMaps => config_map(&name(number)),
        }
    }
}

fn name(number: u64) -> String {
    format!("application-5d4f8c7b9-{number:05}")
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "application"}},
        "data": {"text": "x".repeat(1500)}})
}

/// A pod as a deployment would make it; it is for no scheduler, so that nobody adds to the load.
fn pod(name: &str) -> Value {
    let container = json!({"name": "c", "image": "registry.example/team/application:1.2.3",
        "args": ["--listen=0.0.0.0:8080", "--log=info"],
        "env": [{"name": "A", "value": "one"}, {"name": "B", "value": "two"}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "application", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"automountServiceAccountToken": false, "schedulerName": "none", "containers": [container]}})
}
