//! Values as upstream's messages show them.

use std::collections::BTreeMap;

use serde_json::Value;

/// A value as Go prints it with `%v`: `map[a:1 b:[x y]]`.
pub fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let all: Vec<String> = sorted.iter().map(|(k, v)| format!("{k}:{}", printed(v))).collect();
            format!("map[{}]", all.join(" "))
        }
        scalar => scalar.to_string(),
    }
}
