//! The behaviour of each built-in kind: defaults, validation, cells. One file per kind or family;
//! a kind that is not named in [`strategy`] has nothing of its own.

pub(crate) mod admissionregistration;
mod api_service;
mod autoscaler;
mod batch;
mod cells;
mod certificate;
mod claim;
mod cluster;
mod config;
mod container;
mod devices;
pub mod flow_control;
mod limits;
mod networking;
mod node;
mod placement;
mod pod;
mod pod_aspects;
mod pod_spec;
mod pod_update;
mod pod_warnings;
mod rbac;
mod rows;
mod rules;
mod security;
mod service;
mod service_rules;
mod small;
mod storage;
mod volume;
mod workload;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::resource::{Plain, Strategy};

/// The behaviour of a built-in kind.
pub fn strategy(group: &str, kind: &str) -> Arc<dyn Strategy> {
    // One line for each kind with behaviour of its own, above the last.
    #[allow(clippy::match_single_binding)]
    match (group, kind) {
        ("apiregistration.k8s.io", "APIService") => Arc::new(api_service::ApiService),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Arc::new(crate::custom::definition::Definition),
        ("", "Pod") => Arc::new(pod::Pod),
        ("", "PodTemplate") => Arc::new(pod::PodTemplate),
        ("", "Service") => Arc::new(service::Service),
        ("", "Endpoints") => Arc::new(service::Endpoints),
        ("discovery.k8s.io", "EndpointSlice") => Arc::new(service::EndpointSlice),
        ("", "Namespace") => Arc::new(cluster::Namespace),
        ("", "ComponentStatus") => Arc::new(cluster::ComponentStatus),
        ("", "Event") => Arc::new(cluster::Event { newer: false }),
        ("events.k8s.io", "Event") => Arc::new(cluster::Event { newer: true }),
        ("coordination.k8s.io", "Lease") => Arc::new(cluster::Lease),
        ("scheduling.k8s.io", "PriorityClass") => Arc::new(cluster::PriorityClass),
        ("policy", "PodDisruptionBudget") => Arc::new(cluster::PodDisruptionBudget),
        ("", "Node") => Arc::new(node::Node),
        ("", "ConfigMap") => Arc::new(config::ConfigMap),
        ("", "Secret") => Arc::new(config::Secret),
        ("", "ServiceAccount") => Arc::new(config::ServiceAccount),
        ("apps", "Deployment") => Arc::new(workload::Deployment),
        ("apps", "ReplicaSet") => Arc::new(workload::ReplicaSet),
        ("", "ReplicationController") => Arc::new(workload::ReplicationController),
        ("apps", "DaemonSet") => Arc::new(workload::DaemonSet),
        ("apps", "StatefulSet") => Arc::new(workload::StatefulSet),
        ("apps", "ControllerRevision") => Arc::new(workload::ControllerRevision),
        ("batch", "Job") => Arc::new(batch::Job),
        ("batch", "CronJob") => Arc::new(batch::CronJob),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => Arc::new(rbac::Role),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => Arc::new(rbac::Binding),
        ("certificates.k8s.io", "CertificateSigningRequest") => Arc::new(certificate::CertificateSigningRequest),
        ("autoscaling", "HorizontalPodAutoscaler") => Arc::new(autoscaler::HorizontalPodAutoscaler),
        ("networking.k8s.io", "Ingress") => Arc::new(networking::Ingress),
        ("networking.k8s.io", "IngressClass") => Arc::new(small::IngressClass),
        ("networking.k8s.io", "NetworkPolicy") => Arc::new(networking::NetworkPolicy),
        ("networking.k8s.io", "IPAddress") => Arc::new(small::IpAddress),
        ("networking.k8s.io", "ServiceCIDR") => Arc::new(small::ServiceCidr),
        ("", "LimitRange") => Arc::new(limits::LimitRange),
        ("", "ResourceQuota") => Arc::new(limits::ResourceQuota),
        ("", "PersistentVolume") => Arc::new(claim::PersistentVolume),
        ("", "PersistentVolumeClaim") => Arc::new(claim::PersistentVolumeClaim),
        ("storage.k8s.io", "StorageClass") => Arc::new(storage::StorageClass),
        ("storage.k8s.io", "VolumeAttachment") => Arc::new(storage::VolumeAttachment),
        ("storage.k8s.io", "VolumeAttributesClass") => Arc::new(storage::VolumeAttributesClass),
        ("storage.k8s.io", "CSINode") => Arc::new(storage::CsiNode),
        ("storage.k8s.io", "CSIDriver") => Arc::new(storage::CsiDriver),
        ("storage.k8s.io", "CSIStorageCapacity") => Arc::new(storage::CsiStorageCapacity),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
            Arc::new(admissionregistration::WebhookConfiguration { mutating: false })
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => {
            Arc::new(admissionregistration::WebhookConfiguration { mutating: true })
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => Arc::new(admissionregistration::Policy),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            Arc::new(admissionregistration::PolicyBinding)
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => Arc::new(flow_control::FlowSchema),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => Arc::new(flow_control::PriorityLevel),
        ("node.k8s.io", "RuntimeClass") => Arc::new(small::RuntimeClass),
        ("resource.k8s.io", "ResourceClaim") => Arc::new(devices::ResourceClaim),
        ("resource.k8s.io", "ResourceClaimTemplate") => Arc::new(devices::ResourceClaimTemplate),
        ("resource.k8s.io", "DeviceClass") => Arc::new(devices::DeviceClass),
        ("resource.k8s.io", "ResourceSlice") => Arc::new(devices::ResourceSlice),
        _ => Arc::new(Plain),
    }
}

/// All that is wrong with a list of tolerations that stands outside of an object.
pub fn toleration_errors(list: &Value, path: &str) -> crate::field::ErrorList {
    let mut errors = crate::field::ErrorList::new();
    placement::tolerations(&serde_json::json!({"tolerations": list}), path, &mut errors);
    errors
}

/// Sets a field that is absent, or an empty text, which clients in Go cannot tell from absent.
fn set(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(|v| v.as_str() == Some("")) {
        map.insert(field.to_owned(), value.into());
    }
}

/// The object in a field, made when absent.
fn child<'a>(v: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    v.as_object_mut()?.entry(field).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// The entries of a list in a field.
fn list<'a>(v: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    v[field].as_array().into_iter().flatten()
}

/// The entries of a list in a field, to be changed; an absent list is left absent.
fn list_mut<'a>(v: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    v.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A string field; empty when absent.
fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::strategy;

    #[test]
    fn a_selectable_field_that_is_absent_has_the_value_that_absence_means() {
        let absent = |group: &str, kind: &str, path: &str| strategy(group, kind).field(&json!({}), path);
        assert_eq!(absent("", "Node", "spec.unschedulable").as_deref(), Some("false"));
        assert_eq!(absent("", "Pod", "spec.hostNetwork").as_deref(), Some("false"));
        assert_eq!(absent("", "Pod", "spec.nodeName"), None);
        assert_eq!(absent("apps", "ReplicaSet", "status.replicas").as_deref(), Some("0"));
        assert_eq!(absent("batch", "Job", "status.successful").as_deref(), Some("0"));
        let job = json!({"status": {"succeeded": 2}});
        assert_eq!(strategy("batch", "Job").field(&job, "status.successful").as_deref(), Some("2"));
    }
}

#[cfg(test)]
mod fuzz_tests;
