//! Events and lists that are too large for the service that they are posted to.

use bytes::Bytes;
use serde_json::{Value, json};

const TRUNCATED: &str = "audit.k8s.io/truncated";

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a list.
    pub max_batch_size: usize,
    /// Of an event.
    pub max_event_size: usize,
}

impl Limits {
    /// An event that is not too large, if need be without what was sent and answered; `None` if
    /// that does not help.
    pub(super) fn fit(&self, event: Bytes) -> Option<Bytes> {
        if event.len() <= self.max_event_size {
            return Some(event);
        }
        let mut tree: Value = serde_json::from_slice(&event).ok()?;
        let object = tree.as_object_mut()?;
        object.remove("requestObject");
        object.remove("responseObject");
        let annotations = object.entry("annotations").or_insert_with(|| json!({}));
        annotations.as_object_mut()?.insert(TRUNCATED.to_owned(), "true".into());
        let less = tree.to_string();
        (less.len() <= self.max_event_size).then(|| less.into())
    }

    /// Lists that are not too large; one event always makes one.
    pub(super) fn split<'a>(&self, events: &'a [Bytes]) -> Vec<&'a [Bytes]> {
        let (mut parts, mut begin, mut size) = (Vec::new(), 0, 0);
        for (i, e) in events.iter().enumerate() {
            if i > begin && size + e.len() > self.max_batch_size {
                parts.push(&events[begin..i]);
                (begin, size) = (i, 0);
            }
            size += e.len();
        }
        if begin < events.len() {
            parts.push(&events[begin..]);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_events_lose_their_objects_and_large_lists_are_split() {
        let limits = Limits { max_batch_size: 150, max_event_size: 100 };
        let small = Bytes::from_static(b"{\"level\":\"Request\"}");
        assert_eq!(limits.fit(small.clone()).unwrap(), small);
        let large = json!({"level": "Request", "requestObject": "x".repeat(100)}).to_string();
        let less: Value = serde_json::from_slice(&limits.fit(large.into()).unwrap()).unwrap();
        assert_eq!(less, json!({"level": "Request", "annotations": {"audit.k8s.io/truncated": "true"}}));
        assert!(limits.fit(json!({"requestURI": "x".repeat(100)}).to_string().into()).is_none());
        let events = vec![Bytes::from(vec![b'x'; 70]); 5];
        let sizes: Vec<usize> = limits.split(&events).iter().map(|p| p.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }
}
