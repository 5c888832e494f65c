//! The table of all built-in resources: every kind once for each version it is served in.
//!
//! Facts only; behaviour is in [`crate::kinds`]. The generic machinery reads this and never
//! matches on a kind.

mod columns;

use std::sync::Arc;

use crate::convert;
use crate::kinds;
use crate::resource::{Convert, Resource, Subresource};
use crate::schema::{Schemas, TypeRef};

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces cannot be deleted as a collection.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const UPDATE: &[&str] = &["update"];
const GET_LIST: &[&str] = &["get", "list"];
const GET_CREATE: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// All built-in resources, in discovery order: by group as upstream lists them, then by plural.
pub fn builtin() -> Vec<Arc<Resource>> {
    let mut all = Vec::new();
    core(&mut all);
    apps(&mut all);
    reviews(&mut all);
    autoscaling(&mut all);
    batch(&mut all);
    networking(&mut all);
    policy_and_rbac(&mut all);
    storage(&mut all);
    devices(&mut all);
    admission(&mut all);
    small_groups(&mut all);
    flow_control(&mut all);
    extensions(&mut all);
    all.into_iter().map(|e| Arc::new(e.resource)).collect()
}

/// A resource in the making.
struct Entry {
    resource: Resource,
}

fn entry(group: &str, version: &str, kind: &str, plural: &str) -> Entry {
    Entry {
        resource: Resource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: false,
            verbs: ALL_VERBS.to_vec(),
            deprecation: None,
            stored: true,
            subresources: Vec::new(),
            selectable_fields: Vec::new(),
            columns: columns::of(kind),
            has_status: false,
            has_generation: false,
            unconditional_update: true,
            storage_group: group.into(),
            storage_version: version.into(),
            convert: None,
            schema: Schemas::builtin().type_of(group, version, kind).unwrap_or_else(TypeRef::any_object),
            strategy: kinds::strategy(group, kind),
        },
    }
}

/// A cluster-scoped kind.
fn cluster(group: &str, version: &str, kind: &str, plural: &str) -> Entry {
    entry(group, version, kind, plural)
}

/// A kind whose objects live in namespaces.
fn namespaced(group: &str, version: &str, kind: &str, plural: &str) -> Entry {
    let mut e = entry(group, version, kind, plural);
    e.resource.namespaced = true;
    e
}

impl Entry {
    fn short(mut self, names: &[&str]) -> Entry {
        self.resource.short_names = names.iter().map(|s| (*s).to_owned()).collect();
        self
    }
    /// Shown by `kubectl get all`.
    fn in_all(self) -> Entry {
        self.category("all")
    }
    fn category(mut self, name: &str) -> Entry {
        self.resource.categories = vec![name.to_owned()];
        self
    }
    fn status(mut self) -> Entry {
        self.resource.has_status = true;
        self.resource.subresources.push(Subresource::Status);
        self
    }
    fn aspect(mut self, name: &'static str) -> Entry {
        self.resource.subresources.push(Subresource::Aspect(name));
        self
    }
    fn generation(mut self) -> Entry {
        self.resource.has_generation = true;
        self
    }
    /// Updates must name the `resourceVersion` that they are based on.
    fn conditional(mut self) -> Entry {
        self.resource.unconditional_update = false;
        self
    }
    fn fields(mut self, paths: &[&str]) -> Entry {
        self.resource.selectable_fields = paths.iter().map(|s| (*s).to_owned()).collect();
        self
    }
    fn verbs(mut self, verbs: &[&'static str]) -> Entry {
        self.resource.verbs = verbs.to_vec();
        self
    }
    /// Answered by a handler, never stored.
    fn virtual_create(mut self) -> Entry {
        self.resource.verbs = CREATE.to_vec();
        self.resource.stored = false;
        self.resource.columns = Vec::new();
        self
    }
    /// Made up when it is read, never stored.
    fn virtual_read(mut self) -> Entry {
        self.resource.verbs = GET_LIST.to_vec();
        self.resource.stored = false;
        self
    }
    fn deprecated(mut self, warning: &str) -> Entry {
        self.resource.deprecation = Some(warning.to_owned());
        self
    }
    fn scale(mut self) -> Entry {
        self.resource.subresources.push(Subresource::Scale {
            spec_path: "/spec/replicas".into(),
            status_path: "/status/replicas".into(),
            selector_path: "/spec/selector".into(),
        });
        self
    }
    /// A subresource with a body of the given kind.
    fn sub(
        mut self,
        name: &'static str,
        (group, version, kind): (&'static str, &'static str, &'static str),
        verbs: &'static [&'static str],
    ) -> Entry {
        self.resource.subresources.push(Subresource::Other { name, kind, group, version, verbs });
        self
    }
    fn stored_as(mut self, group: &str, version: &str, convert: Convert) -> Entry {
        self.resource.storage_group = group.into();
        self.resource.storage_version = version.into();
        self.resource.convert = Some(convert);
        self
    }
}

fn core(all: &mut Vec<Entry>) {
    let pod = ("", "v1", "Pod");
    all.extend([
        namespaced("", "v1", "Binding", "bindings").virtual_create(),
        cluster("", "v1", "ComponentStatus", "componentstatuses")
            .short(&["cs"])
            .virtual_read()
            .deprecated("v1 ComponentStatus is deprecated in v1.19+"),
        namespaced("", "v1", "ConfigMap", "configmaps").short(&["cm"]),
        namespaced("", "v1", "Endpoints", "endpoints").short(&["ep"]),
        namespaced("", "v1", "Event", "events").short(&["ev"]).fields(EVENT_FIELDS),
        namespaced("", "v1", "LimitRange", "limitranges").short(&["limits"]),
        cluster("", "v1", "Namespace", "namespaces")
            .short(&["ns"])
            .verbs(NO_COLLECTION)
            .sub("finalize", ("", "v1", "Namespace"), UPDATE)
            .status()
            .fields(&["status.phase"]),
        cluster("", "v1", "Node", "nodes")
            .short(&["no"])
            .sub("proxy", ("", "v1", "NodeProxyOptions"), PROXY)
            .status()
            .fields(&["spec.unschedulable"]),
        namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims").short(&["pvc"]).status(),
        cluster("", "v1", "PersistentVolume", "persistentvolumes").short(&["pv"]).status(),
        namespaced("", "v1", "Pod", "pods")
            .short(&["po"])
            .in_all()
            .generation()
            .sub("attach", ("", "v1", "PodAttachOptions"), GET_CREATE)
            .sub("binding", ("", "v1", "Binding"), CREATE)
            .aspect("ephemeralcontainers")
            .sub("eviction", ("policy", "v1", "Eviction"), CREATE)
            .sub("exec", ("", "v1", "PodExecOptions"), GET_CREATE)
            .sub("log", pod, GET)
            .sub("portforward", ("", "v1", "PodPortForwardOptions"), GET_CREATE)
            .sub("proxy", ("", "v1", "PodProxyOptions"), PROXY)
            .aspect("resize")
            .status()
            .fields(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ]),
        namespaced("", "v1", "PodTemplate", "podtemplates").generation(),
        namespaced("", "v1", "ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .in_all()
            .generation()
            .scale()
            .status()
            .fields(&["status.replicas"]),
        namespaced("", "v1", "ResourceQuota", "resourcequotas").short(&["quota"]).status(),
        namespaced("", "v1", "Secret", "secrets").fields(&["type"]),
        namespaced("", "v1", "ServiceAccount", "serviceaccounts").short(&["sa"]).sub(
            "token",
            ("authentication.k8s.io", "v1", "TokenRequest"),
            CREATE,
        ),
        namespaced("", "v1", "Service", "services")
            .short(&["svc"])
            .in_all()
            .sub("proxy", ("", "v1", "ServiceProxyOptions"), PROXY)
            .status()
            .fields(&["spec.clusterIP", "spec.type"]),
    ]);
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The names that `events.k8s.io` has for the same fields; the event's strategy knows both.
const EVENT_V1_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

fn apps(all: &mut Vec<Entry>) {
    let kind = |kind, plural| namespaced("apps", "v1", kind, plural);
    all.extend([
        kind("ControllerRevision", "controllerrevisions"),
        kind("DaemonSet", "daemonsets").short(&["ds"]).in_all().generation().status(),
        kind("Deployment", "deployments").short(&["deploy"]).in_all().generation().scale().status(),
        kind("ReplicaSet", "replicasets")
            .short(&["rs"])
            .in_all()
            .generation()
            .scale()
            .status()
            .fields(&["status.replicas"]),
        kind("StatefulSet", "statefulsets").short(&["sts"]).in_all().generation().scale().status(),
    ]);
}

fn reviews(all: &mut Vec<Entry>) {
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    all.extend([
        cluster(authn, "v1", "SelfSubjectReview", "selfsubjectreviews").virtual_create(),
        cluster(authn, "v1", "TokenReview", "tokenreviews").virtual_create(),
        namespaced(authz, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews").virtual_create(),
        cluster(authz, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews").virtual_create(),
        cluster(authz, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews").virtual_create(),
        cluster(authz, "v1", "SubjectAccessReview", "subjectaccessreviews").virtual_create(),
    ]);
}

fn autoscaling(all: &mut Vec<Entry>) {
    let hpa = |version| {
        namespaced("autoscaling", version, "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .in_all()
            .status()
    };
    all.extend([hpa("v2"), hpa("v1").stored_as("autoscaling", "v2", convert::AUTOSCALER_V1)]);
}

fn batch(all: &mut Vec<Entry>) {
    all.extend([
        namespaced("batch", "v1", "CronJob", "cronjobs").short(&["cj"]).in_all().generation().status(),
        namespaced("batch", "v1", "Job", "jobs").in_all().generation().status().fields(&["status.successful"]),
    ]);
}

fn networking(all: &mut Vec<Entry>) {
    let group = "networking.k8s.io";
    all.extend([
        cluster(group, "v1", "IngressClass", "ingressclasses").generation(),
        namespaced(group, "v1", "Ingress", "ingresses").short(&["ing"]).generation().status(),
        cluster(group, "v1", "IPAddress", "ipaddresses").short(&["ip"]),
        namespaced(group, "v1", "NetworkPolicy", "networkpolicies").short(&["netpol"]).generation(),
        cluster(group, "v1", "ServiceCIDR", "servicecidrs").status(),
    ]);
}

fn policy_and_rbac(all: &mut Vec<Entry>) {
    let rbac = "rbac.authorization.k8s.io";
    all.extend([
        namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .generation()
            .conditional()
            .status(),
        cluster(rbac, "v1", "ClusterRoleBinding", "clusterrolebindings"),
        cluster(rbac, "v1", "ClusterRole", "clusterroles"),
        namespaced(rbac, "v1", "RoleBinding", "rolebindings"),
        namespaced(rbac, "v1", "Role", "roles"),
    ]);
}

fn storage(all: &mut Vec<Entry>) {
    let group = "storage.k8s.io";
    all.extend([
        cluster(group, "v1", "CSIDriver", "csidrivers").generation().conditional(),
        cluster(group, "v1", "CSINode", "csinodes").conditional(),
        namespaced(group, "v1", "CSIStorageCapacity", "csistoragecapacities").conditional(),
        cluster(group, "v1", "StorageClass", "storageclasses").short(&["sc"]),
        cluster(group, "v1", "VolumeAttachment", "volumeattachments").conditional().status(),
        cluster(group, "v1", "VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]),
    ]);
}

fn devices(all: &mut Vec<Entry>) {
    let group = "resource.k8s.io";
    all.extend([
        cluster(group, "v1", "DeviceClass", "deviceclasses").generation(),
        namespaced(group, "v1", "ResourceClaim", "resourceclaims").status(),
        namespaced(group, "v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
        cluster(group, "v1", "ResourceSlice", "resourceslices").generation().fields(&["spec.driver", "spec.nodeName"]),
    ]);
}

fn admission(all: &mut Vec<Entry>) {
    let kind = |kind, plural| {
        cluster("admissionregistration.k8s.io", "v1", kind, plural)
            .category("api-extensions")
            .conditional()
            .generation()
    };
    all.extend([
        kind("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        kind("ValidatingAdmissionPolicy", "validatingadmissionpolicies").status(),
        kind("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
        kind("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ]);
}

fn flow_control(all: &mut Vec<Entry>) {
    let kind = |kind, plural| cluster("flowcontrol.apiserver.k8s.io", "v1", kind, plural).generation().status();
    all.extend([kind("FlowSchema", "flowschemas"), kind("PriorityLevelConfiguration", "prioritylevelconfigurations")]);
}

fn extensions(all: &mut Vec<Entry>) {
    all.push(
        cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .category("api-extensions")
            .conditional()
            .status(),
    );
    all.push(
        cluster("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .category("api-extensions")
            .conditional()
            .generation()
            .status(),
    );
}

fn small_groups(all: &mut Vec<Entry>) {
    all.extend([
        cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short(&["pc"]).generation(),
        cluster("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .aspect("approval")
            .status()
            .fields(&["spec.signerName"]),
        namespaced("coordination.k8s.io", "v1", "Lease", "leases").conditional(),
        cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").conditional(),
        namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").generation(),
        namespaced("events.k8s.io", "v1", "Event", "events").short(&["ev"]).fields(EVENT_V1_FIELDS).stored_as(
            "",
            "v1",
            convert::EVENTS_V1,
        ),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_a_schema_of_its_kind() {
        for r in builtin() {
            let (g, v, k) = r.schema.group_version_kind().unwrap_or_else(|| panic!("{r:?} has no schema"));
            assert_eq!((g, v, k), (r.group.as_str(), r.version.as_str(), r.kind.as_str()));
            assert_eq!(r.has_status, r.subresource("status").is_some(), "{r:?}");
            if r.verbs.contains(&"get") {
                assert!(r.columns.iter().any(|c| c.format == "name"), "{r:?}");
            }
        }
    }

    #[test]
    fn names_occur_once_in_a_group() {
        let mut seen = std::collections::HashSet::new();
        for r in builtin() {
            assert!(seen.insert((r.group.clone(), r.version.clone(), r.plural.clone())), "{r:?}");
        }
    }

    #[test]
    fn verbs_are_sorted() {
        for r in builtin() {
            assert!(r.verbs.is_sorted(), "{r:?}");
            for s in &r.subresources {
                if let Subresource::Other { verbs, .. } = s {
                    assert!(verbs.is_sorted(), "{r:?}/{}", s.name());
                }
            }
        }
    }

    #[test]
    fn a_version_that_is_not_stored_has_a_conversion() {
        for r in builtin() {
            let same = r.storage_group == r.group && r.storage_version == r.version;
            assert_eq!(same, r.is_storage(), "{r:?}");
        }
    }
}
