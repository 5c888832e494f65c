//! Node authorizer: a kubelet reads what its own pods need, and writes what is its own
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
//!
//! Which secrets, config maps, claims and service accounts a node may read follows from the
//! pods bound to it, looked up in the watch cache.

use std::sync::Weak;

use serde_json::Value;

use super::{Authorizer, Decision};
use crate::Server;
use crate::request::{RequestInfo, User};

/// The node authorizer.
pub struct Node(pub Weak<Server>);

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Node")
    }
}

/// The node that a user is, if it is one.
pub fn node_name(user: &User) -> Option<&str> {
    user.in_group("system:nodes").then(|| user.name.strip_prefix("system:node:")).flatten()
}

/// What every node may do, as (verbs, group, resource, subresource).
const EVERY_NODE: &[(&[&str], &str, &str, &str)] = &[
    (&["get", "list", "watch"], "", "services", ""),
    (&["get", "list", "watch"], "", "endpoints", ""),
    (&["get", "list", "watch"], "discovery.k8s.io", "endpointslices", ""),
    (&["get", "list", "watch"], "", "nodes", ""),
    (&["get", "list", "watch"], "", "namespaces", ""),
    (&["get", "list", "watch"], "node.k8s.io", "runtimeclasses", ""),
    (&["get", "list", "watch"], "networking.k8s.io", "networkpolicies", ""),
    (&["get", "list", "watch"], "storage.k8s.io", "csidrivers", ""),
    (&["get", "list", "watch"], "scheduling.k8s.io", "priorityclasses", ""),
    (&["create"], "", "nodes", ""),
    (&["create", "update", "patch"], "", "events", ""),
    (&["create", "update", "patch"], "events.k8s.io", "events", ""),
    (&["create"], "authentication.k8s.io", "tokenreviews", ""),
    (&["create"], "authorization.k8s.io", "subjectaccessreviews", ""),
    (&["create"], "authorization.k8s.io", "localsubjectaccessreviews", ""),
    (&["list", "watch"], "", "pods", ""),
    (&["create"], "", "pods", ""),
];

impl Authorizer for Node {
    fn authorize(&self, user: &User, r: &RequestInfo) -> Decision {
        let Some(node) = node_name(user) else { return Decision::NoOpinion(String::new()) };
        let Some(server) = self.0.upgrade() else { return Decision::NoOpinion("the server is shutting down".into()) };
        if !r.is_resource {
            return Decision::NoOpinion(String::new());
        }
        let common = EVERY_NODE.iter().any(|(verbs, group, resource, sub)| {
            *group == r.group && *resource == r.resource && *sub == r.subresource && verbs.contains(&r.verb.as_str())
        });
        if common {
            return Decision::Allow;
        }
        let allowed = match (r.group.as_str(), r.resource.as_str(), r.subresource.as_str()) {
            ("", "nodes", "" | "status") => r.name == node && matches!(r.verb.as_str(), "update" | "patch" | "delete"),
            ("coordination.k8s.io", "leases", "") => {
                r.namespace == "kube-node-lease"
                    && (r.name == node || r.verb == "create")
                    && matches!(r.verb.as_str(), "get" | "create" | "update" | "patch" | "delete")
            }
            ("storage.k8s.io", "csinodes", "") => r.name == node || r.verb == "create",
            ("", "pods", "") => {
                matches!(r.verb.as_str(), "get" | "delete") && bound(&server, node, &r.namespace, &r.name)
            }
            ("", "pods", "status") => {
                matches!(r.verb.as_str(), "update" | "patch") && bound(&server, node, &r.namespace, &r.name)
            }
            ("", "pods", "eviction") => r.verb == "create" && bound(&server, node, &r.namespace, &r.name),
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
                matches!(r.verb.as_str(), "get" | "list" | "watch") && referenced(&server, node, r)
            }
            ("", "serviceaccounts", "token") => r.verb == "create" && referenced(&server, node, r),
            ("", "serviceaccounts", "") => r.verb == "get" && referenced(&server, node, r),
            _ => false,
        };
        if allowed {
            return Decision::Allow;
        }
        Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
    }
}

fn pods_of(server: &Server, node: &str, namespace: &str) -> Vec<Value> {
    let Ok(pods) = server.resource("", "v1", "pods") else { return Vec::new() };
    let Ok(cache) = server.registry().cache(&pods) else { return Vec::new() };
    let objects = cache.objects();
    let on_node = |o: &api::Object| o.selectable(&pods, "spec.nodeName") == node;
    objects.values().filter(|o| o.meta().namespace == namespace && on_node(o)).map(|o| o.to_value()).collect()
}

/// Whether a pod runs on the node. A pod that is gone is nobody's: its node gets to hear so.
fn bound(server: &Server, node: &str, namespace: &str, name: &str) -> bool {
    let Ok(pods) = server.resource("", "v1", "pods") else { return false };
    match server.registry().get_cached(&pods, namespace, name) {
        Ok(pod) => pod.to_value()["spec"]["nodeName"] == node,
        Err(_) => true,
    }
}

/// Whether a pod of the node refers to the object.
fn referenced(server: &Server, node: &str, r: &RequestInfo) -> bool {
    // Field names under which a pod spec refers to an object of a resource by its name.
    pods_of(server, node, &r.namespace).iter().any(|pod| match r.resource.as_str() {
        "serviceaccounts" => pod["spec"]["serviceAccountName"] == r.name,
        "secrets" => refers(
            &pod["spec"],
            &["secret", "secretRef", "secretKeyRef", "imagePullSecrets"],
            &["name", "secretName"],
            &r.name,
        ),
        "configmaps" => refers(&pod["spec"], &["configMap", "configMapRef", "configMapKeyRef"], &["name"], &r.name),
        _ => refers(&pod["spec"], &["persistentVolumeClaim"], &["claimName"], &r.name),
    })
}

/// Whether somewhere in `v` a field of `holders` (an object, or a list of objects) has `name`
/// in one of `fields`.
fn refers(v: &Value, holders: &[&str], fields: &[&str], name: &str) -> bool {
    let hit = |h: &Value| fields.iter().any(|f| h[*f] == name);
    match v {
        Value::Object(m) => m.iter().any(|(k, inner)| {
            let here =
                holders.contains(&k.as_str()) && (hit(inner) || inner.as_array().is_some_and(|l| l.iter().any(hit)));
            here || refers(inner, holders, fields, name)
        }),
        Value::Array(l) => l.iter().any(|inner| refers(inner, holders, fields, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_a_pod_spec_has_them() {
        let spec = json!({"volumes": [{"projected": {"sources": [{"configMap": {"name": "a"}}]}}, {"secret": {"secretName": "s"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "k"}}}]}], "imagePullSecrets": [{"name": "p"}]});
        let secrets = ["secret", "secretRef", "secretKeyRef", "imagePullSecrets"];
        for name in ["s", "k", "p"] {
            assert!(refers(&spec, &secrets, &["name", "secretName"], name), "{name}");
        }
        assert!(!refers(&spec, &secrets, &["name", "secretName"], "a"));
        assert!(refers(&spec, &["configMap"], &["name"], "a"));
    }
}
