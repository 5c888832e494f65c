//! What only `pods/ephemeralcontainers` and `pods/resize` change
//! (upstream: `pkg/registry/core/pod/strategy.go`).

use serde_json::{Map, Value};

use super::{list, list_mut, pod, text};
use crate::field::{ErrorList, FieldError};

const EPHEMERAL: &str = "ephemeralContainers";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The resources of a container that can change while it runs.
const MUTABLE: [&str; 2] = ["cpu", "memory"];

/// Keeps everything of the old pod but what the subresource is for.
pub(super) fn prepare(aspect: &str, new: &mut Value, old: &Value) {
    let mut pod = old.clone();
    pod["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"].take();
    if aspect == "resize" {
        keep_resources(&mut pod, new, old);
    } else {
        match new["spec"].get(EPHEMERAL) {
            Some(given) => pod["spec"][EPHEMERAL] = given.clone(),
            None => {
                pod["spec"].as_object_mut().map(|s| s.remove(EPHEMERAL));
            }
        }
    }
    *new = pod;
}

/// Takes over the resources of containers that are the same ones; others are left for validation.
fn keep_resources(pod: &mut Value, new: &Value, old: &Value) {
    for containers in ["containers", "initContainers"] {
        let names = |o: &Value| list(&o["spec"], containers).map(|c| c["name"].clone()).collect::<Vec<_>>();
        if names(new) != names(old) {
            pod["spec"][containers] = new["spec"][containers].clone();
            continue;
        }
        let given: Vec<&Value> = list(&new["spec"], containers).collect();
        for (own, given) in list_mut(&mut pod["spec"], containers).zip(given) {
            for field in ["resources", "resizePolicy"] {
                if let Some(v) = given.get(field) {
                    own[field] = v.clone();
                }
            }
        }
    }
}

/// All that is wrong with what the subresource changes.
pub(super) fn validate(aspect: &str, new: &Value, old: &Value, errors: &mut ErrorList) {
    let is_mirror = old["metadata"]["annotations"].get(MIRROR).is_some();
    if aspect == "resize" {
        if is_mirror {
            *errors = vec![FieldError::forbidden("", "static pods cannot be resized")];
        } else if old["spec"]["os"]["name"] == "windows" {
            *errors = vec![FieldError::forbidden("", "windows pods cannot be resized")];
        } else {
            resized(new, old, errors);
        }
    } else if is_mirror {
        *errors = vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
    } else {
        ephemeral(new, old, errors);
    }
}

fn ephemeral(new: &Value, old: &Value, errors: &mut ErrorList) {
    let field = format!("spec.{EPHEMERAL}");
    for before in list(&old["spec"], EPHEMERAL) {
        let name = text(before, "name");
        let why = match list(&new["spec"], EPHEMERAL).find(|c| text(c, "name") == name) {
            None => "removed",
            Some(now) if now != before => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {why}\n");
        errors.push(FieldError::forbidden(field.clone(), detail));
    }
}

fn resized(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (is, was) = (&new["spec"], &old["spec"]);
    let class = pod::qos(is);
    if text(&old["status"], "qosClass") != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", text(&new["status"], "qosClass"), detail));
    }
    // A kubelet that cannot resize does not tell what containers have.
    let silent = list(&old["status"], "containerStatuses")
        .any(|s| s["state"]["running"].is_object() && s["resources"].is_null());
    if silent {
        errors.push(FieldError::forbidden("spec", "Pod running on node without support for resize"));
    }
    let before = errors.len();
    for containers in ["containers", "initContainers"] {
        same_containers(is, was, containers, errors);
    }
    if errors.len() > before {
        return;
    }
    let mut rest = is.clone();
    for containers in ["containers", "initContainers"] {
        let all = list(is, containers).zip(list(was, containers));
        for (i, (now, then)) in all.enumerate() {
            let sidecar = text(then, "restartPolicy") == "Always";
            let path = format!("spec.{containers}[{i}]");
            if containers == "initContainers" && !sidecar {
                if now != then {
                    let detail = "resources for non-sidecar init containers are immutable";
                    errors.push(FieldError::forbidden(path, detail));
                }
                continue;
            }
            removed(now, then, &path, errors);
            let same = put_back(now, then);
            let detail = match (same == *then, sidecar) {
                (true, _) => {
                    rest[containers][i] = same;
                    continue;
                }
                (false, true) => "only cpu and memory resources for sidecar containers are mutable",
                (false, false) => "only cpu and memory resources are mutable",
            };
            errors.push(FieldError::forbidden("spec", detail));
        }
    }
    if errors.len() == before && rest != *was {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
    }
}

fn same_containers(new: &Value, old: &Value, field: &str, errors: &mut ErrorList) {
    let names = |s: &Value| list(s, field).map(|c| text(c, "name").to_owned()).collect::<Vec<_>>();
    let (new, old) = (names(new), names(old));
    if new.len() != old.len() {
        let detail = format!("{field} may not be added or removed on resize");
        errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
        return;
    }
    for (i, _) in new.iter().zip(&old).enumerate().filter(|(_, (n, o))| n != o) {
        let detail = format!("{field} may not be renamed or reordered on resize");
        errors.push(FieldError::forbidden(format!("spec.{field}[{i}].name"), detail));
    }
}

fn removed(new: &Value, old: &Value, path: &str, errors: &mut ErrorList) {
    for kind in ["requests", "limits"] {
        let was = old["resources"][kind].as_object().into_iter().flatten();
        if was.map(|(name, _)| name).any(|name| new["resources"][kind].get(name).is_none()) {
            let detail = format!("resource {kind} cannot be removed");
            errors.push(FieldError::forbidden(format!("{path}.resources"), detail));
        }
    }
}

/// The container with the cpu and memory that it had.
fn put_back(new: &Value, old: &Value) -> Value {
    let mut c = new.clone();
    for kind in ["limits", "requests"] {
        let mut amounts = new["resources"][kind].as_object().cloned().unwrap_or_default();
        for name in MUTABLE {
            match old["resources"][kind].get(name) {
                Some(v) => drop(amounts.insert(name.to_owned(), v.clone())),
                None => drop(amounts.remove(name)),
            }
        }
        let given = old["resources"].get(kind).is_some() || !amounts.is_empty();
        let Some(resources) = c["resources"].as_object_mut() else { continue };
        if given {
            resources.insert(kind.to_owned(), Value::Object(amounts));
        } else {
            resources.remove(kind);
        }
    }
    if c["resources"].is_null() {
        c["resources"] = Value::Object(Map::new());
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(aspect: &str, old: &Value, change: impl Fn(&mut Value)) -> (Value, Vec<String>) {
        let mut new = old.clone();
        change(&mut new);
        prepare(aspect, &mut new, old);
        let mut errors = ErrorList::new();
        validate(aspect, &new, old, &mut errors);
        (new, errors.iter().map(ToString::to_string).collect())
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "resourceVersion": "1"}, "spec": {
            "initContainers": [{"name": "i", "resources": {}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]},
            "status": {"qosClass": "Burstable"}})
    }

    #[test]
    fn ephemeral_containers_are_added_and_nothing_else() {
        let (new, errors) = told("ephemeralcontainers", &pod(), |p| {
            p["spec"]["ephemeralContainers"] = json!([{"name": "e"}]);
            p["spec"]["containers"] = json!([]);
        });
        assert_eq!((new["spec"]["containers"].as_array().unwrap().len(), errors), (1, vec![]));
        assert_eq!(new["spec"]["ephemeralContainers"][0]["name"], "e");
        let (_, errors) = told("ephemeralcontainers", &new, |p| p["spec"]["ephemeralContainers"] = json!([]));
        assert_eq!(
            errors,
            ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"]
        );
    }

    #[test]
    fn a_resize_changes_cpu_and_memory() {
        type Change = fn(&mut Value);
        let cases: [(Change, &[&str]); 6] = [
            (|p| p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1500m".into(), &[]),
            (
                |p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}}),
                &["spec.containers[0].resources: Forbidden: resource requests cannot be removed"],
            ),
            (
                |p| p["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = "1Gi".into(),
                &["spec: Forbidden: only cpu and memory resources are mutable"],
            ),
            (
                |p| p["spec"]["initContainers"][0]["resources"] = json!({"requests": {"cpu": "1"}}),
                &["spec.initContainers[0]: Forbidden: resources for non-sidecar init containers are immutable"],
            ),
            (
                |p| p["spec"]["containers"][0]["name"] = "d".into(),
                &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
            ),
            (|p| p["spec"]["nodeName"] = "n".into(), &[]),
        ];
        for (change, wanted) in cases {
            let (new, errors) = told("resize", &pod(), change);
            assert_eq!(errors, wanted);
            assert!(new["spec"]["nodeName"].is_null());
        }
        let mut running = pod();
        running["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
        let (_, errors) = told("resize", &running, |_| {});
        assert_eq!(errors, ["spec: Forbidden: Pod running on node without support for resize"]);
    }
}
