//! PodTolerationRestriction: annotations of the namespace say which taints its pods tolerate, and
//! which they may; where they say nothing, the configuration does
//! (upstream: `plugin/pkg/admission/podtolerationrestriction`).

use std::sync::Weak;

use api::Status;
use api::k8s::core::v1::Toleration;
use api::quantity::Quantity;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// What holds for namespaces that say nothing.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    default: Vec<Toleration>,
    allowed: Vec<Toleration>,
}

impl Configuration {
    /// Reads the plugin's `Configuration`; null says nothing.
    ///
    /// # Errors
    /// Tolerations that are none.
    pub fn parse(v: &Value) -> Result<Configuration, String> {
        let read = |field: &str| {
            let path = format!("podtolerationrestriction.{field}");
            let errors = api::kinds::toleration_errors(&v[field], &path);
            if !errors.is_empty() {
                let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
                return Err(format!("invalid config: {}", all.join(", ")));
            }
            tolerations(&v[field]).map_err(|e| format!("{path}: {e}"))
        };
        Ok(Configuration { default: read("default")?, allowed: read("whitelist")? })
    }
}

/// An empty text says as little as none.
fn tolerations(v: &Value) -> Result<Vec<Toleration>, serde_json::Error> {
    let list: Option<Vec<Toleration>> = Option::deserialize(v)?;
    let said = |text: Option<String>| text.filter(|t| !t.is_empty());
    let plain = |t: Toleration| Toleration {
        key: said(t.key),
        value: said(t.value),
        operator: said(t.operator),
        effect: said(t.effect),
        ..t
    };
    Ok(list.unwrap_or_default().into_iter().map(plain).collect())
}

/// What a namespace says; `None` when it says nothing.
fn annotated(namespace: &Value, name: &str) -> Result<Option<Vec<Toleration>>, Status> {
    let Some(text) = namespace["metadata"]["annotations"][name].as_str() else { return Ok(None) };
    if text.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let parsed = serde_json::from_str::<Value>(text).and_then(|v| tolerations(&v));
    parsed.map(Some).map_err(|e| Status::internal_plain(e.to_string()))
}

/// Whether one tolerates whatever the other does.
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    if wide == narrow {
        return true;
    }
    let exists = wide.operator.as_deref() == Some("Exists");
    let every_key = wide.key.is_none() && exists;
    if !every_key && wide.key != narrow.key || wide.effect.is_some() && wide.effect != narrow.effect {
        return false;
    }
    if wide.effect.as_deref() == Some("NoExecute")
        && let Some(most) = wide.toleration_seconds
        && narrow.toleration_seconds.is_none_or(|s| s > most)
    {
        return false;
    }
    match wide.operator.as_deref() {
        Some("Exists") => true,
        None | Some("Equal") => narrow.operator.as_deref() == Some("Equal") && narrow.value == wide.value,
        Some(_) => false,
    }
}

/// Both, without those that others cover.
fn merged(own: Vec<Toleration>, more: Vec<Toleration>) -> Vec<Toleration> {
    let all: Vec<Toleration> = own.into_iter().chain(more).collect();
    let mut kept: Vec<Toleration> = Vec::new();
    for (at, t) in all.iter().enumerate() {
        let later = |other: &Toleration| other != t && covers(other, t);
        if !kept.iter().any(|k| covers(k, t)) && !all[at + 1..].iter().any(later) {
            kept.push(t.clone());
        }
    }
    kept
}

/// Whether a pod asks for cpu or memory, or is limited in them.
fn has_claims(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let lists = ["containers", "initContainers"].into_iter().flat_map(|l| spec[l].as_array().into_iter().flatten());
    let amount = |r: &Value, kind: &str, name: &str| {
        r[kind][name].as_str().and_then(|q| Quantity::parse(q).ok()).is_some_and(|q| q > Quantity::default())
    };
    let claims = |holder: &Value| {
        let kinds = ["requests", "limits"];
        kinds.iter().any(|k| ["cpu", "memory"].iter().any(|n| amount(&holder["resources"], k, n)))
    };
    lists.chain([spec]).any(claims)
}

pub(super) struct PodTolerationRestriction {
    pub(super) server: Weak<Server>,
    pub(super) configuration: Configuration,
}

fn concerns(a: &Attributes<'_>) -> bool {
    let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods" && a.subresource.is_empty();
    is_pod && matches!(a.operation, Operation::Create | Operation::Update)
}

impl PodTolerationRestriction {
    async fn namespace(&self, name: &str) -> Result<Value, Status> {
        let server = alive(&self.server)?;
        let namespaces = server.resource("", "v1", "namespaces")?;
        Ok(server.registry().get(&namespaces, "", name).await?.to_value())
    }

    fn check(&self, namespace: &Value, pod: &Value) -> Result<(), Status> {
        let own = tolerations(&pod["spec"]["tolerations"]).map_err(Status::internal)?;
        if own.is_empty() {
            return Ok(());
        }
        let (allowed, scope) = match annotated(namespace, ALLOWED)? {
            Some(allowed) => (allowed, "namespace"),
            None => (self.configuration.allowed.clone(), "cluster"),
        };
        if allowed.is_empty() || own.iter().all(|t| allowed.iter().any(|a| covers(a, t))) {
            return Ok(());
        }
        Err(Status::internal_plain(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        )))
    }
}

#[async_trait]
impl Admission for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        if !concerns(a) {
            return Ok(());
        }
        let namespace = self.namespace(a.namespace).await?;
        let mut more = Vec::new();
        if a.operation == Operation::Create {
            more = annotated(&namespace, DEFAULTS)?.unwrap_or_else(|| self.configuration.default.clone());
        }
        if has_claims(pod) {
            let pressed = json!([{"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}]);
            more.extend(tolerations(&pressed).map_err(Status::internal)?);
        }
        if !more.is_empty() {
            let own = tolerations(&pod["spec"]["tolerations"]).map_err(Status::internal)?;
            pod["spec"]["tolerations"] = serde_json::to_value(merged(own, more)).map_err(Status::internal)?;
        }
        self.check(&namespace, pod)
    }

    async fn validate(&self, a: &Attributes<'_>, pod: Option<&Value>, _: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod.filter(|_| concerns(a)) else { return Ok(()) };
        self.check(&self.namespace(a.namespace).await?, pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Settings;
    use crate::testing::{Testing, admin, core};
    use client::api::Verb;

    fn list(v: &Value) -> Vec<Toleration> {
        tolerations(v).unwrap()
    }

    #[test]
    fn what_another_covers_is_left_out_and_the_first_of_equals_stays() {
        let own = list(&json!([{"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"},
            {"key": "b", "operator": "Exists"}]));
        let more = list(&json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "b", "operator": "Exists", "effect": "NoExecute"}, {"key": "b", "operator": "Exists", "value": ""}]));
        let wanted = list(&json!([{"key": "b", "operator": "Exists"},
            {"key": "a", "operator": "Exists", "effect": "NoSchedule"}]));
        assert_eq!(merged(own, more), wanted);
        let [short, long] = [60, 600]
            .map(|s| json!([{"key": "c", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": s}]));
        assert!(covers(&list(&long)[0], &list(&short)[0]) && !covers(&list(&short)[0], &list(&long)[0]));
    }

    #[tokio::test]
    async fn namespaces_say_what_their_pods_tolerate_and_may_tolerate() {
        let on = ["PodTolerationRestriction".to_owned()];
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("admission.yaml");
        let text = "kind: AdmissionConfiguration\nplugins:\n- name: PodTolerationRestriction\n  configuration:\n    kind: Configuration\n    default:\n    - {key: everywhere, operator: Exists}\n";
        std::fs::write(&file, text).unwrap();
        let settings = Settings::new(&on, &[], Some(&file)).unwrap();
        let t = Testing::configured(|c| c.admission = settings).await;
        let allowed = json!([{"key": "own", "operator": "Exists"}, {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]);
        let own = json!([{"key": "own", "operator": "Equal", "value": "v"}]);
        let annotations = json!({DEFAULTS: own.to_string(), ALLOWED: allowed.to_string()});
        let namespace = json!({"metadata": {"name": "strict", "annotations": annotations}});
        t.create(&core("namespaces"), "-", &namespace).await;
        for namespace in ["default", "strict"] {
            t.create(&core("serviceaccounts"), namespace, &json!({"metadata": {"name": "default"}})).await;
        }
        let pod = |name: &str, cpu: &str| {
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i",
                "resources": {"requests": {"cpu": cpu}}}]}})
        };
        let keys = |o: Value| -> Vec<String> {
            let all = o["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
            all.iter().map(|t| t["key"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let made = t.create(&core("pods"), "default", &pod("a", "1")).await.to_value();
        let wanted = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "everywhere", MEMORY_PRESSURE];
        assert_eq!(keys(made), wanted);
        let made = t.create(&core("pods"), "strict", &pod("b", "0")).await.to_value();
        assert_eq!(keys(made), ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "own"]);
        let refused = t.call(&admin(), Verb::Create, &core("pods"), "strict", &pod("c", "1")).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist"
        );
    }

    #[test]
    fn a_configuration_is_checked() {
        let wrong = Configuration::parse(&json!({"whitelist": [{"key": "a", "operator": "Near"}]})).unwrap_err();
        assert!(wrong.starts_with("invalid config: podtolerationrestriction.whitelist"), "{wrong}");
        assert!(Configuration::parse(&Value::Null).unwrap().default.is_empty());
    }
}
