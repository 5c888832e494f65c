//! One change as watchers are told of it.

use std::sync::{Arc, OnceLock};

use api::{Object, Status};
use bytes::{BufMut, Bytes, BytesMut};
use store::Revision;

use crate::storage::{self, Storage};

/// What an event takes, or an object beside its bytes.
const OVERHEAD: usize = 256;

/// One change of one object.
#[derive(Debug)]
pub struct CacheEvent {
    /// The revision it took.
    pub revision: Revision,
    /// The state before; `None` for a creation, or when it happened before this server's history.
    pub old: Option<Arc<Object>>,
    /// The state after; for a deletion the last state, carrying the deletion's revision.
    pub object: Arc<Object>,
    /// What happened.
    pub change: Change,
}

/// An event on its way to those who watch now. Frames are shared by them and go with it; the
/// events that are kept for later watches have none.
#[derive(Debug)]
pub struct Delivery {
    /// What happened.
    pub event: Arc<CacheEvent>,
    /// By encoding, then by change.
    frames: [[OnceLock<Bytes>; 3]; 2],
}

impl Delivery {
    pub(super) fn of(event: Arc<CacheEvent>) -> Delivery {
        Delivery { event, frames: Default::default() }
    }

    /// The frame of this event as `change`, made by the first of those who need it in this encoding.
    pub fn frame(&self, change: Change, protobuf: bool, make: impl FnOnce() -> Bytes) -> Bytes {
        self.frames[usize::from(protobuf)][change as usize].get_or_init(make).clone()
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Created.
    Added,
    /// Updated.
    Modified,
    /// Deleted.
    Deleted,
}

impl Change {
    /// The `type` of a watch event.
    pub fn name(self) -> &'static str {
        ["ADDED", "MODIFIED", "DELETED"][self as usize]
    }
}

impl CacheEvent {
    /// What it takes in memory beside the objects that are there now, roughly.
    pub(super) fn kept_bytes(&self) -> usize {
        let replaced = self.old.as_ref().map_or(0, |o| o.size() + OVERHEAD);
        let deleted = if self.change == Change::Deleted { self.object.size() + OVERHEAD } else { 0 };
        OVERHEAD + replaced + deleted
    }

    /// What a watcher with a selection sees of it.
    pub fn seen(&self, selects: &(dyn Fn(&Object) -> bool + Send + Sync)) -> Option<Change> {
        let new = self.change != Change::Deleted && selects(&self.object);
        let old = match (&self.old, self.change) {
            (Some(o), _) => selects(o),
            (None, Change::Added) => false,
            // Unknown: to tell a watcher of a deletion it need not know of does no harm.
            (None, _) => true,
        };
        match (old, new, self.change) {
            (_, true, Change::Added) | (false, true, _) => Some(Change::Added),
            (true, true, _) => Some(Change::Modified),
            (true, false, _) => Some(Change::Deleted),
            (false, false, _) => None,
        }
    }
}

/// A watch event of any JSON object as one line.
pub fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut b = BytesMut::with_capacity(object.len() + 40);
    b.put_slice(b"{\"type\":\"");
    b.put_slice(kind.as_bytes());
    b.put_slice(b"\",\"object\":");
    b.put_slice(object);
    b.put_slice(b"}\n");
    b.freeze()
}

/// What a change in the store means to watchers, given the state before it and, where it is in
/// memory already, the state after it. `None` for the deletion of something unknown.
pub(super) fn event_of(
    storage: &Storage,
    event: &store::Event,
    old: Option<Arc<Object>>,
    new: Option<&Arc<Object>>,
) -> Result<Option<Arc<CacheEvent>>, Status> {
    let (object, change) = match (&event.value, &old) {
        (Some(bytes), _) => {
            let change = if storage::created(&event.key, bytes)? { Change::Added } else { Change::Modified };
            let object = match new {
                Some(o) => o.clone(),
                None => storage.decode(&event.key, bytes, event.revision)?,
            };
            (object, change)
        }
        (None, Some(last)) => (storage::at_revision(last, event.revision)?, Change::Deleted),
        (None, None) => return Ok(None),
    };
    let revision = event.revision;
    Ok(Some(Arc::new(CacheEvent { revision, old, object, change })))
}
