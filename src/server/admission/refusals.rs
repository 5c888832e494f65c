//! Plugins that only say no to one thing: AlwaysDeny, DenyServiceExternalIPs,
//! LimitPodHardAntiAffinityTopology.

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation};

/// A plugin: its name, and why it refuses a write.
pub(super) struct Refusal {
    pub(super) name: &'static str,
    pub(super) why: fn(&Attributes<'_>, &Value, Option<&Value>) -> Option<String>,
}

#[async_trait]
impl Admission for Refusal {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        match (self.why)(a, object.unwrap_or(&Value::Null), old) {
            None => Ok(()),
            Some(why) => Err(Status::forbidden(&a.resource.group, &a.resource.plural, a.name, &why)),
        }
    }
}

fn writes(a: &Attributes<'_>, plural: &str) -> bool {
    a.resource.group.is_empty()
        && a.resource.plural == plural
        && a.subresource.is_empty()
        && matches!(a.operation, Operation::Create | Operation::Update)
}

pub(super) fn everything(_: &Attributes<'_>, _: &Value, _: Option<&Value>) -> Option<String> {
    Some("admission control is denying all modifications".to_owned())
}

pub(super) fn external_ips(a: &Attributes<'_>, service: &Value, old: Option<&Value>) -> Option<String> {
    let of = |s: &Value| s["spec"]["externalIPs"].as_array().cloned().unwrap_or_default();
    let before = old.map(of).unwrap_or_default();
    let added = writes(a, "services") && of(service).iter().any(|ip| !before.contains(ip));
    added.then(|| "Use of external IPs is denied by admission control.".to_owned())
}

pub(super) fn hard_anti_affinity(a: &Attributes<'_>, pod: &Value, _: Option<&Value>) -> Option<String> {
    const HOSTNAME: &str = "kubernetes.io/hostname";
    let path = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let terms = pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let key = terms.filter_map(|t| t["topologyKey"].as_str()).find(|k| *k != HOSTNAME)?;
    writes(a, "pods").then(|| {
        format!(
            "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
        )
    })
}
