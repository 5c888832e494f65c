//! Managed fields: who owns what, as examples and as properties.

mod model;

use proptest::prelude::*;

use super::*;
use crate::schema::Schemas;

fn map_type() -> TypeRef {
    Schemas::builtin().type_of("", "v1", "ConfigMap").unwrap()
}

fn manager(name: &str) -> Manager<'_> {
    Manager {
        name,
        api_version: "v1",
        subresource: "",
        has_status: false,
        keeps_spec: false,
        status_keeps: &[],
        now: Timestamp::UNIX_EPOCH,
    }
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "data": data})
}

fn applied(m: &Manager<'_>, t: &TypeRef, live: Option<&Value>, wanted: &Value, force: bool) -> Result<Value, Status> {
    apply(m, t, live, wanted, wanted, force)
}

fn owners(object: &Value, key: &str) -> Vec<String> {
    let all = entries(object);
    let has = |e: &&Entry| e.fields.paths().contains(&format!(".data.{key}"));
    let mut names: Vec<String> = all.iter().filter(has).map(|e| e.manager.clone()).collect();
    names.sort();
    names
}

#[test]
fn appliers_share_own_and_give_up_fields() {
    let t = map_type();
    let apply = |who: &str, live: Option<&Value>, data: Value, force: bool| {
        applied(&manager(who), &t, live, &config(data), force)
    };
    let one = apply("a", None, json!({"x": "1", "y": "1"}), false).unwrap();
    assert_eq!(owners(&one, "x"), ["a"]);
    // The same value is shared without a conflict, another one is refused.
    let two = apply("b", Some(&one), json!({"x": "1", "z": "2"}), false).unwrap();
    assert_eq!(owners(&two, "x"), ["a", "b"]);
    let refused = apply("b", Some(&two), json!({"x": "2"}), false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"a\": .data.x");
    assert_eq!(refused.details.unwrap().causes[0].reason, "FieldManagerConflict");
    let forced = apply("b", Some(&two), json!({"x": "2"}), true).unwrap();
    assert_eq!(owners(&forced, "x"), ["b"]);
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}), "z was b's alone and is gone");
    // What two have applied stays until both have given it up.
    let less = apply("a", Some(&two), json!({"y": "1"}), false).unwrap();
    assert_eq!(less["data"], json!({"x": "1", "y": "1", "z": "2"}));
    assert_eq!(owners(&less, "x"), ["b"]);
}

#[test]
fn an_update_takes_what_it_changes() {
    let t = map_type();
    let one = applied(&manager("a"), &t, None, &config(json!({"x": "1", "y": "1"})), false).unwrap();
    let mut changed = one.clone();
    changed["data"]["x"] = json!("2");
    update(&manager("kubectl-edit"), &t, Some(&one), &mut changed);
    assert_eq!((owners(&changed, "x"), owners(&changed, "y")), (vec!["kubectl-edit".to_owned()], vec!["a".to_owned()]));
    let refused = applied(&manager("a"), &t, Some(&changed), &config(json!({"x": "1", "y": "1"})), false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.x");
    let mut forgotten = changed.clone();
    forgotten["metadata"]["managedFields"] = json!([{}]);
    update(&manager("x"), &t, Some(&changed), &mut forgotten);
    assert!(forgotten["metadata"].get("managedFields").is_none());
}

#[test]
fn kubectl_moves_from_client_side_to_server_side_apply() {
    let t = map_type();
    let mut live = config(json!({"x": "1"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config(json!({"x": "1"})).to_string()});
    update(&manager("kubectl-client-side-apply"), &t, None, &mut live);
    let moved = applied(&manager("kubectl"), &t, Some(&live), &config(json!({"x": "2"})), false).unwrap();
    assert_eq!(moved["data"]["x"], "2");
    assert!(moved["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap().contains(r#"{"x":"2"}"#));
    assert!(applied(&manager("other"), &t, Some(&live), &config(json!({"x": "2"})), false).is_err());
}

#[test]
fn kubectl_moves_only_what_is_as_it_was_applied() {
    let t = map_type();
    let mut live = config(json!({"x": "defaulted"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config(json!({"x": "1"})).to_string()});
    update(&manager("kubectl-create"), &t, None, &mut live);
    let refused = applied(&manager("kubectl"), &t, Some(&live), &config(json!({"x": "1"})), false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"kubectl-create\" using v1: .data.x");
}

#[test]
fn an_apply_that_changes_no_value_has_no_time_of_its_own() {
    let t = map_type();
    let first = applied(&manager("a"), &t, None, &config(json!({"x": "1"})), false).unwrap();
    let later = Manager { now: Timestamp::from_second(9).unwrap(), ..manager("b") };
    let both = applied(&later, &t, Some(&first), &config(json!({"x": "1"})), false).unwrap();
    let times: Vec<(&str, bool)> = both["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["manager"].as_str().unwrap(), e.get("time").is_some()))
        .collect();
    assert_eq!(times, [("b", false), ("a", true)]);
}

#[test]
fn nobody_manages_a_spec_that_stays() {
    let t = Schemas::builtin().type_of("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
    let m = Manager { has_status: true, keeps_spec: true, ..manager("a") };
    let mut made = json!({"metadata": {"name": "c"}, "spec": {"signerName": "x.y/z"}});
    update(&m, &t, None, &mut made);
    assert!(made["metadata"].get("managedFields").is_none());
}

#[test]
fn what_was_there_before_is_the_pasts() {
    let t = map_type();
    let live = config(json!({"x": "1", "y": "1"}));
    let refused = applied(&manager("a"), &t, Some(&live), &config(json!({"x": "2"})), false).unwrap_err();
    assert!(refused.message.contains("\"before-first-apply\" using v1: .data.x"), "{}", refused.message);
}

#[test]
fn status_is_managed_through_its_subresource_alone() {
    let t = Schemas::builtin().type_of("apps", "v1", "Deployment").unwrap();
    let m = Manager { has_status: true, api_version: "apps/v1", ..manager("a") };
    let given = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let made = applied(&m, &t, None, &given, false).unwrap();
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let status = Manager { subresource: "status", ..m };
    let both =
        applied(&status, &t, Some(&made), &json!({"spec": {"replicas": 5}, "status": {"replicas": 1}}), false).unwrap();
    assert_eq!(both["spec"]["replicas"], 1);
    assert_eq!(both["metadata"]["managedFields"].as_array().unwrap().len(), 2);
}

#[test]
fn many_updaters_become_one_past() {
    let t = map_type();
    let mut object = config(json!({"k0": "v"}));
    update(&manager("m0"), &t, None, &mut object);
    for i in 1..20 {
        let old = object.clone();
        object["data"][format!("k{i}")] = json!("v");
        let name = format!("m{i}");
        let m = Manager { now: Timestamp::from_second(i).unwrap(), ..manager(&name) };
        update(&m, &t, Some(&old), &mut object);
    }
    let all = entries(&object);
    assert_eq!(all.len(), UPDATES);
    assert_eq!(owners(&object, "k0"), [ANCIENT]);
    assert_eq!(owners(&object, "k19"), ["m19"]);
}

/// As upstream: what has no manager gets none by an update.
#[test]
fn what_nobody_manages_is_not_managed_by_an_update() {
    let t = map_type();
    let mut made = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}});
    update(&manager("a"), &t, None, &mut made);
    assert!(entries(&made).is_empty(), "nothing is said in it");
    let mut changed = config(json!({"x": "1"}));
    update(&manager("b"), &t, Some(&made), &mut changed);
    assert!(entries(&changed).is_empty());
    let refused = applied(&manager("c"), &t, Some(&changed), &config(json!({"x": "2"})), false).unwrap_err();
    assert!(refused.message.contains("\"before-first-apply\" using v1: .data.x"), "{}", refused.message);
}

#[test]
fn conflicts_are_told_by_manager() {
    let t = map_type();
    let live = applied(&manager("a"), &t, None, &config(json!({"x": "1", "y": "1"})), false).unwrap();
    let mut live_and_labelled = live.clone();
    live_and_labelled["metadata"]["labels"] = json!({"l": "1"});
    update(&manager("b"), &t, Some(&live), &mut live_and_labelled);
    let mut wanted = config(json!({"x": "2", "y": "2"}));
    wanted["metadata"]["labels"] = json!({"l": "2"});
    let refused = applied(&manager("c"), &t, Some(&live_and_labelled), &wanted, false).unwrap_err();
    let told = "Apply failed with 3 conflicts: conflicts with \"a\":\n- .data.x\n- .data.y\n\
        conflicts with \"b\" using v1:\n- .metadata.labels.l";
    assert_eq!(refused.message, told);
}

proptest! {
    /// Applying again changes nothing, and an applied value is always there.
    #[test]
    fn apply_is_idempotent(steps in proptest::collection::vec((0..3usize, proptest::collection::btree_map("[abc]", "[12]", 0..3)), 1..6)) {
        let t = map_type();
        let names = ["a", "b", "c"];
        let mut live: Option<Value> = None;
        for (who, data) in steps {
            let wanted = config(json!(data));
            let once = applied(&manager(names[who]), &t, live.as_ref(), &wanted, true).unwrap();
            for (k, v) in &data {
                prop_assert_eq!(&once["data"][k], v);
                prop_assert!(owners(&once, k).contains(&names[who].to_owned()));
            }
            let twice = applied(&manager(names[who]), &t, Some(&once), &wanted, false).unwrap();
            prop_assert_eq!(&twice, &once);
            live = Some(once);
        }
    }
}

#[test]
fn what_is_no_longer_applied_goes_from_items_that_stay() {
    let t = Schemas::builtin().type_of("", "v1", "Pod").unwrap();
    let pod = |container: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [container]}})
    };
    let all = json!({"name": "c", "image": "i", "imagePullPolicy": "Always",
        "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "1"}}});
    let mut one = applied(&manager("a"), &t, None, &pod(all), false).unwrap();
    one["spec"]["containers"][0]["stdin"] = json!(true); // as if by default: nobody's
    let less = json!({"name": "c", "image": "i", "ports": [{"containerPort": 81, "protocol": "TCP"}]});
    let two = applied(&manager("a"), &t, Some(&one), &pod(less), false).unwrap();
    let expected =
        json!({"name": "c", "image": "i", "stdin": true, "ports": [{"containerPort": 81, "protocol": "TCP"}]});
    assert_eq!(two["spec"]["containers"][0], expected);
    let three = applied(&manager("a"), &t, Some(&two), &pod(json!({"name": "c", "image": "i"})), false).unwrap();
    assert_eq!(three["spec"]["containers"][0], json!({"name": "c", "image": "i", "stdin": true}));
}
