//! The columns of `kubectl get`, as upstream's printers declare them. The cells come from each kind's strategy.

use crate::resource::Column;

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// One line of the tables below: `Ready`, `Desired:integer`, and a leading `+` for `-o wide` only.
fn column(text: &str) -> Column {
    let (priority, text) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (0, text),
    };
    let (name, kind) = text.split_once(':').unwrap_or((text, "string"));
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: if name == "Name" { "name".to_owned() } else { String::new() },
        description: match name {
            "Name" => NAME.to_owned(),
            "Age" | "Created At" => AGE.to_owned(),
            _ => String::new(),
        },
        priority,
    }
}

/// The columns of a built-in kind; `Name` and `Created At` for kinds without a printer.
pub(super) fn of(kind: &str) -> Vec<Column> {
    let names: &[&str] = match kind {
        "Pod" => &["Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"],
        "DeviceClass" | "ResourceClaimTemplate" => &["Name", "Age"],
        "ResourceClaim" => &["Name", "State", "Age"],
        "ResourceSlice" => &["Name", "Node", "Driver", "Pool", "Age"],
        "PodTemplate" => &["Name", "Containers", "Images", "Pod Labels"],
        "PodDisruptionBudget" => &["Name", "Min Available", "Max Unavailable", "Allowed Disruptions:integer", "Age"],
        "ReplicationController" | "ReplicaSet" => &[
            "Name",
            "Desired:integer",
            "Current:integer",
            "Ready:integer",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        "DaemonSet" => &[
            "Name",
            "Desired:integer",
            "Current:integer",
            "Ready:integer",
            "Up-to-date:integer",
            "Available:integer",
            "Node Selector",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        "Deployment" => &["Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"],
        "StatefulSet" => &["Name", "Ready", "Age", "+Containers", "+Images"],
        "ControllerRevision" => &["Name", "Controller", "Revision", "Age"],
        "FlowSchema" => &["Name", "PriorityLevel", "MatchingPrecedence", "DistinguisherMethod", "Age", "MissingPL"],
        "PriorityLevelConfiguration" => {
            &["Name", "Type", "NominalConcurrencyShares", "Queues", "HandSize", "QueueLengthLimit", "Age"]
        }
        "Job" => &["Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"],
        "CronJob" => &[
            "Name",
            "Schedule",
            "Timezone",
            "Suspend:boolean",
            "Active:integer",
            "Last Schedule",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        "Service" => &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"],
        "Ingress" => &["Name", "Class", "Hosts", "Address", "Ports", "Age"],
        "IngressClass" => &["Name", "Controller", "Parameters", "Age"],
        "NetworkPolicy" => &["Name", "Pod-Selector", "Age"],
        "IPAddress" => &["Name", "ParentRef", "Age"],
        "ServiceCIDR" => &["Name", "CIDRs", "Age"],
        "Endpoints" => &["Name", "Endpoints", "Age"],
        "EndpointSlice" => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        "Node" => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        "Event" => &[
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "+Subobject",
            "+Source",
            "Message",
            "+First Seen",
            "+Count",
            "+Name",
        ],
        "ComponentStatus" => &["Name", "Status", "Message", "Error"],
        "Namespace" => &["Name", "Status", "Age"],
        "Secret" => &["Name", "Type", "Data", "Age"],
        "ConfigMap" => &["Name", "Data", "Age"],
        "ServiceAccount" => &["Name", "Secrets", "Age"],
        "PersistentVolume" => &[
            "Name",
            "Capacity",
            "Access Modes",
            "Reclaim Policy",
            "Status",
            "Claim",
            "StorageClass",
            "VolumeAttributesClass",
            "Reason",
            "Age",
            "+VolumeMode",
        ],
        "PersistentVolumeClaim" => &[
            "Name",
            "Status",
            "Volume",
            "Capacity",
            "Access Modes",
            "StorageClass",
            "VolumeAttributesClass",
            "Age",
            "+VolumeMode",
        ],
        "ResourceQuota" => &["Name", "Request", "Limit", "Age"],
        "HorizontalPodAutoscaler" => &["Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"],
        "RoleBinding" | "ClusterRoleBinding" => &["Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"],
        "StorageClass" => &["Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"],
        "VolumeAttachment" => &["Name", "Attacher", "PV", "Node", "Attached:boolean", "Age"],
        "VolumeAttributesClass" => &["Name", "DriverName", "Age"],
        "CSINode" => &["Name", "Drivers:integer", "Age"],
        "CSIDriver" => &[
            "Name",
            "AttachRequired:boolean",
            "PodInfoOnMount:boolean",
            "StorageCapacity:boolean",
            "TokenRequests",
            "RequiresRepublish:boolean",
            "Modes",
            "Age",
        ],
        "CSIStorageCapacity" => &["Name", "StorageClassName", "Capacity"],
        "Lease" => &["Name", "Holder", "Age"],
        "PriorityClass" => &["Name", "Value:integer", "Global-Default:boolean", "Age", "PreemptionPolicy"],
        "CertificateSigningRequest" => &["Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"],
        "APIService" => &["Name", "Service", "Available", "Age"],
        "RuntimeClass" => &["Name", "Handler", "Age"],
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => &["Name", "Webhooks:integer", "Age"],
        "ValidatingAdmissionPolicy" => &["Name", "Validations:integer", "ParamKind", "Age"],
        "ValidatingAdmissionPolicyBinding" => &["Name", "PolicyName", "ParamRef", "Age"],
        // Role, ClusterRole, LimitRange and all without a printer of their own.
        _ => &["Name", "Created At:date"],
    };
    names.iter().map(|n| column(n)).collect()
}
