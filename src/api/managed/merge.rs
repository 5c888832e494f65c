//! Values merged, compared and cut along a schema
//! (upstream: `sigs.k8s.io/structured-merge-diff/typed`).

use std::collections::{HashMap, HashSet};

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
        (Value::Array(old), Value::Array(new)) if lists(t) != Lists::Atomic => Value::Array(merge_items(old, new, t)),
        // Nothing is said about what is below.
        (Value::Object(_), Value::Null) if granular(t) => live.clone(),
        (Value::Array(_), Value::Null) if lists(t) != Lists::Atomic => live.clone(),
        _ => config.clone(),
    }
}

/// The items of both lists. Those of the configuration come in its order; those that only the live
/// list has stay between the items that they are between, as far as that order allows. An item
/// that the live list has twice is replaced by the one that the configuration has.
fn merge_items(old: &[Value], new: &[Value], t: &TypeRef) -> Vec<Value> {
    let of = item_type(t);
    let (old_ids, new_ids): (Vec<String>, Vec<String>) =
        (old.iter().map(|o| item(t, o)).collect(), new.iter().map(|n| item(t, n)).collect());
    let mut live: HashMap<&str, Vec<&Value>> = HashMap::new();
    old_ids.iter().zip(old).for_each(|(id, o)| live.entry(id).or_default().push(o));
    let wanted: HashSet<&str> = new_ids.iter().map(String::as_str).collect();
    let merged = |at: usize| match live.get(new_ids[at].as_str()).map(Vec::as_slice) {
        Some([one]) => merge(one, &new[at], &of),
        _ => new[at].clone(),
    };
    // The configuration's items that are live already, in its order: at each of them the live
    // list is caught up with.
    let mut shared = new_ids.iter().map(String::as_str).filter(|id| live.contains_key(id)).peekable();
    let mut done: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if l < old.len() {
            let id = old_ids[l].as_str();
            if !wanted.contains(id) {
                out.push(old[l].clone());
                l += 1;
                continue;
            }
            let is_next = r < new.len() && new_ids[r] == id;
            if !is_next && r < new.len() && shared.peek().is_some_and(|s| *s != id) {
                // Its turn in the configuration's order is to come.
                l += 1;
                continue;
            }
            l += usize::from(is_next || done.contains(id));
        }
        if r < new.len() {
            let id = new_ids[r].as_str();
            out.push(merged(r));
            done.insert(id);
            shared.next_if(|s| *s == id);
            r += 1;
        }
    }
    out
}

/// What a change is, by paths.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Where the new value is another, or where there was none.
    pub changed: FieldSet,
    /// Where there is a value no more.
    pub removed: FieldSet,
}

/// Compares two values of a type. A struct, map or list that is there on one side only counts
/// itself, besides what is in it.
pub fn compare(old: &Value, new: &Value, t: &TypeRef) -> Comparison {
    differ(Some(old), Some(new), t)
}

fn differ(old: Option<&Value>, new: Option<&Value>, t: &TypeRef) -> Comparison {
    let mut out = Comparison::default();
    if old == new {
        return out;
    }
    match (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null())) {
        // Scalars, and what a schema that knows no more takes for one thing now and another then.
        (Some(a), Some(b)) if std::mem::discriminant(a) != std::mem::discriminant(b) => {
            let null = Value::Null;
            out.removed = differ(old, Some(&null), t).removed;
            out.changed = differ(Some(&null), new, t).changed;
            out.changed.member = true;
            return out;
        }
        (Some(Value::Object(_)), _) | (_, Some(Value::Object(_))) if granular(t) => {
            let empty = Map::new();
            let a = old.and_then(Value::as_object).unwrap_or(&empty);
            let b = new.and_then(Value::as_object).unwrap_or(&empty);
            if !a.is_empty() || !b.is_empty() {
                let gone = a.iter().filter(|(k, _)| !b.contains_key(*k)).map(|(k, o)| (k, Some(o), None));
                for (k, o, n) in b.iter().map(|(k, n)| (k, a.get(k), Some(n))).chain(gone) {
                    out.take(field(k), differ(o, n, &field_type(t, k)));
                }
                return out.with_ends(old, new);
            }
        }
        (Some(Value::Array(_)), _) | (_, Some(Value::Array(_))) if lists(t) != Lists::Atomic => {
            let a = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let b = new.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if !a.is_empty() || !b.is_empty() {
                compare_items(a, b, t, &mut out);
                return out.with_ends(old, new);
            }
        }
        _ => {}
    }
    // A leaf.
    out.changed.member = new.is_some();
    out.removed.member = new.is_none();
    out
}

/// Items by what tells them apart. Those that are there more than once are one value together.
fn compare_items(old: &[Value], new: &[Value], t: &TypeRef, out: &mut Comparison) {
    let of = item_type(t);
    let mut all: HashMap<String, (Vec<&Value>, Vec<&Value>)> = HashMap::new();
    old.iter().for_each(|o| all.entry(item(t, o)).or_default().0.push(o));
    new.iter().for_each(|n| all.entry(item(t, n)).or_default().1.push(n));
    for (id, (a, b)) in all {
        let mut one = match (&a[..], &b[..]) {
            ([] | [_], [] | [_]) => differ(a.first().copied(), b.first().copied(), &of),
            ([_, _, ..], [_, _, ..]) => Comparison::default(),
            ([_, _, ..], [one]) => differ(None, Some(one), &of),
            ([one], [_, _, ..]) => differ(Some(one), None, &of),
            _ => Comparison::default(),
        };
        one.changed.member |= b.len() > 1 && a != b;
        one.removed.member |= a.len() > 1 && b.len() < 2;
        out.take(id, one);
    }
}

impl Comparison {
    /// Takes in what differs below an element.
    fn take(&mut self, element: String, below: Comparison) {
        if !below.removed.is_empty() {
            self.removed.children.insert(element.clone(), below.removed);
        }
        if !below.changed.is_empty() {
            self.changed.children.insert(element, below.changed);
        }
    }

    /// Notes that the value itself came or went.
    fn with_ends(mut self, old: Option<&Value>, new: Option<&Value>) -> Comparison {
        self.changed.member |= old.is_none();
        self.removed.member |= new.is_none();
        self
    }
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
        let paths = compare(&live, &merged, &pod()).changed.paths();
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
    fn items_come_in_the_order_of_the_configuration() {
        let items = |names: &str| -> Vec<Value> { names.chars().map(|n| json!({"name": n.to_string()})).collect() };
        let containers = pod().field("spec").unwrap().field("containers").unwrap();
        for (live, config, wanted) in [
            ("abc", "ca", "bca"),
            ("abc", "cba", "cba"),
            ("abc", "bx", "abcx"),
            ("abc", "xb", "axbc"),
            ("abc", "", "abc"),
            ("", "ba", "ba"),
            ("abcd", "db", "acdb"),
            ("aab", "a", "ab"),
            ("aabb", "ba", "ba"),
        ] {
            let merged = merge(&items(live).into(), &items(config).into(), &containers);
            let names: String =
                merged.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect();
            assert_eq!(names, wanted, "{live} and {config}");
        }
    }

    #[test]
    fn what_comes_and_goes_counts_itself() {
        let t = pod();
        let of = |old: &Value, new: &Value| {
            let all = compare(old, new, &t);
            (all.changed.into_value(), all.removed.into_value())
        };
        let (empty, full) = (
            json!({"spec": {}}),
            json!({"spec": {"securityContext": {"runAsUser": 1}, "containers": [
            {"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}], "args": ["x"], "resources": {}}]}}),
        );
        let paths = json!({"f:spec": {
            "f:securityContext": {".": {}, "f:runAsUser": {}},
            "f:containers": {".": {}, "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:args": {}, "f:resources": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                    {".": {}, "f:containerPort": {}, "f:protocol": {}}}}}}});
        assert_eq!(of(&empty, &full), (paths.clone(), json!({})));
        assert_eq!(of(&full, &empty), (json!({}), paths));
        let mut other = full.clone();
        other["spec"]["containers"][0]["args"] = json!(["y"]);
        let at = |leaf: Value| json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": leaf}}});
        assert_eq!(of(&full, &other), (at(json!({"f:args": {}})), json!({})));
        // A list that is there, though null, is not new.
        let null = json!({"spec": {"containers": null, "securityContext": {"runAsUser": 1}}});
        assert_eq!(of(&null, &full).0["f:spec"]["f:containers"].get("."), None);
        // Items of one name are one value together.
        let twice = json!({"spec": {"containers": [{"name": "a"}, {"name": "a", "image": "i"}]}});
        let once = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(of(&once, &twice), (at(json!({})), at(json!({".": {}, "f:name": {}}))));
        assert_eq!(of(&twice, &once), (at(json!({".": {}, "f:name": {}})), at(json!({}))));
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
