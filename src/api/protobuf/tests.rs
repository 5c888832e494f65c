//! Bodies there and back.

use serde_json::{Value, json};

use super::*;

/// tag and bytes
fn sub(tag: u8, b: &[u8]) -> Vec<u8> {
    let mut v = vec![tag << 3 | 2, b.len() as u8];
    v.extend(b);
    v
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [sub(1, api_version.as_bytes()), sub(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), sub(1, &meta), sub(2, raw)].concat()
}

#[test]
fn a_config_map_decodes_and_go_zero_values_are_left_out() {
    let metadata = [sub(1, b"a"), sub(2, b""), sub(8, b"")].concat();
    let raw = [sub(1, &metadata), sub(2, &[sub(1, b"k"), sub(2, b"v")].concat())].concat();
    let decoded = decode(&body("v1", "ConfigMap", &raw)).unwrap();
    assert_eq!(
        decoded,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
    );
}

#[test]
fn an_explicit_zero_of_a_pointer_is_kept() {
    let raw = sub(2, &[1 << 3, 0]);
    let decoded = decode(&body("apps/v1", "Deployment", &raw)).unwrap();
    assert_eq!(decoded["spec"]["replicas"], 0);
}

#[test]
fn bodies_that_are_cut_or_foreign_are_errors() {
    let whole = body("v1", "ConfigMap", &sub(1, &sub(1, b"a")));
    for n in 0..whole.len() {
        // No cut may panic; most are errors, some are shorter messages.
        let _ = decode(&whole[..n]);
    }
    assert!(decode(b"{}").is_err());
    assert!(decode(&body("example.com/v1", "Thing", &[])).is_err());
}

fn encoded(v: &Value) -> bytes::Bytes {
    let (api_version, kind) = (v["apiVersion"].as_str().unwrap(), v["kind"].as_str().unwrap());
    Kind::of(api_version, kind).unwrap().encode(api_version, kind, v.to_string().as_bytes()).unwrap()
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"a": "", "b": "c"}, "deletionGracePeriodSeconds": 0,
            "managedFields": [{"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}}}}]},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "secret": {"secretName": "s", "defaultMode": 420}}],
            "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m"}},
                "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k", "optional": false}}}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/x".repeat(200)}, "periodSeconds": 10},
                "readinessProbe": {"tcpSocket": {"port": "web"}}}],
            "ephemeralContainers": [{"name": "e", "image": "j", "tty": true, "targetContainerName": "c"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0,
            "image": "", "imageID": "", "state": {"terminated": {"exitCode": -1}}}]}});
    assert_eq!(decode(&encoded(&pod)).unwrap(), pod);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AAH/"}});
    assert_eq!(decode(&encoded(&secret)).unwrap(), secret);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"renewTime": "2026-01-02T03:04:05.678901Z", "leaseTransitions": 0}});
    assert_eq!(decode(&encoded(&lease)).unwrap(), lease);
    let webhooks = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "w"}, "spec": {"matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"], "resourceNames": ["x"]}]}}});
    assert_eq!(decode(&encoded(&webhooks)).unwrap(), webhooks);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {},
        "status": {"userInfo": {"username": "u", "extra": {"e": ["1", ""]}}}});
    assert_eq!(decode(&encoded(&review)).unwrap(), review);
}

#[test]
fn schemas_keep_their_alternatives() {
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "c"},
        "spec": {"group": "g", "scope": "Namespaced", "names": {"plural": "p", "kind": "K"},
            "versions": [{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": false, "maximum": 1.5, "properties": {
                    "a": {"additionalProperties": false, "default": {"b": [1]}, "enum": ["x", 1]},
                    "b": {"additionalProperties": {"type": "string"}, "default": 0},
                    "c": {"type": "array", "items": {"type": "string"}},
                    "d": {"$ref": "r", "dependencies": {"x": ["y"], "z": {"type": "string"}}}}}}}]}});
    assert_eq!(decode(&encoded(&crd)).unwrap(), crd);
}

#[test]
fn only_the_metadata_of_an_object_can_be_encoded() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let kind = Kind::of("meta.k8s.io/v1", "PartialObjectMetadata").unwrap();
    let partial = kind.encode("meta.k8s.io/v1", "PartialObjectMetadata", object.to_string().as_bytes()).unwrap();
    assert_eq!(
        decode(&partial).unwrap(),
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"}})
    );
}

#[test]
fn a_list_and_a_watch_event_hold_their_objects() {
    let item = br#"{"kind":"ConfigMap","metadata":{"name":"a"}}"#;
    let items = [item, item].into_iter().map(|i| bytes::Bytes::from_static(i));
    let meta = br#"{"resourceVersion":"7","remainingItemCount":3}"#;
    let list = Kind::of("v1", "ConfigMap").unwrap().encode_list("v1", "ConfigMapList", meta, items).unwrap();
    let decoded = decode(&list).unwrap();
    assert_eq!(decoded["metadata"], json!({"resourceVersion": "7", "remainingItemCount": 3}));
    assert_eq!(decoded["items"], json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "a"}}]));
    let frame = watch_frame("ADDED", &list);
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    let meta = [sub(1, b"v1"), sub(2, b"WatchEvent")].concat();
    let mut event = [MAGIC.to_vec(), sub(1, &meta), vec![2 << 3 | 2]].concat();
    event.push(frame[4..].len() as u8);
    event.extend(&frame[4..]);
    assert_eq!(decode(&event).unwrap()["object"]["items"].as_array().unwrap().len(), 2);
}

#[test]
fn every_field_of_every_builtin_kind_has_a_number() {
    let resources = crate::registry::builtin();
    let mut seen = std::collections::BTreeSet::new();
    let mut missing = Vec::new();
    for r in &resources {
        let kind = Kind::of(&r.api_version(), &r.kind).unwrap_or_else(|| panic!("{r:?} has no message"));
        kind.missing(&r.schema, &mut seen, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}
