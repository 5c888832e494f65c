//! Tests of the module above.

use serde_json::{Value, json};

use super::*;
use crate::schema::Schemas;

fn pod() -> TypeRef {
    Schemas::builtin().type_of("", "v1", "Pod").unwrap()
}

fn decode_json(value: &Value, t: &TypeRef) -> Result<Decoded, Status> {
    decode(value.to_string().as_bytes(), false, t)
}

#[test]
fn unknown_fields_are_dropped_and_listed() {
    let d = decode_json(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null, "x": 1},
            "spec": {"containers": [{"name": "a", "foo": 1}], "bar": {}}}),
        &pod(),
    )
    .unwrap();
    assert_eq!(d.unknown, ["metadata.x", "spec.bar", "spec.containers[0].foo"]);
    assert_eq!(
        d.value,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}})
    );
}

#[test]
fn duplicate_fields_are_listed_and_the_last_is_kept() {
    let body = br#"{"metadata": {"name": "a", "name": "b"}, "spec": {"containers": [{"name": "x", "name": "y"}]}}"#;
    let d = decode(body, false, &pod()).unwrap();
    assert_eq!(d.duplicate, ["metadata.name", "spec.containers[0].name"]);
    assert_eq!(d.value["metadata"]["name"], "b");
    assert_eq!(d.strict_errors()[0], "duplicate field \"metadata.name\"");
    let d = decode(b"metadata:\n  name: a\n  name: b\n", true, &pod()).unwrap();
    assert_eq!(d.duplicate, ["metadata.name"]);
    assert_eq!(d.value["metadata"]["name"], "b");
}

#[test]
fn wrong_types_are_told_in_upstreams_words() {
    let head = "Pod in version \"v1\" cannot be handled as a Pod: ";
    for (object, message) in [
        (
            json!({"spec": {"containers": "x"}}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"spec": {"containers": [{"name": true}]}}),
            "json: cannot unmarshal bool into Go struct field Container.spec.containers.name of type string",
        ),
        (
            json!({"spec": {"priority": 5_000_000_000_i64}}),
            "json: cannot unmarshal number 5000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (json!("x"), "json: cannot unmarshal string into Go value of type v1.Pod"),
    ] {
        let e = decode_json(&object, &pod()).unwrap_err();
        assert_eq!((e.code, e.message), (400, format!("{head}{message}")), "{object}");
    }
}

#[test]
fn values_are_made_as_go_makes_them() {
    let d = decode_json(
        &json!({"metadata": {"labels": {}, "annotations": {"a": null}, "creationTimestamp": "2026-01-02T05:04:05.5+02:00"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}, "command": [],
                "livenessProbe": {"httpGet": {"port": "http"}}, "ports": null}],
                "volumes": [{"name": "v", "emptyDir": {}}]}}),
        &pod(),
    )
    .unwrap();
    assert_eq!(d.value["metadata"], json!({"annotations": {"a": ""}, "creationTimestamp": "2026-01-02T03:04:05Z"}));
    let c = &d.value["spec"]["containers"][0];
    assert_eq!(c["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
    assert!(c.get("command").is_none() && c.get("ports").is_none());
    assert_eq!(d.value["spec"]["volumes"][0]["emptyDir"], json!({}));
}

#[test]
fn secrets_need_base64() {
    let secret = Schemas::builtin().type_of("", "v1", "Secret").unwrap();
    let d = decode_json(&json!({"data": {"a": "aGVs\nbG8="}}), &secret).unwrap();
    assert_eq!(d.value["data"]["a"], "aGVsbG8=");
    let e = decode_json(&json!({"data": {"a": "?"}}), &secret).unwrap_err();
    assert!(e.message.ends_with("illegal base64 data at input byte 0"), "{}", e.message);
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let text = "spec:\n  volumes:\n  - name: v\n    configMap: {name: c, defaultMode: 0644}\n  hostNetwork: yes\n  nodeName: \"1\"\nmetadata:\n  labels: {on: 'yes', a: x}\n";
    let d = decode(text.as_bytes(), true, &pod()).unwrap();
    assert_eq!(d.value["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);
    assert_eq!(d.value["spec"]["hostNetwork"], true);
    assert_eq!(d.value["metadata"]["labels"]["true"], "yes");
    let all = parse_documents("a: 1\n---\n---\n# nothing\n---\nb: 2\n").unwrap();
    assert_eq!(all, [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn syntax_errors_show_the_body() {
    let e = decode(b"{\"a\":", false, &pod()).unwrap_err();
    assert!(e.message.starts_with(
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: "
    ));
    assert!(e.message.ends_with(" ({\"a\":)"), "{}", e.message);
}

#[test]
fn custom_resources_keep_null_and_wrong_types() {
    let t = TypeRef::custom(
        "example.org",
        "v1",
        "Widget",
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer"}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}),
    );
    let d = decode_json(
        &json!({"metadata": {"name": "a", "y": 1}, "spec": {"size": "x", "free": {"a": {"b": null}}, "other": 1, "more": null}}),
        &t,
    )
    .unwrap();
    assert_eq!(d.unknown, ["metadata.y", "spec.more", "spec.other"]);
    assert_eq!(d.value["spec"], json!({"size": "x", "free": {"a": {"b": null}}}));
    let e = decode_json(&json!({"metadata": {"labels": {"a": 1}}}), &t).unwrap_err();
    assert!(
        e.message.starts_with("Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number")
    );
}

#[test]
fn free_form_objects_are_kept() {
    let revision = Schemas::builtin().type_of("apps", "v1", "ControllerRevision").unwrap();
    let object = json!({"data": {"spec": {"a": null, "l": []}}, "revision": 1});
    assert_eq!(decode_json(&object, &revision).unwrap().value, object);
    let object = json!({"metadata": {"managedFields": [{"fieldsV1": {"f:metadata": {"f:labels": {".": {}}}}}]}});
    assert_eq!(decode_json(&object, &pod()).unwrap().value, object);
    assert_eq!(decode_json(&json!({"a": [1, null]}), &TypeRef::any_object()).unwrap().value, json!({"a": [1, null]}));
}

#[test]
fn what_cannot_be_applied_says_where() {
    let t =
        TypeRef::custom("g.io", "v1", "Kind", &json!({"type": "object", "properties": {"spec": {"type": "object"}}}));
    let said = |body: &str| decode_applied(body.as_bytes(), &t, true).unwrap_err().message;
    let head = "\napiVersion: g.io/v1\nkind: Kind\nmetadata: {name: a}\n";
    let unknown = said(&format!("{head}more: 1\n"));
    assert_eq!(
        unknown,
        "failed to create typed patch object (/a; g.io/v1, Kind=Kind): .more: field not declared in schema"
    );
    let twice = said(&format!("{head}spec: {{}}\nspec: {{}}\n"));
    assert!(twice.ends_with("line 6: key \"spec\" already set in map"), "{twice}");
}

#[test]
fn a_wrong_type_is_told_as_the_converter_does() {
    let said = |value: Value| {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"containers": []}});
        crate::patch::merge(&object.clone(), &value).clone_into(&mut object);
        unconvertible(&check(object, &pod()).unwrap_err().message).unwrap()
    };
    assert_eq!(said(json!({"metadata": {"labels": {"a": 1}}})), "cannot convert int64 to string");
    assert_eq!(said(json!({"spec": {"terminationGracePeriodSeconds": "x"}})), "unrecognized type: int64");
    assert_eq!(said(json!({"spec": {"nodeSelector": "x"}})), "cannot restore map from string");
    assert_eq!(said(json!({"spec": {"containers": {}}})), "cannot restore slice from map");
    assert_eq!(said(json!({"spec": []})), "cannot restore struct from: slice");
    assert_eq!(unconvertible("another message"), None);
}

#[test]
fn resources_are_told_in_thousandths() {
    let t = Schemas::builtin().type_of("", "v1", "ResourceQuota").unwrap();
    let hard = |amount: Value| {
        let decoded = decode_json(&json!({"spec": {"hard": {"cpu": amount}}}), &t);
        decoded.map(|d| d.value["spec"]["hard"]["cpu"].as_str().unwrap().to_owned()).map_err(|e| e.message)
    };
    for (amount, told) in [("1u", "1m"), ("0.1n", "1m"), ("123456789n", "124m"), ("1.5", "1500m"), ("-1u", "-1m")] {
        assert_eq!(hard(json!(amount)).unwrap(), told);
    }
    assert_eq!(hard(Value::Null).unwrap(), "0");
    assert!(
        hard(json!({}))
            .unwrap_err()
            .ends_with("quantities must match the regular expression \'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$\'")
    );
    let e = decode_json(&json!({"spec": {"hard": 1}}), &t).unwrap_err().message;
    assert!(
        e.ends_with("cannot unmarshal number into Go struct field ResourceQuotaSpec.spec.hard of type v1.ResourceList"),
        "{e}"
    );
}

#[test]
fn base64_is_read_as_go_reads_it() {
    let t = Schemas::builtin().type_of("", "v1", "Secret").unwrap();
    let read = |text: &str| {
        let decoded = decode_json(&json!({"data": {"a": text}}), &t);
        decoded.map(|d| d.value["data"]["a"].as_str().unwrap().to_owned()).map_err(|e| e.message)
    };
    for (text, at) in [
        ("abc", 0),
        ("YWJjZ", 4),
        ("::1", 0),
        ("a b", 1),
        ("YWJj\nYW", 5),
        ("YW=", 3),
        ("YWJjZA=", 7),
        ("YWJj=", 4),
        ("====", 0),
        ("YW==YQ==", 4),
    ] {
        let e = read(text).unwrap_err();
        assert!(e.ends_with(&format!("illegal base64 data at input byte {at}")), "{text}: {e}");
    }
    for (text, told) in [("YWI=", "YWI="), ("YWJ=", "YWI="), ("YW==", "YQ=="), ("YW\nJj", "YWJj"), ("", "")] {
        assert_eq!(read(text).unwrap(), told);
    }
}
