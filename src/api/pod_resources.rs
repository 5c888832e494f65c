//! What a pod asks for in all, in quantities as they are written
//! (upstream: `k8s.io/component-helpers/resource`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

/// Quantities by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// A resource list; what does not parse is left out, validation keeps it from being stored.
pub fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(k, q)| Some((k.clone(), Quantity::from_value(q).ok()?))).collect()
}

/// A resource list as JSON.
pub fn to_value(list: &Amounts) -> Value {
    list.iter().map(|(k, q)| (k.clone(), Value::from(q.to_string()))).collect::<serde_json::Map<_, _>>().into()
}

/// Adds one list to another.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, q) in more {
        match to.get_mut(name) {
            Some(have) => *have += *q,
            None => drop(to.insert(name.clone(), *q)),
        }
    }
}

fn raise(to: &mut Amounts, least: &Amounts) {
    for (name, q) in least {
        match to.get_mut(name) {
            Some(have) => *have = (*have).max(*q),
            None => drop(to.insert(name.clone(), *q)),
        }
    }
}

/// Containers of a pod in the list of this name.
pub fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod["spec"][list].as_array().into_iter().flatten()
}

/// The sum over containers and sidecars, or what the largest init container needs together with
/// the sidecars started before it. `kind` is `requests` or `limits`.
fn of_containers(pod: &Value, kind: &str) -> Amounts {
    let own = |c: &Value| amounts(&c["resources"][kind]);
    let mut total = Amounts::new();
    containers(pod, "containers").for_each(|c| add(&mut total, &own(c)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in containers(pod, "initContainers") {
        let mut now = own(c);
        if c["restartPolicy"] == "Always" {
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut peak, &now);
    }
    add(&mut total, &sidecars);
    raise(&mut total, &peak);
    // What the pod asks for as a whole counts instead of the sum.
    total.extend(amounts(&pod["spec"]["resources"][kind]));
    total
}

/// What a pod requests, without its overhead.
pub fn requests(pod: &Value) -> Amounts {
    of_containers(pod, "requests")
}

/// What a pod is limited to, without its overhead.
pub fn limits(pod: &Value) -> Amounts {
    of_containers(pod, "limits")
}

/// Whether no container asks for, or is limited in, CPU or memory.
pub fn is_best_effort(pod: &Value) -> bool {
    let sets = |r: &Value| {
        ["requests", "limits"].iter().any(|kind| {
            ["cpu", "memory"].iter().any(|name| Quantity::from_value(&r[kind][name]).is_ok_and(|q| !q.is_zero()))
        })
    };
    let mut all = containers(pod, "containers").chain(containers(pod, "initContainers"));
    !all.any(|c| sets(&c["resources"])) && !sets(&pod["spec"]["resources"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_always() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = c("1");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {"containers": [c("500m"), c("500m")], "initContainers": [sidecar, c("3")]}});
        assert_eq!(to_value(&requests(&pod)), json!({"cpu": "4"}));
        assert!(!is_best_effort(&pod));
        assert!(is_best_effort(&json!({"spec": {"containers": [{}]}})));
    }
}
