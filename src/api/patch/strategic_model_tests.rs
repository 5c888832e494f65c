//! Strategic merges against a model that knows the objects by name and says of orders only what the
//! documentation does
//! (<https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>).

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::option;
use proptest::sample::subsequence;

use super::*;

/// Fields of an item.
type Item = BTreeMap<String, String>;

/// What a patch says of an item: fields, of which none removes; or that it goes.
#[derive(Clone, Debug)]
enum Change {
    Merge(BTreeMap<String, Option<String>>),
    Delete,
}

/// What a patch says of a map.
#[derive(Clone, Debug)]
enum MapChange {
    Merge(BTreeMap<String, Option<String>>),
    Replace(Item),
    Delete,
}

#[derive(Clone, Debug)]
struct Patch {
    containers: Vec<(String, Change)>,
    replaces_containers: bool,
    order: Option<Vec<String>>,
    selector: Option<MapChange>,
    /// Texts that are added, and removed.
    finalizers: (Vec<String>, Vec<String>),
}

fn shuffled(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    subsequence(all, 0..=all.len()).prop_shuffle().prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

const NAMES: &[&str] = &["a", "b", "c", "d", "e"];

fn fields() -> impl Strategy<Value = Item> {
    btree_map("(image|workingDir)", "[12]", 0..3)
}

fn changes() -> impl Strategy<Value = BTreeMap<String, Option<String>>> {
    btree_map("(image|workingDir)", option::of("[34]"), 0..3)
}

fn patches() -> impl Strategy<Value = Patch> {
    let change = prop_oneof![3 => changes().prop_map(Change::Merge), 1 => Just(Change::Delete)];
    let keyed = || btree_map("[xyz]", option::of("[34]"), 0..3);
    let selector = prop_oneof![
        3 => keyed().prop_map(MapChange::Merge),
        1 => btree_map("[xyz]", "[34]", 0..3).prop_map(MapChange::Replace),
        1 => Just(MapChange::Delete),
    ];
    let containers = (shuffled(NAMES), proptest::collection::vec(change, 5));
    let containers = containers.prop_map(|(names, changes)| names.into_iter().zip(changes).collect::<Vec<_>>());
    let texts = (shuffled(&["f/a", "f/b"]), shuffled(&["f/c", "f/d"]));
    (containers, prop::bool::weighted(0.15), any::<bool>(), shuffled(NAMES), option::of(selector), texts).prop_map(
        |(containers, replaces_containers, ordered, more, selector, finalizers)| {
            // Clients name everything that they patch, in the order that they patch it in.
            let merged = containers.iter().filter(|(_, c)| matches!(c, Change::Merge(_))).map(|(n, _)| n.clone());
            let mut order: Vec<String> = merged.collect();
            let deleted = |n: &String| containers.iter().any(|(m, c)| m == n && matches!(c, Change::Delete));
            let more: Vec<String> = more.into_iter().filter(|n| !order.contains(n) && !deleted(n)).collect();
            for (i, name) in more.into_iter().enumerate() {
                order.insert((i * 2).min(order.len()), name);
            }
            let order = (ordered && !replaces_containers).then_some(order);
            Patch { containers, replaces_containers, order, selector, finalizers }
        },
    )
}

fn item(name: &str, fields: &BTreeMap<String, Option<String>>) -> Value {
    let mut v = json!(fields);
    v["name"] = name.into();
    v
}

impl Patch {
    fn as_json(&self) -> Value {
        let mut spec = json!({});
        let mut list: Vec<Value> = self
            .containers
            .iter()
            .map(|(name, change)| match change {
                Change::Merge(fields) => item(name, fields),
                Change::Delete => json!({"name": name, "$patch": "delete"}),
            })
            .collect();
        if self.replaces_containers {
            list.push(json!({"$patch": "replace"}));
        }
        if !list.is_empty() {
            spec["containers"] = list.into();
        }
        if let Some(order) = &self.order {
            spec["$setElementOrder/containers"] = order.iter().map(|n| json!({"name": n})).collect();
        }
        match &self.selector {
            Some(MapChange::Merge(m)) => spec["nodeSelector"] = json!(m),
            Some(MapChange::Replace(m)) => {
                spec["nodeSelector"] = json!(m);
                spec["nodeSelector"]["$patch"] = "replace".into();
            }
            Some(MapChange::Delete) => spec["nodeSelector"] = json!({"$patch": "delete"}),
            None => {}
        }
        let mut metadata = json!({});
        if !self.finalizers.0.is_empty() {
            metadata["finalizers"] = json!(self.finalizers.0);
        }
        if !self.finalizers.1.is_empty() {
            metadata["$deleteFromPrimitiveList/finalizers"] = json!(self.finalizers.1);
        }
        json!({"spec": spec, "metadata": metadata})
    }

    fn containers_of(&self, before: &BTreeMap<String, Item>) -> BTreeMap<String, Item> {
        let mut all = if self.replaces_containers { BTreeMap::new() } else { before.clone() };
        for (name, change) in &self.containers {
            match change {
                Change::Delete => drop(all.remove(name)),
                Change::Merge(fields) => {
                    let item = all.entry(name.clone()).or_default();
                    for (k, v) in fields {
                        match v {
                            Some(v) => drop(item.insert(k.clone(), v.clone())),
                            None => drop(item.remove(k)),
                        }
                    }
                }
            }
        }
        all
    }

    fn selector_of(&self, before: &Item) -> Item {
        let mut all = before.clone();
        match &self.selector {
            None => {}
            Some(MapChange::Delete) => all.clear(),
            Some(MapChange::Replace(m)) => all = m.clone(),
            Some(MapChange::Merge(m)) => {
                for (k, v) in m {
                    match v {
                        Some(v) => drop(all.insert(k.clone(), v.clone())),
                        None => drop(all.remove(k)),
                    }
                }
            }
        }
        all
    }
}

/// The names of `of` in the order of `all`.
fn in_order<'a>(all: &'a [String], of: &[String]) -> Vec<&'a String> {
    all.iter().filter(|n| of.contains(n)).collect()
}

fn item_of(v: &Value) -> Item {
    // Whoever reads the object takes null for absent.
    let fields = v.as_object().unwrap().iter().filter(|(k, v)| *k != "name" && !v.is_null());
    fields.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect()
}

#[test]
fn merges_do_what_the_model_does() {
    let server = (shuffled(NAMES), proptest::collection::vec(fields(), 5), btree_map("[xyz]", "[12]", 0..3));
    let strategy = (server, shuffled(&["f/a", "f/c", "f/e"]), patches());
    fuzzing::decoder::check(512, strategy, |((names, items, selector), finalizers, patch)| {
        let before: BTreeMap<String, Item> = names.iter().cloned().zip(items).collect();
        let list: Vec<Value> = names
            .iter()
            .map(|n| item(n, &before[n].iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect()))
            .collect();
        let current =
            json!({"metadata": {"finalizers": finalizers}, "spec": {"containers": list, "nodeSelector": selector}});
        // As upstream: an order of nothing at all is an error.
        let orders_nothing = patch.order.is_some() && names.is_empty() && patch.containers.is_empty();
        let new = match strategic(&pod(), &current, &patch.as_json()) {
            Ok(new) => new,
            Err(s) => return assert!(orders_nothing, "{}", s.message),
        };
        assert!(!orders_nothing);
        let empty = Vec::new();
        let list = new["spec"]["containers"].as_array().unwrap_or(&empty);
        let order: Vec<String> = list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
        let after: BTreeMap<String, Item> = order.iter().cloned().zip(list.iter().map(item_of)).collect();
        assert_eq!(after.len(), list.len(), "nothing is there twice");
        assert_eq!(after, patch.containers_of(&before));
        let selected = new["spec"]["nodeSelector"].as_object().cloned().unwrap_or_default();
        assert_eq!(item_of(&selected.into()), patch.selector_of(&selector));
        // The order that the patch asks for; those that it does not name stand as they did.
        let merged = patch.containers.iter().filter(|(_, c)| matches!(c, Change::Merge(_))).map(|(n, _)| n.clone());
        let asked = patch.order.clone().unwrap_or_else(|| merged.collect());
        assert_eq!(in_order(&order, &asked), in_order(&asked, &order));
        let others: Vec<String> = order.iter().filter(|n| !asked.contains(n)).cloned().collect();
        assert_eq!(in_order(&order, &others), in_order(&names, &others));
        let mut left: Vec<&str> =
            new["metadata"]["finalizers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        left.sort_unstable();
        let (added, removed) = &patch.finalizers;
        let mut expected: Vec<&str> =
            finalizers.iter().filter(|f| !removed.contains(f)).chain(added).map(String::as_str).collect();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(left, expected);
    });
}
