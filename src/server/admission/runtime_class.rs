//! RuntimeClass: a pod gets the overhead, node selector and tolerations of the class that it
//! names, and is refused when there is none of that name.

use std::sync::{Arc, Weak};

use api::quantity::Quantity;
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

pub(super) struct RuntimeClass(pub(super) Weak<Server>);

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        if !is_new_pod(a) {
            return Ok(());
        }
        let Some(class) = self.class_of(a, pod).await? else { return Ok(()) };
        let class = class.to_value();
        set_overhead(a, pod, &class["overhead"]["podFixed"])?;
        set_scheduling(a, pod, &class["scheduling"])
    }

    async fn validate(&self, a: &Attributes<'_>, pod: Option<&Value>, _: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod.filter(|_| is_new_pod(a)) else { return Ok(()) };
        let class = self.class_of(a, pod).await?.map(|c| c.to_value());
        let wanted = class.as_ref().and_then(|c| c.get("overhead")).map(|o| &o["podFixed"]);
        match (wanted, pod["spec"].get("overhead")) {
            (None, Some(_)) => {
                Err(refused(a, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            (Some(wanted), given) if !same(wanted, given.unwrap_or(&Value::Null)) => Err(refused(a, OTHER_OVERHEAD)),
            _ => Ok(()),
        }
    }
}

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn is_new_pod(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create
        && a.subresource.is_empty()
        && a.resource.group.is_empty()
        && a.resource.plural == "pods"
}

fn refused(a: &Attributes<'_>, why: &str) -> Status {
    Status::forbidden("", "pods", a.name, why)
}

impl RuntimeClass {
    async fn class_of(&self, a: &Attributes<'_>, pod: &Value) -> Result<Option<Arc<Object>>, Status> {
        let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
        let server = alive(&self.0)?;
        let classes = server.resource("node.k8s.io", "v1", "runtimeclasses")?;
        match server.registry().get(&classes, "", name).await {
            Ok(class) => Ok(Some(class)),
            Err(s) if s.is_not_found() => Err(refused(a, &format!("pod rejected: RuntimeClass {name:?} not found"))),
            Err(s) => Err(s),
        }
    }
}

/// Whether two resource lists say the same, however they are written.
fn same(a: &Value, b: &Value) -> bool {
    let parsed = |v: &Value| -> Option<Vec<(String, Quantity)>> {
        let list = v.as_object().into_iter().flatten();
        list.map(|(k, q)| Some((k.clone(), Quantity::parse(q.as_str()?).ok()?))).collect()
    };
    parsed(a) == parsed(b)
}

fn set_overhead(a: &Attributes<'_>, pod: &mut Value, wanted: &Value) -> Result<(), Status> {
    if wanted.is_null() {
        return Ok(());
    }
    if pod["spec"].get("overhead").is_some_and(|given| !same(given, wanted)) {
        return Err(refused(a, OTHER_OVERHEAD));
    }
    pod["spec"]["overhead"] = wanted.clone();
    Ok(())
}

fn set_scheduling(a: &Attributes<'_>, pod: &mut Value, wanted: &Value) -> Result<(), Status> {
    let spec = &mut pod["spec"];
    let mut selector: Map<String, Value> = spec["nodeSelector"].as_object().cloned().unwrap_or_default();
    for (key, value) in wanted["nodeSelector"].as_object().into_iter().flatten() {
        if let Some(own) = selector.insert(key.clone(), value.clone())
            && own != *value
        {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(&own)
            );
            return Err(refused(a, &why));
        }
    }
    if !selector.is_empty() {
        spec["nodeSelector"] = Value::Object(selector);
    }
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for t in wanted["tolerations"].as_array().into_iter().flatten() {
        if !tolerations.contains(t) {
            tolerations.push(t.clone());
        }
    }
    if !tolerations.is_empty() {
        spec["tolerations"] = json!(tolerations);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_lists_are_compared_by_what_they_mean() {
        assert!(same(&json!({"cpu": "1"}), &json!({"cpu": "1000m"})));
        assert!(!same(&json!({"cpu": "1"}), &json!({"cpu": "1", "memory": "1"})));
    }
}
