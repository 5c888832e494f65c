//! Sets of field paths, in upstream's `FieldsV1` form
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>;
//! upstream: `sigs.k8s.io/structured-merge-diff/fieldpath`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

use crate::schema::TypeRef;

/// A set of paths, as a tree. An element is spelled as in `FieldsV1`: `f:name` for a field,
/// `k:{"name":"x"}` for an item of a list of type `map`, `v:"x"` for one of a `set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path that leads here is in the set itself.
    pub member: bool,
    /// What is in the set below.
    pub children: BTreeMap<String, FieldSet>,
}

/// How the items of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// They are not: the list is one value.
    Atomic,
    /// By their value.
    Set,
    /// By the fields that the schema names.
    Map,
}

pub(super) fn lists(t: &TypeRef) -> Lists {
    match t.list_type() {
        Some("set") => Lists::Set,
        Some("map") => Lists::Map,
        _ => Lists::Atomic,
    }
}

/// Whether an object at this place is merged field by field. What a built-in kind takes as any JSON
/// (`runtime.RawExtension`) is one value.
pub(super) fn granular(t: &TypeRef) -> bool {
    t.map_type() != Some("atomic") && !(t.is_any() && t.is_typed())
}

/// The type of a field; any where the schema is silent.
pub(super) fn field_type(t: &TypeRef, name: &str) -> TypeRef {
    t.field(name).unwrap_or_else(TypeRef::any)
}

pub(super) fn item_type(t: &TypeRef) -> TypeRef {
    t.items().unwrap_or_else(TypeRef::any)
}

/// The element for a field.
pub(super) fn field(name: &str) -> String {
    ["f:", name].concat()
}

/// The element for an item of a list of type `map` or `set`; absent keys that have no value are
/// left out, as upstream does.
pub(super) fn item(t: &TypeRef, value: &Value) -> String {
    if lists(t) == Lists::Set {
        return format!("v:{value}");
    }
    let of = |k: &String| value.get(k).cloned().or_else(|| t.list_map_default(k));
    let keys: BTreeMap<&str, Value> = t.list_map_keys().iter().filter_map(|k| Some((k.as_str(), of(k)?))).collect();
    format!("k:{}", serde_json::to_string(&keys).unwrap_or_default())
}

impl FieldSet {
    /// A set of just the path that leads here.
    pub fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    /// Every path that a value has a value at. Keys of maps and items of lists count themselves,
    /// besides what is in them; fields of structs only where they hold nothing.
    pub fn of(value: &Value, t: &TypeRef) -> FieldSet {
        match value {
            Value::Object(map) if granular(t) => {
                let children = map.iter().map(|(k, v)| {
                    let mut below = FieldSet::of(v, &field_type(t, k));
                    below.member |= !t.declares(k) || v.is_null() || v.as_object().is_some_and(Map::is_empty);
                    (field(k), below)
                });
                FieldSet::keep(false, children)
            }
            Value::Array(list) if lists(t) != Lists::Atomic => {
                let of = item_type(t);
                let mut children = BTreeMap::new();
                for v in list {
                    match children.entry(item(t, v)) {
                        Entry::Vacant(e) => {
                            let below = FieldSet::of(v, &of);
                            e.insert(FieldSet { member: true, ..below });
                        }
                        // Those that are there more than once are one value together.
                        Entry::Occupied(mut e) => drop(e.insert(FieldSet::leaf())),
                    }
                }
                FieldSet { member: false, children }
            }
            _ => FieldSet::leaf(),
        }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Reads `fieldsV1`; what makes no sense is left out.
    pub fn parse(fields: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (name, below) in fields.as_object().into_iter().flatten() {
            if name == "." {
                set.member = true;
                continue;
            }
            let mut child = FieldSet::parse(below);
            if child.is_empty() {
                child.member = true;
            }
            set.children.insert(name.clone(), child);
        }
        set
    }

    /// Becomes `fieldsV1`.
    pub fn into_value(self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        map.extend(self.children.into_iter().map(|(k, c)| (k, c.into_value())));
        Value::Object(map)
    }

    /// What is in either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut all = self.clone();
        all.add(other.clone());
        all
    }

    /// Adds what is there.
    pub fn add(&mut self, other: FieldSet) {
        self.member |= other.member;
        for (k, theirs) in other.children {
            match self.children.entry(k) {
                Entry::Vacant(e) => {
                    e.insert(theirs);
                }
                Entry::Occupied(mut e) => e.get_mut().add(theirs),
            }
        }
    }

    fn keep(member: bool, children: impl Iterator<Item = (String, FieldSet)>) -> FieldSet {
        FieldSet { member, children: children.filter(|(_, c)| !c.is_empty()).collect() }
    }

    /// What is here and not there.
    pub fn minus(&self, other: &FieldSet) -> FieldSet {
        let mut left = self.clone();
        left.subtract(other);
        left
    }

    /// Takes out what is there.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (k, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(k) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.children.remove(k);
                }
            }
        }
    }

    /// What is in both.
    pub fn both(&self, other: &FieldSet) -> FieldSet {
        let shared = self.children.iter().filter_map(|(k, c)| Some((k.clone(), c.both(other.children.get(k)?))));
        FieldSet::keep(self.member && other.member, shared)
    }

    /// Only what is below a field of the root.
    pub fn only(&self, name: &str) -> FieldSet {
        let child = self.children.get(&field(name)).cloned().map(|c| (field(name), c));
        FieldSet { member: false, children: child.into_iter().collect() }
    }

    /// Without what is at and below a path of fields.
    pub fn without(mut self, path: &[&str]) -> FieldSet {
        fn cut(set: &mut FieldSet, path: &[&str]) {
            match path {
                [] => {}
                [last] => {
                    set.children.remove(&field(last));
                }
                [first, rest @ ..] => {
                    let name = field(first);
                    if let Some(child) = set.children.get_mut(&name) {
                        cut(child, rest);
                        if child.is_empty() {
                            set.children.remove(&name);
                        }
                    }
                }
            }
        }
        cut(&mut self, path);
        self
    }

    /// All paths, as messages show them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect(String::new(), &mut all);
        all
    }

    /// As upstream: what is in the set at a place comes before what is below it.
    fn collect(&self, at: String, into: &mut Vec<String>) {
        let spelled = |element: &str| format!("{at}{}", spelled(element));
        into.extend(self.children.iter().filter(|(_, c)| c.member).map(|(element, _)| spelled(element)));
        for (element, child) in self.children.iter().filter(|(_, c)| !c.children.is_empty()) {
            child.collect(spelled(element), into);
        }
    }
}

/// An element as messages show it: `.name`, `[name="a"]`, `[="a"]`.
pub(super) fn spelled(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some((_, index)) => format!("[{index}]"),
        None => format!(".{element}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::Schemas;

    #[test]
    fn sets_of_values_follow_the_schema() {
        let t = Schemas::builtin().type_of("", "v1", "Pod").unwrap();
        let pod = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "args": ["x"], "ports": [{"containerPort": 80}]}]}});
        let set = FieldSet::of(&pod, &t);
        let wanted = json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}},
        });
        assert_eq!(set.clone().into_value(), wanted);
        assert_eq!(FieldSet::parse(&wanted), set);
        assert!(set.paths().contains(&".spec.containers[name=\"c\"].image".to_owned()));
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let leaf = any::<bool>().prop_map(|member| FieldSet { member, children: BTreeMap::new() });
        leaf.prop_recursive(3, 24, 3, |inner| {
            (any::<bool>(), proptest::collection::btree_map("f:[abc]", inner, 0..3))
                .prop_map(|(member, children)| FieldSet::keep(member, children.into_iter()))
        })
    }

    proptest! {
        #[test]
        fn the_algebra_of_sets_holds(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.both(&b), b.both(&a));
            prop_assert_eq!(a.minus(&b).union(&a.both(&b)), a.clone());
            prop_assert!(a.minus(&b).both(&b).is_empty());
            prop_assert_eq!(a.minus(&a), FieldSet::default());
            let root = FieldSet { member: false, ..a };
            prop_assert_eq!(FieldSet::parse(&root.clone().into_value()), root);
        }
    }
}
