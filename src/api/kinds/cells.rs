//! What the cells of several kinds have in common.

use jiff::Timestamp;
use serde_json::Value;

use super::{list, text};

/// The name.
pub(super) fn name(o: &Value) -> Value {
    o["metadata"]["name"].clone()
}

/// The age.
pub(super) fn age(o: &Value, now: Timestamp) -> Value {
    since(o["metadata"]["creationTimestamp"].as_str(), now)
}

/// The time since a timestamp, `<unknown>` without one.
pub(super) fn since(t: Option<&str>, now: Timestamp) -> Value {
    t.map_or_else(|| "<unknown>".to_owned(), |t| crate::time::age(now, t)).into()
}

/// A number; 0 when absent.
pub(super) fn number(v: &Value) -> Value {
    v.as_i64().unwrap_or(0).into()
}

/// Container names and images of a pod spec.
pub(super) fn containers(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|f| list(spec, "containers").map(|c| text(c, f)).collect::<Vec<_>>().join(",").into())
}

/// A map as `a=b,c=d`.
pub(super) fn labels(map: &Value) -> Value {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",").into() }
}

/// A label selector in its string form.
pub(super) fn selector(v: &Value) -> Value {
    if v.is_null() {
        return "<none>".into();
    }
    match crate::selector::LabelSelector::from_value(v) {
        Ok(s) if s.is_empty() => "<none>".into(),
        Ok(s) => s.to_string().into(),
        Err(_) => "<error>".into(),
    }
}
