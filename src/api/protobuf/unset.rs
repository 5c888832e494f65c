//! What Go does not tell apart. A field that a client sent with the zero value, or null, is in a
//! struct of Go's as one that was never sent: a default applies to it, and it is not stored. A field
//! that is a struct, or that no tag allows to be left out, is shown even so.

use serde_json::{Map, Value};

use super::table::{self, Field, Message, Shape, Special};

/// Takes out of an object of a built-in kind what its kind does not tell from what is absent:
/// null, and `""`, `0` and `false` where Go has no pointer and leaves zero values out.
pub fn drop_unset(object: &mut Value) {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let Some(of) = table::of_kind(text("apiVersion"), text("kind")) else { return };
    if let Some(fields) = object.as_object_mut() {
        message(fields, of);
    }
}

fn message(fields: &mut Map<String, Value>, of: &'static Message) {
    if of.special != Special::Plain {
        return;
    }
    fields.retain(|name, value| {
        let Some(field) = of.named(name) else { return true };
        if value.is_null() {
            return false;
        }
        if field.shape == Shape::One && !field.keeps_zero && (value == "" || value == 0 || value == false) {
            // A quantity or a duration may be zero.
            return field.kind == b'm';
        }
        if let Some(of) = table::of(field) {
            match (field.shape, value) {
                (Shape::One, Value::Object(inner)) => message(inner, of),
                (Shape::Many, Value::Array(all)) => {
                    all.iter_mut().filter_map(Value::as_object_mut).for_each(|inner| message(inner, of));
                }
                (Shape::Map, Value::Object(all)) => {
                    all.values_mut().filter_map(Value::as_object_mut).for_each(|inner| message(inner, of));
                }
                _ => {}
            }
        }
        true
    });
    // What Go inlines has its fields among these.
    for of in of.inlined().filter_map(table::of) {
        message(fields, of);
    }
}

/// What [`show_unset`] puts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Structs, in which defaults may find their places.
    Structs,
    /// All.
    All,
}

/// Puts into an object of a built-in kind what Go shows although nobody gave it.
pub fn show_unset(object: &mut Value, which: Shown) {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let Some(of) = table::of_kind(text("apiVersion"), text("kind")) else { return };
    if let Some(fields) = object.as_object_mut() {
        show(fields, of, which);
    }
}

fn show(fields: &mut Map<String, Value>, of: &'static Message, which: Shown) {
    if of.special != Special::Plain {
        return;
    }
    for field in of.always() {
        if fields.contains_key(field.name) {
            continue;
        }
        let zero = zero(field);
        if which == Shown::All || zero.is_object() {
            fields.insert(field.name.to_owned(), zero);
        }
    }
    for (name, value) in fields.iter_mut() {
        let Some(field) = of.named(name) else { continue };
        let Some(of) = table::of(field) else { continue };
        match (field.shape, value) {
            (Shape::One, Value::Object(inner)) => show(inner, of, which),
            (Shape::Many, Value::Array(all)) => {
                all.iter_mut().filter_map(Value::as_object_mut).for_each(|inner| show(inner, of, which));
            }
            (Shape::Map, Value::Object(all)) => {
                all.values_mut().filter_map(Value::as_object_mut).for_each(|inner| show(inner, of, which));
            }
            _ => {}
        }
    }
    for of in of.inlined().filter_map(table::of) {
        show(fields, of, which);
    }
}

fn zero(field: &Field) -> Value {
    match (field.shape, field.kind, table::of(field).map(|of| of.special)) {
        (Shape::One, b's', _) => "".into(),
        (Shape::One, b'i' | b'd', _) | (Shape::One, b'm', Some(Special::IntOrString)) => 0.into(),
        (Shape::One, b'B', _) => false.into(),
        (Shape::One, b'm', Some(Special::Plain)) => Value::Object(Map::new()),
        (Shape::One, b'm', Some(Special::Quantity)) => "0".into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_go_does_not_tell_from_absent_is_dropped_and_pointers_are_kept() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": ""}}, "spec": {
            "schedulerName": "", "hostNetwork": false, "hostUsers": false, "priority": 0,
            "containers": [{"name": "c", "imagePullPolicy": "", "stdin": false,
                "ports": [{"containerPort": 0, "hostPort": 0, "protocol": ""}],
                "livenessProbe": {"httpGet": {"port": 0, "scheme": ""}, "periodSeconds": 0},
                "volumeMounts": [{"name": "", "mountPath": "", "subPath": ""}]}]}});
        drop_unset(&mut pod);
        assert_eq!(
            pod,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": ""}}, "spec": {
                "hostUsers": false, "priority": 0,
                "containers": [{"name": "c",
                    "ports": [{"containerPort": 0}],
                    "livenessProbe": {"httpGet": {"port": 0}},
                    "volumeMounts": [{"name": "", "mountPath": ""}]}]}})
        );
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "spec": {"storageClassName": "", "volumeName": ""}});
        drop_unset(&mut claim);
        assert_eq!(claim["spec"], json!({"storageClassName": ""}));
        let mut custom = json!({"apiVersion": "example.com/v1", "kind": "Pod", "spec": {"schedulerName": ""}});
        drop_unset(&mut custom);
        assert_eq!(custom["spec"], json!({"schedulerName": ""}));
    }

    #[test]
    fn what_go_always_shows_is_put_in() {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": null});
        drop_unset(&mut node);
        show_unset(&mut node, Shown::Structs);
        let ends = json!({"kubeletEndpoint": {}});
        assert_eq!(node["status"], json!({"daemonEndpoints": ends, "nodeInfo": {}}));
        show_unset(&mut node, Shown::All);
        assert_eq!((&node["spec"], &node["metadata"]), (&json!({}), &json!({"name": "n"})));
        assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"], json!({"Port": 0}));
        assert_eq!(node["status"]["nodeInfo"]["machineID"], "");
        let mut event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {}});
        show_unset(&mut event, Shown::All);
        assert_eq!((&event["source"], event.get("eventTime")), (&json!({}), Some(&Value::Null)));
        let mut custom = json!({"apiVersion": "example.com/v1", "kind": "Node"});
        show_unset(&mut custom, Shown::All);
        assert_eq!(custom, json!({"apiVersion": "example.com/v1", "kind": "Node"}));
    }
}
