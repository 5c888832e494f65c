//! The JSON of an object. What its managed fields say is the same in all objects that one client
//! made of one template, and can be half of each: such parts are held once for all of them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::{BufMut, Bytes, BytesMut};

/// What is shorter takes less than finding and sharing it would.
const LEAST: usize = 128;
/// How many shared parts there may be before it is looked whether they are still used.
const SWEPT: usize = 1024;

/// The parts that objects share.
struct Shared {
    parts: HashSet<Arc<[u8]>>,
    /// At how many parts those are dropped that no object has any more.
    sweep_at: usize,
}

static SHARED: LazyLock<Mutex<Shared>> =
    LazyLock::new(|| Mutex::new(Shared { parts: HashSet::new(), sweep_at: SWEPT }));

fn share(part: &[u8]) -> Arc<[u8]> {
    let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(found) = shared.parts.get(part) {
        return found.clone();
    }
    if shared.parts.len() >= shared.sweep_at {
        shared.parts.retain(|p| Arc::strong_count(p) > 1);
        shared.sweep_at = SWEPT.max(2 * shared.parts.len());
    }
    let part: Arc<[u8]> = part.into();
    shared.parts.insert(part.clone());
    part
}

/// See the module.
pub(super) struct Text {
    /// All but the shared parts.
    own: Bytes,
    /// The shared parts in order, each with where it comes in `own`.
    shared: Box<[(u32, Arc<[u8]>)]>,
    /// Of all together; a list adds up thousands.
    length: usize,
}

impl Text {
    /// The text, with these parts of it, which are in order and do not overlap, shared if that is
    /// worth it. Of a text of more than 4 GiB nothing is shared.
    pub(super) fn new(json: Bytes, parts: &[Range<usize>]) -> Text {
        let long = parts.iter().filter(|p| p.len() >= LEAST);
        let parts: Vec<&Range<usize>> = if u32::try_from(json.len()).is_ok() { long.collect() } else { Vec::new() };
        if parts.is_empty() {
            return Text { length: json.len(), own: json, shared: Box::default() };
        }
        let mut own = Vec::with_capacity(json.len() - parts.iter().map(|p| p.len()).sum::<usize>());
        let mut shared = Vec::with_capacity(parts.len());
        let mut copied = 0;
        for part in parts {
            own.extend_from_slice(&json[copied..part.start]);
            shared.push((own.len() as u32, share(&json[part.clone()])));
            copied = part.end;
        }
        own.extend_from_slice(&json[copied..]);
        Text { length: json.len(), own: own.into(), shared: shared.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends the text.
    pub(super) fn write(&self, out: &mut BytesMut) {
        out.reserve(self.length);
        let mut written = 0;
        for (at, part) in &self.shared {
            let at = *at as usize;
            out.put_slice(&self.own[written..at]);
            out.put_slice(part);
            written = at;
        }
        out.put_slice(&self.own[written..]);
    }

    /// The text in one piece.
    pub(super) fn bytes(&self) -> Bytes {
        if self.shared.is_empty() {
            return self.own.clone();
        }
        let mut out = BytesMut::with_capacity(self.len());
        self.write(&mut out);
        out.freeze()
    }

    /// The text without a range of it, in place of which stands `null`. All shared parts are in
    /// the range.
    pub(super) fn without(&self, range: Range<usize>) -> Vec<u8> {
        let end = range.end - (self.len() - self.own.len());
        [&self.own[..range.start], b"null", &self.own[end..]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_with_shared_parts() {
        let (long, short) = ("x".repeat(LEAST), "y".repeat(LEAST - 1));
        let json = format!("a{long}b{short}c{long}");
        let at = |from: usize, part: &str| from..from + part.len();
        let parts = [at(1, &long), at(2 + LEAST, &short), at(2 * LEAST + 2, &long)];
        let text = Text::new(json.clone().into(), &parts);
        assert_eq!((text.len(), text.bytes()), (json.len(), Bytes::from(json)));
        assert_eq!(text.shared.len(), 2);
        assert!(Arc::ptr_eq(&text.shared[0].1, &text.shared[1].1));
        assert_eq!(text.without(1..2 * LEAST + 2 + LEAST), b"anull");
    }

    #[test]
    fn a_text_without_parts_is_not_copied() {
        let json = Bytes::from_static(b"{}");
        assert_eq!(Text::new(json.clone(), &[]).bytes().as_ptr(), json.as_ptr());
    }

    #[test]
    fn parts_go_with_the_last_object_that_has_them() {
        for n in 0..2 * SWEPT {
            let part = format!("{n:0LEAST$}");
            Text::new(part.clone().into(), std::slice::from_ref(&(0..part.len())));
        }
        let shared = SHARED.lock().unwrap();
        assert!(shared.parts.len() <= shared.sweep_at && shared.sweep_at < 2 * SWEPT, "{}", shared.parts.len());
    }
}
