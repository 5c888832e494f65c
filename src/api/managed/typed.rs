//! Whether a configuration is of its type, as server-side apply looks at it: before it is decoded,
//! and with other words (upstream: `sigs.k8s.io/structured-merge-diff/typed`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::field_set::{Lists, field_type, item, item_type, lists, spelled};
use crate::printed::printed;
use crate::schema::{Shape, TypeRef};

/// What is wrong with a configuration, each with its path; of several unknown fields of one struct the first.
pub fn problems(config: &Value, t: &TypeRef) -> Vec<String> {
    let mut all = Vec::new();
    check("", config, t, &mut all);
    all
}

fn check(at: &str, value: &Value, t: &TypeRef, all: &mut Vec<String>) {
    let wanted = match (t.shape(), value) {
        (_, Value::Null) | (Shape::Any, _) => return,
        (Shape::Object(_) | Shape::Map(_), Value::Object(map)) => return fields(at, map, t, all),
        (Shape::List(_), Value::Array(list)) => return items(at, list, t, all),
        (Shape::String | Shape::Bytes, Value::String(_))
        | (Shape::Int32 | Shape::Int64 | Shape::Number, Value::Number(_))
        | (Shape::Boolean, Value::Bool(_)) => return,
        (Shape::Object(_) | Shape::Map(_), _) => "map",
        (Shape::List(_), _) => "list",
        (Shape::String | Shape::Bytes, _) => "string",
        (Shape::Int32 | Shape::Int64 | Shape::Number, _) => "numeric (int or float)",
        (Shape::Boolean, _) => "boolean",
        // Of the others upstream knows only that they are scalars; decoding says more.
        _ => return,
    };
    let got = match (wanted, value) {
        ("string", _) => format!("&value.valueUnstructured{{Value:{value}}}"),
        ("numeric (int or float)", Value::String(_)) => "string".to_owned(),
        ("numeric (int or float)", Value::Bool(_)) => "bool".to_owned(),
        ("numeric (int or float)", Value::Array(_)) => "[]interface {}".to_owned(),
        ("numeric (int or float)", _) => "map[string]interface {}".to_owned(),
        _ => format!("&{{{}}}", printed(value)),
    };
    all.push(format!("{at}: expected {wanted}, got {got}"));
}

fn fields(at: &str, map: &Map<String, Value>, t: &TypeRef, all: &mut Vec<String>) {
    for (name, value) in map {
        let place = format!("{at}.{name}");
        if t.is_object() && !t.declares(name) {
            if t.keeps_unknown() {
                continue;
            }
            all.push(format!("{place}: field not declared in schema"));
            return;
        }
        check(&place, value, &field_type(t, name), all);
    }
}

fn items(at: &str, list: &[Value], t: &TypeRef, all: &mut Vec<String>) {
    let of = item_type(t);
    let mut seen = HashSet::new();
    for (index, value) in list.iter().enumerate() {
        let mut element = format!("i:{index}");
        if lists(t) != Lists::Atomic {
            let keys = if lists(t) == Lists::Map { t.list_map_keys() } else { &[] };
            let absent = keys.iter().find(|k| value.get(k).is_none() && t.list_map_default(k).is_none());
            if let Some(key) = absent {
                all.push(format!(
                    "{at}: element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                ));
                return;
            }
            element = item(t, value);
            if !seen.insert(element.clone()) {
                all.push(format!("{at}: duplicate entries for key {}", spelled(&element)));
            }
        }
        check(&format!("{at}{}", spelled(&element)), value, &of, all);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schemas;

    #[test]
    fn what_is_wrong_is_told_with_its_path() {
        let t = Schemas::builtin().type_of("", "v1", "Pod").unwrap();
        let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        for (spec, told) in [
            (
                json!({"containers": [{"name": "a", "imagex": 1}]}),
                ".spec.containers[name=\"a\"].imagex: field not declared in schema",
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "a"}]}),
                ".spec.containers: duplicate entries for key [name=\"a\"]",
            ),
            (
                json!({"containers": [{"image": "a"}]}),
                ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
            ),
            (json!({"containers": {"name": "a"}}), ".spec.containers: expected list, got &{map[name:a]}"),
            (json!({"priority": "x"}), ".spec.priority: expected numeric (int or float), got string"),
            (json!({"nodeName": 1}), ".spec.nodeName: expected string, got &value.valueUnstructured{Value:1}"),
            (json!({"hostIPC": "yes"}), ".spec.hostIPC: expected boolean, got &{yes}"),
            (json!("x"), ".spec: expected map, got &{x}"),
        ] {
            assert_eq!(problems(&pod(spec), &t), [told]);
        }
        let good =
            json!({"containers": [{"name": "a", "env": null, "ports": [{"containerPort": 1}, {"containerPort": 2}]}]});
        assert!(problems(&pod(good), &t).is_empty());
    }
}
