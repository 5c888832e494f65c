//! A list as JSON: little more than copying bytes, and those only as the client takes them, so that
//! many large lists at once need no memory of their own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::{Object, Resource};
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::Value;

use super::respond::{self, Reply};
use crate::registry::Page;

/// How much is copied at a time.
const PIECE: usize = 64 * 1024;
const END: &[u8] = b"]}\n";

/// See the module.
pub struct JsonList {
    head: Bytes,
    items: Items,
    /// How many items have been copied.
    at: usize,
    /// How many bytes are still to come.
    left: usize,
}

enum Items {
    /// In the version that they are stored in.
    Stored(Vec<Arc<Object>>),
    Converted(Vec<Bytes>),
}

impl Items {
    fn bytes(&self) -> usize {
        match self {
            Items::Stored(all) => all.iter().map(|o| o.size()).sum(),
            Items::Converted(all) => all.iter().map(Bytes::len).sum(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Items::Stored(all) => all.len(),
            Items::Converted(all) => all.len(),
        }
    }

    fn write(&self, at: usize, out: &mut BytesMut) {
        match self {
            Items::Stored(all) => all[at].write_json(out),
            Items::Converted(all) => out.put_slice(&all[at]),
        }
    }
}

impl JsonList {
    /// The list of a page's objects.
    pub fn new(resource: &Resource, page: &Page, meta: &Value) -> JsonList {
        let head = format!(
            "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{meta},\"items\":[",
            resource.list_kind,
            resource.api_version()
        );
        let items = match &resource.convert {
            None => Items::Stored(page.items.clone()),
            Some(_) => Items::Converted(page.items.iter().map(|o| respond::served_bytes(resource, o)).collect()),
        };
        let commas = page.items.len().saturating_sub(1);
        let left = head.len() + items.bytes() + commas + END.len();
        JsonList { head: head.into(), items, at: 0, left }
    }

    /// As a response.
    pub fn reply(self) -> Reply {
        let mut reply = respond::bytes(200, "application/json", Bytes::new());
        *reply.body_mut() = self.boxed_unsync();
        reply
    }

    /// All of it at once.
    pub fn into_bytes(mut self) -> Bytes {
        self.piece(usize::MAX)
    }

    /// What comes next: all that is left, or a little more than `size`.
    fn piece(&mut self, size: usize) -> Bytes {
        let mut piece = BytesMut::with_capacity(self.left.min(size.saturating_add(size / 4)));
        piece.put_slice(&std::mem::take(&mut self.head));
        while piece.len() < size && self.at < self.items.count() {
            if self.at > 0 {
                piece.put_u8(b',');
            }
            self.items.write(self.at, &mut piece);
            self.at += 1;
        }
        if piece.len() + END.len() == self.left {
            piece.put_slice(END);
        }
        self.left -= piece.len();
        piece.freeze()
    }
}

impl Body for JsonList {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready((self.left > 0).then(|| Ok(Frame::data(self.piece(PIECE)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(objects: usize, text: usize) -> Page {
        let object = |n| json!({"metadata": {"name": format!("m-{n}")}, "data": {"text": "x".repeat(text)}});
        let items = (0..objects).map(|n| Arc::new(Object::from_value(&object(n)).unwrap())).collect();
        Page { items, revision: 1, next: None, remaining: None }
    }

    #[tokio::test]
    async fn a_list_in_pieces_is_the_list_at_once() {
        let resources = api::registry::builtin();
        let maps = resources.iter().find(|r| r.plural == "configmaps").unwrap();
        for (objects, text) in [(0, 0), (1, 10), (3, PIECE), (2000, 200), (1, 5 * PIECE)] {
            let page = page(objects, text);
            let list = || JsonList::new(maps, &page, &json!({"resourceVersion": "1"}));
            let promised = list().size_hint().exact();
            let at_once = list().into_bytes();
            assert_eq!(promised, Some(at_once.len() as u64));
            let in_pieces = list().collect().await.unwrap().to_bytes();
            assert_eq!(in_pieces, at_once, "{objects} objects");
            let value: Value = serde_json::from_slice(&at_once).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len(), objects);
            assert_eq!(value["kind"], "ConfigMapList");
        }
    }
}
