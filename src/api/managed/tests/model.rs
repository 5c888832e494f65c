//! Server-side apply against a model that is written from its definition alone: an object is a flat
//! map of paths to values, an owner a set of paths. Nothing of the trees and merges is used.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// `labels/a`, `annotations/a`, `containers/x` for an item and `containers/x/image` for a field of it.
type Values = BTreeMap<String, String>;
/// Manager and operation.
type Owner = (String, &'static str);
type Owners = BTreeMap<Owner, BTreeSet<String>>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    values: Values,
    owners: Owners,
}

#[derive(Clone, Debug)]
enum Step {
    Apply {
        who: usize,
        config: Values,
        force: bool,
    },
    /// New values of labels and annotations; absent ones are removed.
    Update {
        who: usize,
        plain: Values,
    },
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Model {
    /// Who stands against an apply, and for what.
    fn conflicts(&self, who: &str, config: &Values) -> BTreeSet<(Owner, String)> {
        let others = self.owners.iter().filter(|(o, _)| **o != (who.to_owned(), "Apply"));
        let differs = |p: &&String| config.get(*p).is_some_and(|v| self.values.get(*p) != Some(v));
        others.flat_map(|(o, paths)| paths.iter().filter(differs).map(|p| (o.clone(), p.clone()))).collect()
    }

    fn apply(&mut self, who: &str, config: &Values, force: bool) -> Result<(), BTreeSet<(Owner, String)>> {
        let conflicts = self.conflicts(who, config);
        if !conflicts.is_empty() && !force {
            return Err(conflicts);
        }
        for (owner, path) in conflicts {
            self.owners.entry(owner).or_default().remove(&path);
        }
        let mine = self.owners.insert((who.to_owned(), "Apply"), config.keys().cloned().collect()).unwrap_or_default();
        for path in mine {
            if !self.owners.values().any(|paths| paths.contains(&path)) {
                self.values.remove(&path);
            }
        }
        self.values.extend(config.clone());
        Ok(())
    }

    fn update(&mut self, who: &str, plain: &Values) {
        let is_plain = |path: &str| !path.starts_with("containers/");
        let old: Values =
            self.values.iter().filter(|(p, _)| is_plain(p)).map(|(p, v)| (p.clone(), v.clone())).collect();
        let set: BTreeSet<String> =
            plain.iter().filter(|(p, v)| old.get(*p) != Some(v)).map(|(p, _)| p.clone()).collect();
        let gone: BTreeSet<String> = old.keys().filter(|p| !plain.contains_key(*p)).cloned().collect();
        for (owner, paths) in &mut self.owners {
            let own = *owner == (who.to_owned(), "Update");
            paths.retain(|p| !gone.contains(p) && (own || !set.contains(p)));
        }
        self.values.retain(|p, _| !gone.contains(p));
        self.values.extend(plain.clone());
        self.owners.entry((who.to_owned(), "Update")).or_default().extend(set);
    }
}

/// The object that a configuration is.
fn object(values: &Values) -> Value {
    let mut o = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": {}});
    for (path, value) in values {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["labels", key] => o["metadata"]["labels"][key] = value.as_str().into(),
            ["annotations", key] => o["metadata"]["annotations"][key] = value.as_str().into(),
            ["containers", name] => {
                let field = |f: &str| values.get(&format!("{path}/{f}"));
                let mut item = json!({"name": name});
                for (f, v) in ["image", "workingDir"].into_iter().filter_map(|f| Some((f, field(f)?))) {
                    item[f] = v.as_str().into();
                }
                if !o["spec"]["containers"].is_array() {
                    o["spec"]["containers"] = json!([]);
                }
                o["spec"]["containers"].as_array_mut().unwrap().push(item);
            }
            _ => {}
        }
    }
    o
}

/// What an object says, as the model has it.
fn values_of(object: &Value) -> Values {
    let mut all = Values::new();
    for (prefix, map) in
        [("labels", &object["metadata"]["labels"]), ("annotations", &object["metadata"]["annotations"])]
    {
        for (k, v) in map.as_object().into_iter().flatten() {
            all.insert(format!("{prefix}/{k}"), v.as_str().unwrap().into());
        }
    }
    for item in object["spec"]["containers"].as_array().into_iter().flatten() {
        let name = item["name"].as_str().unwrap();
        all.insert(format!("containers/{name}"), String::new());
        for (f, v) in item.as_object().unwrap() {
            all.insert(format!("containers/{name}/{f}"), v.as_str().unwrap().into());
        }
    }
    all
}

fn owners_of(object: &Value) -> Owners {
    let mut all = Owners::new();
    for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let operation = if entry["operation"] == "Apply" { "Apply" } else { "Update" };
        let paths = all.entry((entry["manager"].as_str().unwrap().to_owned(), operation)).or_default();
        let fields = &entry["fieldsV1"];
        for (prefix, map) in
            [("labels", &fields["f:metadata"]["f:labels"]), ("annotations", &fields["f:metadata"]["f:annotations"])]
        {
            let keys = map.as_object().into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("f:"));
            paths.extend(keys.map(|k| format!("{prefix}/{k}")));
        }
        for (item, below) in fields["f:spec"]["f:containers"].as_object().into_iter().flatten() {
            let Some(keys) = item.strip_prefix("k:") else { continue };
            let keys: Value = serde_json::from_str(keys).unwrap();
            let name = keys["name"].as_str().unwrap();
            for field in below.as_object().unwrap().keys() {
                paths.insert(match field.strip_prefix("f:") {
                    Some(f) => format!("containers/{name}/{f}"),
                    None => format!("containers/{name}"),
                });
            }
        }
    }
    all.retain(|_, paths| !paths.is_empty());
    all
}

fn plain() -> impl Strategy<Value = Values> {
    btree_map("(labels|annotations)/[abc]", "[12]", 0..5)
}

fn config() -> impl Strategy<Value = Values> {
    let item = (proptest::option::of("[12]"), proptest::option::of("/[12]"));
    (plain(), btree_map("[xyz]", item, 0..3)).prop_map(|(mut values, items)| {
        for (name, (image, directory)) in items {
            values.insert(format!("containers/{name}"), String::new());
            values.insert(format!("containers/{name}/name"), name.clone());
            image.map(|v| values.insert(format!("containers/{name}/image"), v));
            directory.map(|v| values.insert(format!("containers/{name}/workingDir"), v));
        }
        values
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3usize, config(), any::<bool>()).prop_map(|(who, config, force)| Step::Apply { who, config, force }),
        1 => (0..3usize, plain()).prop_map(|(who, plain)| Step::Update { who, plain }),
    ]
}

fn conflicts_of(s: &Status) -> usize {
    s.details.as_ref().map_or(0, |d| d.causes.len())
}

#[test]
fn applies_and_updates_do_what_the_model_does() {
    let t = Schemas::builtin().type_of("", "v1", "Pod").unwrap();
    fuzzing::decoder::check(256, (config(), vec(step(), 1..8)), |(first, steps)| {
        let mut model = Model::default();
        model.apply("a", &first, false).unwrap();
        let mut live = applied(&manager("a"), &t, None, &object(&first), false).unwrap();
        for step in steps {
            match step {
                Step::Apply { who, config, force } => {
                    let result = applied(&manager(NAMES[who]), &t, Some(&live), &object(&config), force);
                    match (model.apply(NAMES[who], &config, force), result) {
                        (Ok(()), Ok(new)) => live = new,
                        (Err(expected), Err(s)) => {
                            assert_eq!(conflicts_of(&s), expected.len(), "{expected:?}: {}", s.message)
                        }
                        (expected, got) => panic!("the model says {expected:?}, not {got:?}"),
                    }
                }
                Step::Update { who, plain } => {
                    let mut values = plain.clone();
                    values.extend(
                        model
                            .values
                            .iter()
                            .filter(|(p, _)| p.starts_with("containers/"))
                            .map(|(p, v)| (p.clone(), v.clone())),
                    );
                    let mut new = object(&values);
                    // The order of items is the server's.
                    if let Some(items) = live["spec"].get("containers") {
                        new["spec"]["containers"] = items.clone();
                    }
                    update(&manager(NAMES[who]), &t, Some(&live), &mut new);
                    model.update(NAMES[who], &plain);
                    live = new;
                }
            }
            model.owners.retain(|_, paths| !paths.is_empty());
            assert_eq!(values_of(&live), model.values);
            assert_eq!(owners_of(&live), model.owners);
        }
    });
}
