//! The segmented, append-only log: the only thing that makes a write durable.
//!
//! A segment is a file named after its first revision. [`Log`] belongs to the
//! writer: it appends frames, begins segments and drops old ones. [`Index`] is
//! what readers of history share: which revisions stand in which file, up to the
//! last synced byte.
//!
//! **Invariants.** One frame at a time is unsynced. A segment is begun (created,
//! headed, synced, its name synced) before a frame goes into it. A failed append
//! is cut off again before the next; when that fails too, nothing more is written.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, File};
use crate::manifest::Manifest;
use crate::record::{
    FRAME_BYTES_MAX, FRAME_HEADER, FrameRead, SEGMENT_HEADER, SegmentHeader, encode_frame, holds_later_frame,
    read_frame, skip_frame,
};
use crate::{Error, Event, RESTORE_ADVICE, Revision, io_error, lock};

const SUFFIX: &str = ".log";

/// What is known of a segment without reading it.
#[derive(Clone, Debug)]
struct Segment {
    header: SegmentHeader,
    /// The last revision in it; `base - 1` while it is empty.
    last: Revision,
    /// Bytes that are synced.
    length: u64,
}

impl Segment {
    fn name(&self) -> String {
        segment_name(self.header.base)
    }
}

fn segment_name(base: Revision) -> String {
    format!("{base:020}{SUFFIX}")
}

/// The segments, oldest first; shared with the readers of history.
pub(crate) struct Index {
    disk: Arc<dyn Disk>,
    segments: Mutex<Vec<Segment>>,
}

/// Where a reader of history stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// The last revision that was read.
    pub after: Revision,
    /// Segment and offset of the next frame, when known.
    position: Option<(Revision, u64)>,
}

impl Cursor {
    pub(crate) fn after(after: Revision) -> Self {
        Self { after, position: None }
    }
}

impl Index {
    /// Reads about `bytes` of batches behind the cursor and advances it. `None`
    /// when the revision behind the cursor is not in the log (any more, or yet).
    pub(crate) fn read(&self, cursor: &mut Cursor, bytes: u64) -> Result<Option<Vec<Arc<[Event]>>>, Error> {
        let next = cursor.after + 1;
        let found =
            lock(&self.segments).iter().find(|segment| segment.header.base <= next && next <= segment.last).cloned();
        let Some(segment) = found else {
            return Ok(None);
        };
        let name = segment.name();
        let file = match self.disk.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", self.disk.path(&name), error)),
        };
        let (mut offset, mut revision) = match cursor.position {
            Some((base, offset)) if base == segment.header.base => (offset, next),
            _ => (SEGMENT_HEADER as u64, segment.header.base),
        };
        let mut batches: Vec<Arc<[Event]>> = Vec::new();
        let mut start = None;
        while start.is_none_or(|start| offset - start < bytes) {
            if start.is_none()
                && let Some((last, behind)) = skip_frame(&*file, offset, revision)
                    .map_err(|error| io_error("read", self.disk.path(&name), error))?
                && last < next
                && behind <= segment.length
            {
                (revision, offset) = (last + 1, behind);
                continue;
            }
            match read_frame(&*file, offset, segment.length, segment.header.salt, revision)
                .map_err(|error| io_error("read", self.disk.path(&name), error))?
            {
                FrameRead::Frame(mut events, behind) => {
                    revision += events.len() as u64;
                    if revision > next {
                        start.get_or_insert(offset);
                        events.retain(|event| event.revision > cursor.after);
                        batches.push(events.into());
                    }
                    offset = behind;
                }
                FrameRead::End => break,
                FrameRead::Bad(what) => {
                    return Err(corrupt(&*self.disk, &name, offset, what));
                }
            }
        }
        cursor.after = revision - 1;
        cursor.position = Some((segment.header.base, offset));
        Ok(Some(batches))
    }
}

fn corrupt(disk: &dyn Disk, name: &str, offset: u64, what: &str) -> Error {
    Error::Corrupt { file: disk.path(name), offset, what: what.into(), advice: RESTORE_ADVICE.into() }
}

/// The writer's side of the log.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    index: Arc<Index>,
    active: Box<dyn File>,
    buffer: Vec<u8>,
    segment_bytes: u64,
    refused: bool,
}

impl Log {
    /// Opens the log, hands every batch with a revision after `replay_after` to
    /// `replay`, and cuts off a torn last frame. What follows `written`, the last revision
    /// that is known to have been durable, may be torn; what comes before may not.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        manifest: Manifest,
        (replay_after, written): (Revision, Revision),
        segment_bytes: u64,
        now_ms: u64,
        replay: &mut dyn FnMut(Vec<Event>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut segments = find_segments(&*disk, manifest)?;
        if segments.is_empty() {
            if written > 0 {
                let what = format!("revision {written} was written, but there is no log");
                return Err(corrupt(&*disk, "", 0, &what));
            }
            let (header, file) = begin_segment(&*disk, 1, now_ms)?;
            return Ok(Self::new(disk, vec![empty_segment(header)], file, segment_bytes));
        }
        if segments[0].header.base > replay_after + 1 {
            let what = format!(
                "the log begins at revision {}, and revisions from {} are needed",
                segments[0].header.base,
                replay_after + 1
            );
            return Err(corrupt(&*disk, &segments[0].name(), 0, &what));
        }
        let count = segments.len();
        let mut active = None;
        for index in 0..count {
            let follower = segments.get(index + 1).map(|next| next.header.base);
            let segment = &mut segments[index];
            if let Some(base) = follower
                && base <= replay_after + 1
            {
                // Wholly below the checkpoint: its frames are checked when a watch reads them.
                segment.last = base - 1;
                continue;
            }
            let file = scan(&*disk, segment, follower, (replay_after, written), replay)?;
            if let Some(base) = follower
                && base != segment.last + 1
            {
                let what = format!("it ends at {}, and {base} follows", segment.last);
                return Err(corrupt(&*disk, &segment.name(), segment.length, &what));
            }
            active = Some(file);
        }
        let Some(active) = active else {
            return Err(corrupt(&*disk, manifest_name(), 0, "no segment is active"));
        };
        let log = Self::new(disk, segments, active, segment_bytes);
        if log.last() < written {
            let what = format!("it ends at revision {}, but revision {written} was written", log.last());
            let (name, length) = log.active_name_and_length();
            return Err(corrupt(&*log.disk, &name, length, &what));
        }
        Ok(log)
    }

    fn new(disk: Arc<dyn Disk>, segments: Vec<Segment>, active: Box<dyn File>, segment_bytes: u64) -> Self {
        let index = Arc::new(Index { disk: disk.clone(), segments: Mutex::new(segments) });
        Self { disk, index, active, buffer: Vec::new(), segment_bytes, refused: false }
    }

    /// What readers of history share.
    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.clone()
    }

    /// The last revision in the log.
    pub(crate) fn last(&self) -> Revision {
        lock(&self.index.segments).last().map_or(0, |segment| segment.last)
    }

    /// The revision before the first one in the log.
    pub(crate) fn before_first(&self) -> Revision {
        lock(&self.index.segments).first().map_or(0, |segment| segment.header.base - 1)
    }

    fn active_name_and_length(&self) -> (String, u64) {
        let segments = lock(&self.index.segments);
        segments.last().map_or_else(Default::default, |active| (active.name(), active.length))
    }

    /// Appends one batch and makes it durable; returns how many bytes it took.
    /// After an error nothing of the batch remains.
    pub(crate) fn append(&mut self, events: &[Event], now_ms: u64) -> Result<u64, Error> {
        if self.refused {
            let (name, _) = self.active_name_and_length();
            let why = io::Error::other("an earlier failed write could not be taken back; restart to write again");
            return Err(io_error("write", self.disk.path(&name), why));
        }
        let (mut salt, mut length, mut base) = self.active_facts();
        if length >= self.segment_bytes && length > SEGMENT_HEADER as u64 {
            let (header, file) = begin_segment(&*self.disk, self.last() + 1, now_ms)?;
            lock(&self.index.segments).push(empty_segment(header));
            self.active = file;
            (salt, length, base) = self.active_facts();
        }
        encode_frame(&mut self.buffer, salt, events);
        if let Err(error) = self.active.append(&self.buffer).and_then(|()| self.active.sync()) {
            let undone = self.active.truncate(length).and_then(|()| self.active.sync());
            self.refused = undone.is_err();
            return Err(io_error("write", self.disk.path(&segment_name(base)), error));
        }
        let written = self.buffer.len() as u64;
        if self.buffer.capacity() > 256 << 10 {
            self.buffer = Vec::new();
        }
        if let Some(active) = lock(&self.index.segments).last_mut() {
            active.last += events.len() as u64;
            active.length += written;
        }
        Ok(written)
    }

    fn active_facts(&self) -> (u32, u64, Revision) {
        let segments = lock(&self.index.segments);
        segments.last().map_or((0, 0, 0), |active| (active.header.salt, active.length, active.header.base))
    }

    /// How far history may be given up: behind the last segment that was sealed
    /// before `sealed_before_ms`, or further when more than `bytes_max` are kept.
    pub(crate) fn expired(&self, sealed_before_ms: u64, bytes_max: u64) -> Revision {
        let segments = lock(&self.index.segments);
        let mut kept: u64 = segments.iter().map(|segment| segment.length).sum();
        let mut expired = 0;
        for pair in segments.windows(2) {
            if pair[1].header.created_ms >= sealed_before_ms && kept <= bytes_max {
                break;
            }
            kept -= pair[0].length;
            expired = pair[0].last;
        }
        expired
    }

    /// When the oldest sealed segment was sealed.
    pub(crate) fn oldest_sealed_ms(&self) -> Option<u64> {
        lock(&self.index.segments).get(1).map(|segment| segment.header.created_ms)
    }

    /// Removes the sealed segments whose last revision is at most `revision`. The
    /// manifest must already say that they may be gone.
    pub(crate) fn drop_through(&mut self, revision: Revision) -> Result<(), Error> {
        let mut removed = false;
        loop {
            let name = {
                let mut segments = lock(&self.index.segments);
                if segments.len() < 2 || segments[0].last > revision {
                    break;
                }
                segments.remove(0).name()
            };
            removed = true;
            self.disk.remove(&name).map_err(|error| io_error("remove", self.disk.path(&name), error))?;
        }
        if removed {
            self.disk.sync_dir().map_err(|error| io_error("sync", self.disk.path(""), error))?;
        }
        Ok(())
    }
}

fn manifest_name() -> &'static str {
    crate::manifest::NAME
}

fn empty_segment(header: SegmentHeader) -> Segment {
    Segment { header, last: header.base - 1, length: SEGMENT_HEADER as u64 }
}

/// Creates the segment that begins at `base`, durably.
fn begin_segment(disk: &dyn Disk, base: Revision, now_ms: u64) -> Result<(SegmentHeader, Box<dyn File>), Error> {
    let salt = RandomState::new().hash_one(base) as u32;
    let header = SegmentHeader { base, created_ms: now_ms, salt };
    let name = segment_name(base);
    let begin = || {
        let mut file = disk.create(&name)?;
        file.append(&header.encode())?;
        file.sync()?;
        disk.sync_dir()?;
        Ok(file)
    };
    match begin() {
        Ok(file) => Ok((header, file)),
        Err(error) => Err(io_error("create", disk.path(&name), error)),
    }
}

/// Lists the segments, removes the ones that were given up, and a last one that
/// a power cut left without its header.
fn find_segments(disk: &dyn Disk, manifest: Manifest) -> Result<Vec<Segment>, Error> {
    let mut bases: Vec<Revision> = disk
        .list()
        .map_err(|error| io_error("list", disk.path(""), error))?
        .iter()
        .filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok())
        .collect();
    bases.sort_unstable();
    let given_up = manifest.oldest.min(manifest.checkpoint);
    let mut segments = Vec::new();
    for (index, &base) in bases.iter().enumerate() {
        let name = segment_name(base);
        let failed = |action| {
            let path = disk.path(&name);
            move |error| io_error(action, path, error)
        };
        let remove = || disk.remove(&name).and_then(|()| disk.sync_dir());
        let last = index + 1 == bases.len();
        if !last && bases[index + 1] - 1 <= given_up {
            remove().map_err(failed("remove"))?;
            continue;
        }
        let file = disk.open(&name).map_err(failed("open"))?;
        let length = file.length().map_err(failed("read"))?;
        let mut bytes = [0; SEGMENT_HEADER];
        let count = file.read_at(&mut bytes, 0).map_err(failed("read"))?;
        match SegmentHeader::decode(&bytes[..count]) {
            Some(header) if header.base == base => {
                segments.push(Segment { header, last: base - 1, length });
            }
            None if last && length <= SEGMENT_HEADER as u64 => {
                drop(file);
                remove().map_err(failed("remove"))?;
            }
            _ => return Err(corrupt(disk, &name, 0, "the segment's header is not sound")),
        }
    }
    Ok(segments)
}

/// Checks a segment's frames, replays them and fills in where it ends.
fn scan(
    disk: &dyn Disk,
    segment: &mut Segment,
    follower: Option<Revision>,
    (replay_after, written): (Revision, Revision),
    replay: &mut dyn FnMut(Vec<Event>) -> Result<(), Error>,
) -> Result<Box<dyn File>, Error> {
    let name = segment.name();
    let failed = |action| {
        let path = disk.path(&name);
        move |error| io_error(action, path, error)
    };
    let mut file = disk.open(&name).map_err(failed("open"))?;
    let salt = segment.header.salt;
    let mut offset = SEGMENT_HEADER as u64;
    loop {
        let next = segment.last + 1;
        match read_frame(&*file, offset, segment.length, salt, next).map_err(failed("read"))? {
            FrameRead::Frame(mut events, behind) => {
                segment.last += events.len() as u64;
                offset = behind;
                events.retain(|event| event.revision > replay_after);
                if !events.is_empty() {
                    replay(events)?;
                }
            }
            FrameRead::End => {
                // A killed process may have left a frame that was written but not synced.
                if follower.is_none() {
                    file.sync().map_err(failed("sync"))?;
                }
                break;
            }
            FrameRead::Bad(what) => {
                let tail = (segment.length - offset) as usize;
                if follower.is_some() || segment.last < written || tail > FRAME_HEADER + FRAME_BYTES_MAX {
                    return Err(corrupt(disk, &name, offset, what));
                }
                let mut bytes = vec![0; tail];
                file.read_at(&mut bytes, offset).map_err(failed("read"))?;
                if holds_later_frame(&bytes, salt, next) {
                    return Err(corrupt(disk, &name, offset, what));
                }
                tracing::warn!(file = name, offset, bytes = tail, "cutting off a torn write");
                file.truncate(offset).map_err(failed("truncate"))?;
                file.sync().map_err(failed("sync"))?;
                break;
            }
        }
    }
    segment.length = offset;
    Ok(file)
}
