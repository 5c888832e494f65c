//! Values merged, compared and cut along a schema
//! (upstream: `sigs.k8s.io/structured-merge-diff/typed`).

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value};

use super::field_set::{FieldSet, Lists, field, field_type, granular, item, item_type, lists};
use crate::schema::TypeRef;

/// What an applied configuration makes of the live object: its values win, what it does not name stays.
pub fn merge(live: &Value, config: &Value, t: &TypeRef) -> Value {
    match (live, config) {
        (Value::Object(old), Value::Object(new)) if granular(t) => {
            let mut out = old.clone();
            for (k, v) in new {
                let merged = match old.get(k) {
                    Some(o) => merge(o, v, &field_type(t, k)),
                    None => v.clone(),
                };
                out.insert(k.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(old), Value::Array(new)) if lists(t) != Lists::Atomic => {
            let of = item_type(t);
            let mut rest: Vec<Option<&Value>> = new.iter().map(Some).collect();
            let mut places: HashMap<String, VecDeque<usize>> = HashMap::new();
            for (at, n) in new.iter().enumerate() {
                places.entry(item(t, n)).or_default().push_back(at);
            }
            let mut out = Vec::with_capacity(old.len().max(new.len()));
            for o in old {
                let at = places.get_mut(&item(t, o)).and_then(VecDeque::pop_front);
                match at.and_then(|at| rest[at].take()) {
                    Some(n) => out.push(merge(o, n, &of)),
                    None => out.push(o.clone()),
                }
            }
            out.extend(rest.into_iter().flatten().cloned());
            Value::Array(out)
        }
        _ => config.clone(),
    }
}

/// The paths at which `new` has another value than `old`, or one where `old` has none.
pub fn changed(old: &Value, new: &Value, t: &TypeRef) -> FieldSet {
    if old == new {
        return FieldSet::default();
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) if granular(t) && !b.is_empty() => {
            let below = b.iter().map(|(k, v)| {
                let of = field_type(t, k);
                let set = match a.get(k) {
                    Some(o) => changed(o, v, &of),
                    None => arrived(v, &of),
                };
                (field(k), set)
            });
            keep(below)
        }
        (Value::Array(a), Value::Array(b)) if lists(t) != Lists::Atomic && !b.is_empty() => {
            let of = item_type(t);
            let before: HashMap<String, &Value> = a.iter().rev().map(|o| (item(t, o), o)).collect();
            let below = b.iter().map(|v| {
                let id = item(t, v);
                let set = match before.get(&id) {
                    Some(o) if lists(t) == Lists::Map => changed(o, v, &of),
                    Some(_) => FieldSet::default(),
                    None => FieldSet { member: true, ..FieldSet::of(v, &of) },
                };
                (id, set)
            });
            keep(below)
        }
        (Value::Null, v) => FieldSet::of(v, t),
        _ => FieldSet::leaf(),
    }
}

/// The paths at which `old` has a value and `new` has none.
pub fn gone(old: &Value, new: &Value, t: &TypeRef) -> FieldSet {
    if old == new {
        return FieldSet::default();
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) if granular(t) && !a.is_empty() && !b.is_empty() => {
            let below = a.iter().map(|(k, o)| {
                let of = field_type(t, k);
                let set = match b.get(k) {
                    Some(n) => gone(o, n, &of),
                    None => FieldSet::of(o, &of),
                };
                (field(k), set)
            });
            keep(below)
        }
        (Value::Array(a), Value::Array(b)) if lists(t) == Lists::Map && !a.is_empty() && !b.is_empty() => {
            let of = item_type(t);
            let after: HashMap<String, &Value> = b.iter().rev().map(|n| (item(t, n), n)).collect();
            let below = a.iter().map(|o| {
                let id = item(t, o);
                let set = match after.get(&id) {
                    // The item itself is there.
                    Some(n) => FieldSet { member: false, ..gone(o, n, &of) },
                    None => FieldSet { member: true, ..FieldSet::of(o, &of) },
                };
                (id, set)
            });
            keep(below)
        }
        _ => FieldSet::of(old, t).minus(&FieldSet::of(new, t)),
    }
}

/// The paths of a value that was not there: a map with free keys is one of them itself.
fn arrived(value: &Value, t: &TypeRef) -> FieldSet {
    let mut set = FieldSet::of(value, t);
    set.member |= t.is_map();
    set
}

fn keep(below: impl Iterator<Item = (String, FieldSet)>) -> FieldSet {
    FieldSet { member: false, children: below.filter(|(_, s)| !s.is_empty()).collect() }
}

/// The value without the paths of `cut`. An item, or a field with something below it, stays as
/// long as something below it is in `kept`.
pub fn remove(value: &Value, cut: &FieldSet, kept: &FieldSet, t: &TypeRef) -> Option<Value> {
    if cut.is_empty() {
        return Some(value.clone());
    }
    if cut.member && kept.is_empty() {
        return None;
    }
    let none = FieldSet::default();
    let below = |id: &str| Some((cut.children.get(id)?, kept.children.get(id).unwrap_or(&none)));
    match value {
        Value::Object(map) if granular(t) => {
            let mut out = Map::new();
            for (k, v) in map {
                let left = match below(&field(k)) {
                    Some((cut, kept)) => remove(v, cut, kept, &field_type(t, k)),
                    None => Some(v.clone()),
                };
                if let Some(v) = left {
                    out.insert(k.clone(), v);
                }
            }
            // What held only what was cut goes with it.
            (!out.is_empty() || map.is_empty() || kept.member).then_some(Value::Object(out))
        }
        Value::Array(list) if lists(t) != Lists::Atomic => {
            let of = item_type(t);
            let left = list.iter().filter_map(|v| match below(&item(t, v)) {
                Some((cut, kept)) => remove(v, cut, kept, &of),
                None => Some(v.clone()),
            });
            let out: Vec<Value> = left.collect();
            (!out.is_empty() || list.is_empty() || kept.member).then_some(Value::Array(out))
        }
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schemas;

    fn pod() -> TypeRef {
        Schemas::builtin().type_of("", "v1", "Pod").unwrap()
    }

    #[test]
    fn lists_are_merged_by_their_keys() {
        let live = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let config = json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}});
        let merged = merge(&live, &config, &pod());
        let names: Vec<&str> =
            merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(merged["spec"]["containers"][1]["image"], "2");
        let paths = changed(&live, &merged, &pod()).paths();
        assert!(paths.contains(&".spec.containers[name=\"b\"].image".to_owned()));
        assert!(paths.contains(&".spec.containers[name=\"c\"]".to_owned()));
        assert!(!paths.iter().any(|p| p.contains("name=\"a\"")));
    }

    #[test]
    fn what_is_cut_goes_unless_somebody_else_has_something_below() {
        let value = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "x", "image": "i"}]}});
        let cut = FieldSet::of(
            &json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "x", "image": "i"}]}}),
            &pod(),
        );
        let gone = remove(&value, &cut, &FieldSet::default(), &pod()).unwrap();
        assert_eq!(gone, json!({"metadata": {"labels": {"b": "2"}}}));
        let kept = FieldSet::of(&json!({"spec": {"containers": [{"name": "x"}]}}), &pod());
        let left = remove(&value, &cut.minus(&kept), &kept, &pod()).unwrap();
        assert_eq!(left["spec"]["containers"], json!([{"name": "x"}]));
    }

    #[test]
    fn what_is_gone_is_what_only_the_old_value_has() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}, "spec": {
            "nodeName": "n", "tolerations": [{"key": "k"}], "containers": [
                {"name": "a", "image": "1", "args": ["x"], "resources": {"limits": {"cpu": "1"}}},
                {"name": "b", "ports": [{"containerPort": 80}, {"containerPort": 81, "protocol": "UDP"}]}]}});
        let values = [
            old.clone(),
            json!({}),
            json!({"metadata": {"labels": {}}, "spec": {"containers": []}}),
            json!({"metadata": {"labels": {"b": "3"}, "finalizers": ["y", "z"]}, "spec": {"nodeName": "m"}}),
            json!({"spec": {"tolerations": [], "containers": [{"name": "b", "ports": [{"containerPort": 81}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "2", "resources": {"limits": {}}}, {"name": "c"}]}}),
        ];
        for a in &values {
            for b in &values {
                let both = FieldSet::of(a, &pod()).minus(&FieldSet::of(b, &pod()));
                assert_eq!(gone(a, b, &pod()), both, "{a} {b}");
            }
        }
    }

    #[test]
    fn merging_twice_is_merging_once() {
        let live = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"tolerations": [{"key": "a"}]}});
        let config = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"tolerations": [{"key": "b"}]}});
        let once = merge(&live, &config, &pod());
        assert_eq!(merge(&once, &config, &pod()), once);
        assert_eq!(once["spec"]["tolerations"], json!([{"key": "b"}]), "an atomic list is replaced");
    }
}
