//! Table rows: the cells that `kubectl get` shows.

use serde_json::Value;

/// `Name` and `Age`, for kinds without columns of their own.
pub fn default_cells(object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
}
