//! Tests of the module above.

#[path = "strategic_model_tests.rs"]
mod model;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::Schemas;

fn pod() -> TypeRef {
    Schemas::builtin().type_of("", "v1", "Pod").unwrap()
}

/// Each case patches a pod spec.
fn patched(current: Value, patch: Value) -> Result<Value, Status> {
    strategic(&pod(), &json!({"spec": current}), &json!({"spec": patch})).map(|v| v["spec"].clone())
}

#[test]
fn known_cases() {
    let two = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    for (what, current, patch, expected) in [
        (
            "merge by name",
            two.clone(),
            json!({"containers": [{"name": "b", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
        ),
        (
            "new items come first, as they are",
            two.clone(),
            json!({"containers": [{"name": "c", "image": null, "env": [{"name": "E", "$patch": "delete"}]}]}),
            json!({"containers": [{"name": "c", "image": null, "env": [{"name": "E", "$patch": "delete"}]},
                {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
        ),
        (
            "new fields come without nulls and directives",
            json!({}),
            json!({"containers": [{"name": "c", "image": null}, {"name": "d", "$patch": "delete"}],
                "nodeSelector": {"$patch": "replace", "a": "1"}, "securityContext": {"runAsUser": null}}),
            json!({"containers": [{"name": "c"}], "securityContext": {}}),
        ),
        (
            "delete an item",
            two.clone(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "2"}]}),
        ),
        (
            "replace a list",
            two.clone(),
            json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
            json!({"containers": [{"name": "z"}]}),
        ),
        (
            "replace an item",
            two.clone(),
            json!({"containers": [{"name": "a", "tty": true}, {"name": "b", "image": "9"}]}),
            json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "9"}]}),
        ),
        (
            "order",
            two.clone(),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]}),
        ),
        (
            "order with a new item",
            two.clone(),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
        ),
        (
            "order with a deletion",
            two.clone(),
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "2"}]}),
        ),
        (
            "null removes",
            json!({"nodeName": "a", "hostPID": true}),
            json!({"nodeName": null, "subdomain": null}),
            json!({"hostPID": true}),
        ),
        (
            "atomic lists are replaced",
            json!({"containers": [{"name": "a", "command": ["x", "y"]}]}),
            json!({"containers": [{"name": "a", "command": ["z"]}]}),
            json!({"containers": [{"name": "a", "command": ["z"]}]}),
        ),
        (
            "retain keys",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
        ),
        (
            "replace a map",
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "fsGroup": 3}}),
            json!({"securityContext": {"fsGroup": 3}}),
        ),
        (
            "delete a map",
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "delete"}}),
            json!({"securityContext": {}}),
        ),
        (
            "what is a directive vanishes from what is new",
            json!({}),
            json!({"securityContext": {"$patch": "replace", "fsGroup": 3}, "containers": [{"name": "a", "$patch": "delete"}, {"name": "b",
                "$setElementOrder/ports": [{"containerPort": 1}], "ports": [{"containerPort": 1}]}]}),
            json!({"containers": [{"name": "b", "$setElementOrder/ports": [{"containerPort": 1}],
                "ports": [{"containerPort": 1}]}]}),
        ),
        (
            "ports merge by number",
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "name": "x"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP", "name": "x"}]}]}),
        ),
        (
            "maps with free keys merge",
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"a": null, "c": "3"}}),
            json!({"nodeSelector": {"b": "2", "c": "3"}}),
        ),
    ] {
        assert_eq!(patched(current, patch).unwrap(), expected, "{what}");
    }
}

#[test]
fn primitive_lists() {
    let current = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    for (patch, expected) in [
        (json!({"finalizers": ["d"]}), json!(["d", "a", "b", "c"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["b"]}), json!(["a", "c"])),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["x"], "$setElementOrder/finalizers": ["x", "c", "b"]}),
            json!(["x", "c", "b"]),
        ),
        (json!({"$setElementOrder/finalizers": ["c", "a"]}), json!(["b", "c", "a"])),
    ] {
        let result = strategic(&pod(), &current, &json!({"metadata": patch})).unwrap();
        assert_eq!(result["metadata"]["finalizers"], expected, "{patch}");
    }
}

#[test]
fn deployment_strategy_keeps_only_the_keys_named() {
    let deployment = Schemas::builtin().type_of("apps", "v1", "Deployment").unwrap();
    let current = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(strategic(&deployment, &current, &patch).unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn refusals() {
    let current = json!({"containers": [{"name": "a"}]});
    for (patch, code, start) in [
        (json!({"containers": [{"image": "x"}]}), 500, "map: map[image:x] does not contain declared merge key: name"),
        (json!({"containers": [{"name": "a", "$patch": "merge"}]}), 500, "merging lists cannot yet"),
        (json!({"containers": [{"name": "a", "$patch": "what"}]}), 500, "unknown patch type: what in map"),
        (json!({"$patch": "what"}), 500, "unknown patch type: what in map"),
        (json!({"$retainKeys": ["a"], "nodeName": "x"}), 400, "invalid patch format of retainKeys"),
        (json!({"$retainKeys": "a"}), 400, "invalid patch format of retainKeys"),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
            500,
            "The order in patch list:",
        ),
    ] {
        let e = patched(current.clone(), patch.clone()).unwrap_err();
        assert_eq!(e.code, code, "{patch}");
        assert!(e.message.starts_with(start), "{patch}: {}", e.message);
    }
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::subsequence((0u8..8).collect::<Vec<_>>(), 0..8).prop_shuffle()
}

fn containers(names: &[u8], image: &str) -> Value {
    names.iter().map(|n| json!({"name": n.to_string(), "image": image})).collect()
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(server in names()) {
        let current = json!({"containers": containers(&server, "old"), "nodeSelector": {"a": "b"}});
        prop_assert_eq!(patched(current.clone(), json!({})).unwrap(), current);
    }

    #[test]
    fn a_merged_list_has_each_item_once_and_applies_twice_alike(server in names(), patch in names()) {
        let current = json!({"containers": containers(&server, "old")});
        let change = json!({"containers": containers(&patch, "new")});
        let once = patched(current, change.clone()).unwrap();
        let list = once["containers"].as_array().unwrap();
        let mut seen: Vec<&str> = list.iter().map(|c| c["name"].as_str().unwrap()).collect();
        for c in list {
            let n: u8 = c["name"].as_str().unwrap().parse().unwrap();
            prop_assert_eq!(&c["image"], if patch.contains(&n) { "new" } else { "old" });
        }
        let order: Vec<&str> = seen.iter().copied().filter(|s| patch.contains(&s.parse().unwrap())).collect();
        prop_assert_eq!(order, patch.iter().map(u8::to_string).collect::<Vec<_>>());
        seen.sort_unstable();
        let mut expected: Vec<String> = server.iter().chain(&patch).map(u8::to_string).collect();
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(patched(once.clone(), change).unwrap(), once);
    }
}
