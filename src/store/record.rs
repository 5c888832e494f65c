//! The bytes of the log: a segment header, then one frame per committed batch.
//!
//! ```text
//! segment  "SAMPLOG1" | base revision u64 | created, ms u64 | salt u32 | crc u32
//! frame    payload length u32 | crc u32 | first revision u64 | count u32 | payload
//! record   operation u8 | key length u32 | value length u32 | key | value
//! ```
//!
//! All numbers are little-endian. A frame's records take consecutive revisions
//! from the frame's first one, so a log cannot express a gap inside a frame. The
//! checksum covers everything of the frame but itself and starts from the
//! segment's random salt: a value that contains the bytes of a frame cannot pass
//! for one, and neither can a frame of a segment that used the same blocks before.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::File;
use crate::{Event, Revision};

/// Length of a segment header.
pub(crate) const SEGMENT_HEADER: usize = 32;
/// Length of a frame header.
pub(crate) const FRAME_HEADER: usize = 20;
/// The largest key plus value that can be stored.
pub(crate) const RECORD_BYTES_MAX: usize = 4 << 20;
/// The payload size at which a batch takes no further writes.
pub(crate) const BATCH_BYTES: usize = 4 << 20;
/// No frame's payload is larger than this.
pub(crate) const FRAME_BYTES_MAX: usize = BATCH_BYTES + RECORD_BYTES_MAX + (1 << 20);

const MAGIC: &[u8; 8] = b"SAMPLOG1";
const RECORD_HEADER: usize = 9;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The revision of the first record.
    pub base: Revision,
    /// When the segment was begun, in milliseconds since 1970.
    pub created_ms: u64,
    /// Where the checksums of its frames start.
    pub salt: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.base.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.created_ms.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.len() >= SEGMENT_HEADER
            && bytes[..8] == MAGIC[..]
            && u32_at(bytes, 28) == crc32fast::hash(&bytes[..28]);
        valid.then(|| Self { base: u64_at(bytes, 8), created_ms: u64_at(bytes, 16), salt: u32_at(bytes, 24) })
    }
}

/// How many bytes a record adds to a frame.
pub(crate) fn record_bytes(key: &str, value: Option<&Bytes>) -> usize {
    RECORD_HEADER + key.len() + value.map_or(0, Bytes::len)
}

/// Replaces `out` by the frame of `events`, whose revisions must be consecutive.
pub(crate) fn encode_frame(out: &mut Vec<u8>, salt: u32, events: &[Event]) {
    out.clear();
    out.resize(FRAME_HEADER, 0);
    for event in events {
        out.push(if event.value.is_some() { PUT } else { DELETE });
        out.extend_from_slice(&(event.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(event.value.as_ref().map_or(0, Bytes::len) as u32).to_le_bytes());
        out.extend_from_slice(event.key.as_bytes());
        out.extend_from_slice(event.value.as_deref().unwrap_or_default());
    }
    let first = events.first().map_or(0, |event| event.revision);
    let length = (out.len() - FRAME_HEADER) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[8..16].copy_from_slice(&first.to_le_bytes());
    out[16..20].copy_from_slice(&(events.len() as u32).to_le_bytes());
    let crc = frame_crc(salt, out);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn frame_crc(salt: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// What stands at an offset of a segment.
pub(crate) enum FrameRead {
    /// A sound frame and the offset behind it.
    Frame(Vec<Event>, u64),
    /// Nothing: the file ends here.
    End,
    /// Bytes that are not a sound frame.
    Bad(&'static str),
}

/// Reads the frame at `offset` of a file that is `end` bytes long. Its first
/// revision must be `expected`.
pub(crate) fn read_frame(
    file: &dyn File,
    offset: u64,
    end: u64,
    salt: u32,
    expected: Revision,
) -> io::Result<FrameRead> {
    if offset >= end {
        return Ok(FrameRead::End);
    }
    let mut header = [0; FRAME_HEADER];
    if file.read_at(&mut header, offset)? < FRAME_HEADER {
        return Ok(FrameRead::Bad("the frame's header is cut short"));
    }
    let length = u32_at(&header, 0) as usize;
    if length > FRAME_BYTES_MAX {
        return Ok(FrameRead::Bad("the frame's length is impossible"));
    }
    if offset + (FRAME_HEADER + length) as u64 > end {
        return Ok(FrameRead::Bad("the frame is cut short"));
    }
    let mut frame = vec![0; FRAME_HEADER + length];
    if file.read_at(&mut frame, offset)? < frame.len() {
        return Ok(FrameRead::Bad("the frame is cut short"));
    }
    if u32_at(&frame, 4) != frame_crc(salt, &frame) {
        return Ok(FrameRead::Bad("the frame's checksum does not match"));
    }
    if u64_at(&frame, 8) != expected {
        return Ok(FrameRead::Bad("the frame's revision does not follow the one before"));
    }
    match decode_records(&frame) {
        Some(events) => Ok(FrameRead::Frame(events, offset + frame.len() as u64)),
        None => Ok(FrameRead::Bad("the frame's records do not add up")),
    }
}

/// The last revision of the frame at `offset` and the offset behind it, from its header alone:
/// what a reader who looks for something later needs to know. `None` when the header does not
/// say that the frame begins with `expected`.
pub(crate) fn skip_frame(file: &dyn File, offset: u64, expected: Revision) -> io::Result<Option<(Revision, u64)>> {
    let mut header = [0; FRAME_HEADER];
    if file.read_at(&mut header, offset)? < FRAME_HEADER {
        return Ok(None);
    }
    let (length, count) = (u64::from(u32_at(&header, 0)), u64::from(u32_at(&header, 16)));
    let plausible = u64_at(&header, 8) == expected && count > 0 && length <= FRAME_BYTES_MAX as u64;
    Ok(plausible.then_some((expected + count - 1, offset + FRAME_HEADER as u64 + length)))
}

/// Whether a sound frame of a revision after `expected` begins anywhere in `bytes`.
/// After a torn write there is none: only one frame at a time is on its way.
pub(crate) fn holds_later_frame(bytes: &[u8], salt: u32, expected: Revision) -> bool {
    (0..bytes.len().saturating_sub(FRAME_HEADER)).any(|start| {
        let rest = &bytes[start..];
        let length = u32_at(rest, 0) as usize;
        let first = u64_at(rest, 8);
        first >= expected
            && first - expected < 1 << 32
            && length > 0
            && FRAME_HEADER + length <= rest.len()
            && u32_at(rest, 4) == frame_crc(salt, &rest[..FRAME_HEADER + length])
    })
}

fn decode_records(frame: &[u8]) -> Option<Vec<Event>> {
    let first = u64_at(frame, 8);
    let count = u32_at(frame, 16);
    let mut rest = &frame[FRAME_HEADER..];
    let mut events = Vec::with_capacity((count as usize).min(rest.len() / RECORD_HEADER));
    for index in 0..u64::from(count) {
        let (header, body) = rest.split_at_checked(RECORD_HEADER)?;
        let (key, body) = body.split_at_checked(u32_at(header, 1) as usize)?;
        let (value, body) = body.split_at_checked(u32_at(header, 5) as usize)?;
        let value = match header[0] {
            PUT => Some(Bytes::copy_from_slice(value)),
            DELETE => None,
            _ => return None,
        };
        let key = Arc::from(std::str::from_utf8(key).ok()?);
        events.push(Event { revision: first + index, key, value });
        rest = body;
    }
    (rest.is_empty() && !events.is_empty()).then_some(events)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
