//! Fields that a client sent with Go's zero value. In a struct of Go's such a field is as one that
//! was never sent, so a default applies to it and it is not stored.

use serde_json::{Map, Value};

use super::table::{self, Message, Shape, Special};

/// Takes out of an object of a built-in kind what its kind does not tell from what is absent:
/// `""`, `0` and `false` where Go has no pointer and leaves zero values out.
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
}
