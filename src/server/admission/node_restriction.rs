//! NodeRestriction: a node writes its own Node, lease and CSINode, the status of the pods bound
//! to it, mirrors of its static pods, and asks for tokens of its pods' accounts; nothing else
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>).
//!
//! Who has a node's key can do no more than the node needs: it cannot draw workloads to itself by
//! labels and taints, nor use the accounts of pods that run elsewhere. What a node may touch at all
//! is the node authorizer's to say ([`crate::authz::node`]).
//!
//! Differs from upstream: runs with the validating plugins, so that it sees what is stored.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::authz::node::{CLAIMS, CONFIG_MAPS, SECRETS, node_name};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Who sign what nodes identify themselves with.
const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
const LEASES: &str = "kube-node-lease";

pub(super) struct NodeRestriction(pub(super) Weak<Server>);

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(node) = node_name(a.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(refuse(a, &format!("could not determine node from user {:?}", a.user.name)));
        }
        let none = Value::Null;
        let write = Write { server: alive(&self.0)?, a, node, new: new.unwrap_or(&none), old: old.unwrap_or(&none) };
        match (a.resource.group.as_str(), a.resource.plural.as_str(), a.subresource) {
            ("", "pods", "") => write.pod(),
            ("", "pods", "status") => write.pod_status(),
            ("", "pods", "eviction") => write.eviction(),
            ("", "pods", other) => {
                write.refuse(&format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => write.own_node(),
            ("", "persistentvolumeclaims", sub) if sub != "status" => write.refuse("may only update PVC status"),
            ("", "serviceaccounts", "token") => write.token(),
            ("coordination.k8s.io", "leases", _) => write.lease(),
            ("storage.k8s.io", "csinodes", _) => {
                write.own_name("can only access CSINode with the same name as the requesting node")
            }
            ("certificates.k8s.io", "certificatesigningrequests", "") => write.certificate(),
            _ => Ok(()),
        }
    }
}

fn refuse(a: &Attributes<'_>, why: &str) -> Status {
    Status::forbidden(&a.resource.group, &a.resource.plural, a.name, why)
}

/// A write of a node.
struct Write<'a> {
    server: Arc<Server>,
    a: &'a Attributes<'a>,
    node: &'a str,
    new: &'a Value,
    old: &'a Value,
}

impl Write<'_> {
    fn refuse(&self, why: &str) -> Result<(), Status> {
        Err(refuse(self.a, why))
    }

    fn require(&self, holds: bool, why: &str) -> Result<(), Status> {
        if holds { Ok(()) } else { self.refuse(why) }
    }

    /// The object that is written has the name of the node.
    fn own_name(&self, why: &str) -> Result<(), Status> {
        self.require(self.a.name == self.node, why)
    }

    fn cached(&self, plural: &str, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.server.registry().get_cached(&*self.server.resource("", "v1", plural)?, namespace, name)
    }

    fn pod(&self) -> Result<(), Status> {
        let node = self.node;
        match self.a.operation {
            Operation::Create => self.mirror_pod(),
            Operation::Delete => self.require(
                self.old["spec"]["nodeName"] == node,
                &format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
            ),
            other => self.refuse(&format!(
                "unexpected operation \"{other}\", node {node:?} can only create and delete mirror pods"
            )),
        }
    }

    fn mirror_pod(&self) -> Result<(), Status> {
        let (node, pod) = (self.node, self.new);
        self.require(
            pod["metadata"]["annotations"].get(MIRROR).is_some(),
            &format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"),
        )?;
        self.require(
            pod["spec"]["nodeName"] == node,
            &format!("node {node:?} can only create pods with spec.nodeName set to itself"),
        )?;
        self.owned_by_node(&pod["metadata"]["ownerReferences"])?;
        let spec = &pod["spec"];
        let account = spec["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty());
        let all = |_: &str| true;
        for (refers, what) in [
            (account, "a service account"),
            (SECRETS.any(spec, &all), "secrets"),
            (CONFIG_MAPS.any(spec, &all), "configmaps"),
            (CLAIMS.any(spec, &all), "persistentvolumeclaims"),
            (spec["resourceClaims"].as_array().is_some_and(|l| !l.is_empty()), "resourceclaims"),
        ] {
            self.require(!refers, &format!("node {node:?} can not create pods that reference {what}"))?;
        }
        Ok(())
    }

    /// The one owner of a mirror pod is its node: it goes with it.
    fn owned_by_node(&self, owners: &Value) -> Result<(), Status> {
        let node = self.node;
        let none = format!("node {node:?} can only create pods with an owner reference set to itself");
        let owner = match owners.as_array().map(Vec::as_slice).unwrap_or_default() {
            [one] => one,
            [] => return self.refuse(&none),
            _ => {
                return self.refuse(&format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        self.require(owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node, &none)?;
        self.require(
            owner["controller"] == true,
            &format!("node {node:?} can only create pods with a controller owner reference set to itself"),
        )?;
        self.require(
            owner["blockOwnerDeletion"] != true,
            &format!("node {node:?} must not set blockOwnerDeletion on an owner reference"),
        )?;
        let uid = self.cached("nodes", "", node)?.meta().uid.to_owned();
        let given = owner["uid"].as_str().unwrap_or_default();
        self.require(uid == given, &format!("node {node} UID mismatch: expected {uid} got {given}"))
    }

    fn pod_status(&self) -> Result<(), Status> {
        let (node, a) = (self.node, self.a);
        if a.operation != Operation::Update {
            return self.refuse(&format!(
                "unexpected operation \"{}\", node {node:?} can only update pod status",
                a.operation
            ));
        }
        self.require(
            self.old["spec"]["nodeName"] == node,
            &format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
        )?;
        self.require(
            labels(self.new) == labels(self.old),
            &format!("node {node:?} cannot update labels through pod status"),
        )?;
        self.require(
            self.new["status"]["resourceClaimStatuses"] == self.old["status"]["resourceClaimStatuses"],
            &format!("node {node:?} cannot update resource claim statuses"),
        )
    }

    fn eviction(&self) -> Result<(), Status> {
        if self.a.operation != Operation::Create {
            return self.refuse(&format!("unexpected operation {}", self.a.operation));
        }
        let pod = self.cached("pods", self.a.namespace, self.a.name)?;
        self.require(
            pod.to_value()["spec"]["nodeName"] == self.node,
            &format!("node {} can only evict pods with spec.nodeName set to itself", self.node),
        )
    }

    fn own_node(&self) -> Result<(), Status> {
        let (node, a) = (self.node, self.a);
        if a.operation == Operation::Create {
            self.own_labels("set the following labels")?;
        }
        self.own_name(&format!("node {node:?} is not allowed to modify node {:?}", a.name))?;
        if a.operation != Operation::Update {
            return Ok(());
        }
        let taints = |o: &Value| o["spec"]["taints"].as_array().cloned().unwrap_or_default();
        self.require(taints(self.new) == taints(self.old), &format!("node {node:?} is not allowed to modify taints"))?;
        self.own_labels("modify labels")?;
        let owners = |o: &Value| o["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        // An owner that does not exist would have the node deleted.
        self.require(
            owners(self.new) == owners(self.old),
            &format!("node {node:?} is not allowed to modify ownerReferences"),
        )
    }

    fn own_labels(&self, what: &str) -> Result<(), Status> {
        let (new, old) = (labels(self.new), labels(self.old));
        let changed = new.keys().chain(old.keys()).filter(|k| new.get(*k) != old.get(*k));
        let mut wrong: Vec<&str> = changed.map(String::as_str).filter(|k| !api::node_labels::is_allowed(k)).collect();
        wrong.sort_unstable();
        wrong.dedup();
        self.require(wrong.is_empty(), &format!("node {:?} is not allowed to {what}: {}", self.node, wrong.join(", ")))
    }

    fn token(&self) -> Result<(), Status> {
        let reference = &self.new["spec"]["boundObjectRef"];
        let text = |f: &str| reference[f].as_str().unwrap_or_default();
        let to_pod = text("apiVersion") == "v1" && text("kind") == "Pod" && !text("name").is_empty();
        self.require(to_pod, "node requested token not bound to a pod")?;
        self.require(!text("uid").is_empty(), "node requested token with a pod binding without a uid")?;
        let pod = self.cached("pods", self.a.namespace, text("name"))?;
        if pod.meta().uid != text("uid") {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            );
            return Err(Status::conflict("", "pods", text("name"), &why));
        }
        let pod = pod.to_value();
        self.require(
            pod["spec"]["nodeName"] == self.node,
            "node requested token bound to a pod scheduled on a different node",
        )?;
        let audience = match self.new["spec"]["audiences"].as_array().map(Vec::as_slice).unwrap_or_default() {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return self.refuse("node may only request 0 or 1 audiences"),
        };
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let sources = volumes.flat_map(|v| v["projected"]["sources"].as_array().into_iter().flatten());
        let mut projected = sources.filter_map(|s| s.get("serviceAccountToken"));
        self.require(
            projected.any(|t| t["audience"].as_str().unwrap_or_default() == audience),
            &format!("audience {audience:?} not found in pod spec volume"),
        )
    }

    fn certificate(&self) -> Result<(), Status> {
        let of_nodes = SIGNERS.iter().any(|s| self.new["spec"]["signerName"] == *s);
        if self.a.operation != Operation::Create || !of_nodes {
            return Ok(());
        }
        let own = &self.a.user.name;
        self.require(
            super::certificates::common_name(self.new).as_ref() == Some(own),
            &format!("can only create a node CSR with CN={own}"),
        )
    }

    fn lease(&self) -> Result<(), Status> {
        self.require(
            self.a.namespace == LEASES,
            &format!("can only access leases in the {LEASES:?} system namespace"),
        )?;
        self.own_name("can only access node lease with the same name as the requesting node")
    }
}

fn labels(object: &Value) -> BTreeMap<String, Value> {
    let map = object["metadata"]["labels"].as_object();
    map.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests;
