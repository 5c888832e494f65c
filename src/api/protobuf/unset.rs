//! Fields that a client sent with Go's zero value, and fields that nobody has set. In a struct of
//! Go's both are the same: a default applies to them, and JSON has them or not, as the struct's
//! tags say.

use serde_json::{Map, Value};

use super::table::{self, Field, Message, Shape, Special};

/// Takes out of an object of a built-in kind what its kind does not tell from what is absent:
/// `""`, `0` and `false` where Go has no pointer and leaves zero values out, and nulls.
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
            // In what is any JSON a null is a value.
            return table::of(field).is_some_and(|of| of.special == Special::Raw);
        }
        if field.shape == Shape::One && !field.keeps_zero() && (value == "" || value == 0 || value == false) {
            // A quantity or a duration may be zero.
            return field.kind == b'm';
        }
        below(field, value, message);
        true
    });
    // What Go inlines has its fields among these.
    for of in of.inlined().filter_map(table::of) {
        message(fields, of);
    }
}

/// Does the same to the messages that a field holds.
fn below(field: &Field, value: &mut Value, mut each: impl FnMut(&mut Map<String, Value>, &'static Message)) {
    let Some(of) = table::of(field) else { return };
    match (field.shape, value) {
        (Shape::One, Value::Object(inner)) => each(inner, of),
        (Shape::Many, Value::Array(all)) => {
            all.iter_mut().filter_map(Value::as_object_mut).for_each(|inner| each(inner, of));
        }
        (Shape::Map, Value::Object(all)) => {
            all.values_mut().filter_map(Value::as_object_mut).for_each(|inner| each(inner, of));
        }
        _ => {}
    }
}

/// Which of the fields that JSON always has are put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// Structs, in which defaults find their places.
    Structs,
    /// Those with a value: empty structs, `""`, `0`, `false`.
    Values,
    /// Those that are null, too: lists, maps, times, pointers.
    All,
}

/// Puts into an object of a built-in kind what JSON always has of it.
pub fn put_unset(object: &mut Value, which: Unset) {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let Some(of) = table::of_kind(text("apiVersion"), text("kind")) else { return };
    if let Some(fields) = object.as_object_mut() {
        complete(fields, of, which);
    }
}

fn complete(fields: &mut Map<String, Value>, of: &'static Message, which: Unset) {
    if of.special != Special::Plain {
        return;
    }
    for field in of.shown() {
        if fields.contains_key(field.name) {
            continue;
        }
        let put = match (unset(field), which) {
            (Some(v @ Value::Object(_)), _) => Some(v),
            (Some(Value::Null), Unset::All) => Some(Value::Null),
            (Some(Value::Null), _) | (_, Unset::Structs) => None,
            (v, _) => v,
        };
        if let Some(v) = put {
            fields.insert(field.name.to_owned(), v);
        }
    }
    for (name, value) in fields.iter_mut() {
        if let Some(field) = of.named(name) {
            below(field, value, |inner, of| complete(inner, of, which));
        }
    }
    for of in of.inlined().filter_map(table::of) {
        complete(fields, of, which);
    }
}

/// What JSON has of a field that nobody has set; `None` where it has nothing.
fn unset(field: &Field) -> Option<Value> {
    if field.pointer || field.shape != Shape::One {
        return field.always.then_some(Value::Null);
    }
    // No tag leaves out a struct.
    if field.kind == b'm' {
        return match table::of(field)?.special {
            Special::Plain => Some(Value::Object(Map::new())),
            Special::Time | Special::MicroTime | Special::Raw => Some(Value::Null),
            Special::Quantity => Some("0".into()),
            Special::IntOrString => Some(0.into()),
            _ => None,
        };
    }
    field.always.then(|| match field.kind {
        b's' => "".into(),
        b'B' => false.into(),
        b'b' => Value::Null,
        _ => 0.into(),
    })
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
    fn what_json_always_has_is_put_in() {
        let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A",
                "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}}}});
        put_unset(&mut set, Unset::Values);
        assert_eq!(
            set,
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
                "spec": {"serviceName": "", "updateStrategy": {}, "template": {"metadata": {}, "spec": {"containers": [
                    {"name": "c", "resources": {}, "env": [{"name": "A",
                        "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}]}]}}},
                "status": {"replicas": 0, "availableReplicas": 0}})
        );
        let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}});
        let before = role.clone();
        put_unset(&mut role, Unset::Values);
        assert_eq!(role, before);
        put_unset(&mut role, Unset::All);
        assert_eq!(role["rules"], Value::Null);
        assert!(role.get("rules").is_some());
        drop_unset(&mut role);
        assert_eq!(role, before, "a null is as absent");
        let mut event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}});
        put_unset(&mut event, Unset::All);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {}, "source": {},
                "reportingComponent": "", "reportingInstance": "",
                "firstTimestamp": null, "lastTimestamp": null, "eventTime": null})
        );
        let custom = json!({"apiVersion": "example.com/v1", "kind": "Pod"});
        let mut same = custom.clone();
        put_unset(&mut same, Unset::All);
        assert_eq!(same, custom);
    }
}
