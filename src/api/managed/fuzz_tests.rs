//! Managed fields and configurations that nobody should send.

use fuzzing::decoder::{check, scales};
use fuzzing::inputs::{altered, tree};
use proptest::prelude::*;

use super::*;
use crate::schema::Schemas;
use crate::testing::golden_of_resources;

fn manager(name: &str) -> Manager<'_> {
    Manager {
        name,
        api_version: "v1",
        subresource: "",
        has_status: true,
        status_keeps: &[],
        keeps_spec: false,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn type_of(kind: &str) -> TypeRef {
    Schemas::builtin().type_of("", "v1", kind).unwrap()
}

#[test]
fn sets_of_fields_are_read_whatever_they_are() {
    let example = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}},
        "f:finalizers": {"v:\"x\"": {}, "i:0": {}}}});
    check(256, prop_oneof![altered(vec![example]), tree()], |v| {
        let set = FieldSet::parse(&v);
        assert_eq!(FieldSet::parse(&set.clone().into_value()), set);
        set.paths();
    });
}

#[test]
fn every_kind_is_applied_and_updated_whatever_it_says() {
    for (resource, object) in golden_of_resources() {
        let (t, m) = (&resource.schema, manager("a"));
        let checked = |v: Value| crate::codec::check(v, t).map(|d| d.value).ok().filter(|v| v["metadata"].is_object());
        let strategy = || altered(vec![object.clone()]);
        check(6, (strategy(), strategy(), tree()), |(live, config, fields)| {
            let (Some(mut live), Some(config)) = (checked(live), checked(config)) else { return };
            update(&m, t, None, &mut live);
            if let Ok(applied) = apply(&manager("kubectl"), t, Some(&live), &config, &config, true) {
                apply(&manager("b"), t, Some(&applied), &config, &config, true).unwrap();
            }
            live["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Apply", "fieldsV1": fields}]);
            let _ = apply(&m, t, Some(&live), &config, &config, false);
            let mut new = config.clone();
            update(&m, t, Some(&live), &mut new);
        });
    }
}

#[test]
fn the_time_goes_with_the_size() {
    let pod = |n: usize| {
        let env: Value = (0..n).map(|i| json!({"name": format!("e{i}"), "value": i.to_string()})).collect();
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "env": env}]}})
    };
    let t = type_of("Pod");
    let applied = |(live, config): (Value, Value)| drop(apply(&manager("a"), &t, Some(&live), &config, &config, true));
    scales("an applied list with keys", 100, |n| (pod(n), pod(n)), applied);
    let updated = |(old, mut new): (Value, Value)| update(&manager("a"), &t, Some(&old), &mut new);
    let changed = |n: usize| {
        let mut new = pod(n);
        new["spec"]["containers"][0]["image"] = "x".into();
        new["spec"]["containers"][0]["env"][0]["value"] = "x".into();
        (pod(n), new)
    };
    scales("an updated list with keys", 100, changed, updated);
    let finalizers = |n: usize| json!({"metadata": {"name": "a", "finalizers": (0..n).map(|i| format!("f/{i}")).collect::<Vec<_>>()}});
    scales("an applied set", 300, |n| (finalizers(n), finalizers(n + 1)), applied);
    let data = |n: usize| json!({"metadata": {"name": "a"}, "data": (0..n).map(|i| (format!("k{i}"), json!("v"))).collect::<serde_json::Map<_, _>>()});
    let t = type_of("ConfigMap");
    let conflicts = |(live, config): (Value, Value)| {
        let mine = apply(&manager("a"), &t, None, &live, &live, false).unwrap();
        let mut config = config;
        config["data"].as_object_mut().unwrap().values_mut().for_each(|v| *v = "w".into());
        assert_eq!(apply(&manager("b"), &t, Some(&mine), &config, &config, false).unwrap_err().code, 409);
    };
    scales("conflicts", 300, |n| (data(n), data(n)), conflicts);
}
