//! What the tests of this room share: examples, and an allocator that counts.

use std::sync::Arc;

use serde_json::Value;

use crate::Resource;

#[global_allocator]
static ALLOCATOR: fuzzing::Counting = fuzzing::Counting;

/// One object of every kind.
pub(crate) fn golden() -> Vec<Value> {
    let read = |text: String| crate::codec::parse_documents(&text).unwrap().remove(0)["object"].take();
    fuzzing::golden::yaml().into_iter().map(read).collect()
}

/// The same, each with the resource that it is of.
pub(crate) fn golden_of_resources() -> Vec<(Arc<Resource>, Value)> {
    let all = crate::registry::builtin();
    let find = |v: Value| {
        let r = all.iter().find(|r| v["apiVersion"] == r.api_version() && v["kind"] == r.kind.as_str())?;
        Some((r.clone(), v))
    };
    golden().into_iter().filter_map(find).collect()
}

/// As bodies in JSON.
pub(crate) fn golden_json() -> Vec<String> {
    golden().iter().map(Value::to_string).collect()
}
