//! LimitRanger: pods and claims keep to the limit ranges of their namespace, and containers that
//! say nothing get what those have as default.

use std::sync::Weak;

use api::Status;
use api::pod_resources::{self as resources, Amounts};
use api::quantity::Quantity;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::registry::{At, Selection};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger(pub(super) Weak<Server>);

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if is_limited(a, old) && a.resource.plural == "pods" {
            for limit in self.limits(a).await? {
                set_defaults(&limit, object);
            }
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| is_limited(a, old)) else { return Ok(()) };
        let mut broken = Vec::new();
        for limit in self.limits(a).await? {
            let kind = limit["type"].as_str().unwrap_or_default();
            for (request, limited) in measured(a, kind, object) {
                check(&limit, kind, &request, limited.as_ref(), &mut broken);
            }
        }
        let why = match broken.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        Err(Status::forbidden("", &a.resource.plural, a.name, &why))
    }
}

fn is_limited(a: &Attributes<'_>, old: Option<&Value>) -> bool {
    let deleted = old.is_some_and(|o| o["metadata"].get("deletionTimestamp").is_some());
    let written = match a.resource.plural.as_str() {
        "pods" => a.operation == Operation::Create,
        "persistentvolumeclaims" => matches!(a.operation, Operation::Create | Operation::Update),
        _ => false,
    };
    written && a.resource.group.is_empty() && a.subresource.is_empty() && !deleted
}

impl LimitRanger {
    /// All limits of the namespace.
    async fn limits(&self, a: &Attributes<'_>) -> Result<Vec<Value>, Status> {
        let server = alive(&self.0)?;
        let ranges = server.resource("", "v1", "limitranges")?;
        let all = Selection::new(&ranges, a.namespace, "", "")?;
        let page = server.registry().list(&ranges, &all, At::Consistent, 0, None).await?;
        Ok(page
            .items
            .iter()
            .flat_map(|o| o.to_value()["spec"]["limits"].as_array().cloned().unwrap_or_default())
            .collect())
    }
}

/// Gives containers the requests and limits that they do not name, and notes it.
fn set_defaults(limit: &Value, pod: &mut Value) {
    if limit["type"] != "Container" {
        return;
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for c in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let name = c["name"].as_str().unwrap_or_default().to_owned();
            for (kind, from, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
                let mut set = Vec::new();
                for (resource, q) in limit[from].as_object().into_iter().flatten() {
                    if c["resources"][kind].get(resource).is_none() {
                        c["resources"][kind][resource] = q.clone();
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    set.sort_unstable();
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

/// Requests, and limits where the kind has them, of everything that a type of limit is about.
fn measured(a: &Attributes<'_>, kind: &str, object: &Value) -> Vec<(Amounts, Option<Amounts>)> {
    match (a.resource.plural.as_str(), kind) {
        ("pods", "Container") => {
            let all =
                resources::containers(object, "containers").chain(resources::containers(object, "initContainers"));
            let of = |c: &Value, kind: &str| resources::amounts(&c["resources"][kind]);
            all.map(|c| (of(c, "requests"), Some(of(c, "limits")))).collect()
        }
        ("pods", "Pod") => vec![(resources::requests(object), Some(resources::limits(object)))],
        ("persistentvolumeclaims", "PersistentVolumeClaim") => {
            vec![(resources::amounts(&object["spec"]["resources"]["requests"]), None)]
        }
        _ => Vec::new(),
    }
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: Option<&Amounts>, broken: &mut Vec<String>) {
    let none = Amounts::new();
    let given = limits.unwrap_or(&none);
    for (name, least) in resources::amounts(&limit["min"]) {
        broken.extend(below(&name, kind, least, requests.get(&name), given.get(&name)));
    }
    for (name, most) in resources::amounts(&limit["max"]) {
        let bound = if limits.is_some() { given.get(&name) } else { requests.get(&name) };
        let word = if limits.is_some() { "limit" } else { "request" };
        broken.extend(above(&name, kind, most, bound, word, requests.get(&name)));
    }
    if limits.is_some() {
        for (name, most) in resources::amounts(&limit["maxLimitRequestRatio"]) {
            broken.extend(too_far_apart(&name, kind, most, requests.get(&name), given.get(&name)));
        }
    }
}

fn below(
    name: &str,
    kind: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("minimum {name} usage per {kind} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{rule}.  No request is specified")),
        (Some(r), _) if *r < least => Some(format!("{rule}, but request is {r}")),
        (_, Some(l)) if *l < least => Some(format!("{rule}, but limit is {l}")),
        _ => None,
    }
}

fn above(
    name: &str,
    kind: &str,
    most: Quantity,
    bound: Option<&Quantity>,
    word: &str,
    request: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("maximum {name} usage per {kind} is {most}");
    match (bound, request) {
        (None, _) => Some(format!("{rule}.  No {word} is specified")),
        (Some(b), _) if *b > most => Some(format!("{rule}, but {word} is {b}")),
        (_, Some(r)) if *r > most => Some(format!("{rule}, but request is {r}")),
        _ => None,
    }
}

fn too_far_apart(
    name: &str,
    kind: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("{name} max limit to request ratio per {kind} is {most}");
    let Some(request) = request.filter(|r| !r.is_zero()) else {
        return Some(format!("{rule}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|l| !l.is_zero()) else {
        return Some(format!("{rule}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > most.as_f64()).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_get_what_they_do_not_name() {
        let limit =
            json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}});
        set_defaults(&limit, &mut pod);
        let r = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(*r, json!({"requests": {"cpu": "200m", "memory": "1Mi"}, "limits": {"cpu": "1"}}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn a_range_is_kept_to_at_both_ends() {
        let limit = json!({"min": {"cpu": "100m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let of = |q: &str| resources::amounts(&json!({"cpu": q}));
        let told = |request: &str, limited: &str| {
            let mut broken = Vec::new();
            check(&limit, "Container", &of(request), Some(&of(limited)), &mut broken);
            broken
        };
        assert!(told("500m", "1").is_empty());
        assert_eq!(told("50m", "100m"), ["minimum cpu usage per Container is 100m, but request is 50m"]);
        assert_eq!(
            told("500m", "2"),
            [
                "maximum cpu usage per Container is 1, but limit is 2",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000"
            ]
        );
    }
}
