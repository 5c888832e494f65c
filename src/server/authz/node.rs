//! Node authorizer: a kubelet reads what its own pods need, and writes what is its own
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
//!
//! Which secrets, config maps, claims and service accounts a node may read follows from the
//! pods bound to it, looked up in the watch cache.

use std::sync::Weak;

use api::selector::FieldSelector;
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
    // Upstream shows a node only itself; its kube-proxy and its network add-on see all, which here
    // are parts of the agent.
    (&["get", "list", "watch"], "", "nodes", ""),
    (&["get", "list", "watch"], "", "namespaces", ""),
    (&["get", "list", "watch"], "node.k8s.io", "runtimeclasses", ""),
    (&["get", "list", "watch"], "networking.k8s.io", "networkpolicies", ""),
    (&["get", "list", "watch"], "storage.k8s.io", "csidrivers", ""),
    (&["get", "list", "watch"], "scheduling.k8s.io", "priorityclasses", ""),
    (&["create"], "", "nodes", ""),
    (&["create", "get", "list", "watch"], "certificates.k8s.io", "certificatesigningrequests", ""),
    (&["create", "update", "patch"], "", "events", ""),
    (&["create", "update", "patch"], "events.k8s.io", "events", ""),
    (&["create"], "authentication.k8s.io", "tokenreviews", ""),
    (&["create"], "authorization.k8s.io", "subjectaccessreviews", ""),
    (&["create"], "authorization.k8s.io", "localsubjectaccessreviews", ""),
    // Which pods, is for NodeRestriction to say: mirrors of its own.
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
            return Decision::Allow(String::new());
        }
        let allowed = match (r.group.as_str(), r.resource.as_str(), r.subresource.as_str()) {
            ("", "nodes", "" | "status") => r.name == node && matches!(r.verb.as_str(), "update" | "patch"),
            ("coordination.k8s.io", "leases", "") => {
                r.namespace == "kube-node-lease"
                    && (r.name == node || r.verb == "create")
                    && matches!(r.verb.as_str(), "get" | "create" | "update" | "patch" | "delete")
            }
            ("storage.k8s.io", "csinodes", "") => r.name == node || r.verb == "create",
            ("", "pods", "") => match r.verb.as_str() {
                "get" | "delete" => bound(&server, node, &r.namespace, &r.name),
                "list" | "watch" => selects_own(node, &r.field_selector),
                _ => false,
            },
            ("", "pods", "status") => {
                matches!(r.verb.as_str(), "update" | "patch") && bound(&server, node, &r.namespace, &r.name)
            }
            ("", "pods", "eviction") => r.verb == "create" && bound(&server, node, &r.namespace, &r.name),
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
                matches!(r.verb.as_str(), "get" | "list" | "watch") && referenced(&server, node, r)
            }
            ("", "persistentvolumes", "") => r.verb == "get" && claimed(&server, node, &r.name),
            ("", "serviceaccounts", "token") => r.verb == "create" && referenced(&server, node, r),
            ("", "serviceaccounts", "") => r.verb == "get" && referenced(&server, node, r),
            _ => false,
        };
        if allowed {
            return Decision::Allow(String::new());
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

/// Whether a list of pods is restricted to those of the node.
fn selects_own(node: &str, field_selector: &str) -> bool {
    FieldSelector::parse(field_selector).is_ok_and(|s| s.exact("spec.nodeName") == Some(node))
}

/// Whether a pod of the node uses a claim that is bound to the volume.
fn claimed(server: &Server, node: &str, volume: &str) -> bool {
    let Ok(claims) = server.resource("", "v1", "persistentvolumeclaims") else { return false };
    let Ok(cache) = server.registry().cache(&claims) else { return false };
    cache.objects().values().any(|o| {
        o.to_value()["spec"]["volumeName"] == volume
            && pods_of(server, node, o.meta().namespace).iter().any(|p| CLAIMS.any(&p["spec"], &|n| n == o.meta().name))
    })
}

/// Whether a pod of the node refers to the object.
fn referenced(server: &Server, node: &str, r: &RequestInfo) -> bool {
    // A list without a name is of all; a pod may refer to an empty name.
    !r.name.is_empty()
        && pods_of(server, node, &r.namespace).iter().any(|pod| match r.resource.as_str() {
            "serviceaccounts" => pod["spec"]["serviceAccountName"] == r.name,
            "secrets" => SECRETS.any(&pod["spec"], &|n| n == r.name),
            "configmaps" => CONFIG_MAPS.any(&pod["spec"], &|n| n == r.name),
            _ => CLAIMS.any(&pod["spec"], &|n| n == r.name),
        })
}

/// Where a pod spec refers to objects of a resource by name.
pub struct References {
    /// The fields (an object, or a list of objects) that refer, at whatever depth.
    holders: &'static [&'static str],
    /// Where in them the name stands.
    names: &'static [&'static str],
}

/// References to secrets.
pub const SECRETS: References = References {
    holders: &["secret", "secretRef", "secretKeyRef", "imagePullSecrets", "nodePublishSecretRef", "azureFile"],
    names: &["name", "secretName"],
};
/// References to config maps.
pub const CONFIG_MAPS: References =
    References { holders: &["configMap", "configMapRef", "configMapKeyRef"], names: &["name"] };
/// References to claims.
pub const CLAIMS: References = References { holders: &["persistentVolumeClaim"], names: &["claimName"] };

impl References {
    /// Whether somewhere in `v` there is a reference with a name that `wanted` accepts.
    pub fn any(&self, v: &Value, wanted: &dyn Fn(&str) -> bool) -> bool {
        let hit = |h: &Value| self.names.iter().any(|f| h[*f].as_str().is_some_and(wanted));
        match v {
            Value::Object(m) => m.iter().any(|(k, inner)| {
                let refers = self.holders.contains(&k.as_str());
                (refers && (hit(inner) || inner.as_array().is_some_and(|l| l.iter().any(hit))))
                    || self.any(inner, wanted)
            }),
            Value::Array(l) => l.iter().any(|inner| self.any(inner, wanted)),
            _ => false,
        }
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
        for name in ["s", "k", "p"] {
            assert!(SECRETS.any(&spec, &|n| n == name), "{name}");
        }
        assert!(!SECRETS.any(&spec, &|n| n == "a"));
        assert!(CONFIG_MAPS.any(&spec, &|n| n == "a"));
        assert!(!CLAIMS.any(&spec, &|_| true));
    }

    #[test]
    fn a_node_lists_its_own_pods_only() {
        assert!(selects_own("n1", "spec.nodeName=n1"));
        assert!(selects_own("n1", "spec.nodeName==n1,status.phase!=Failed"));
        for other in ["", "spec.nodeName=n2", "spec.nodeName!=n1", "metadata.name=n1"] {
            assert!(!selects_own("n1", other), "{other}");
        }
    }
}
