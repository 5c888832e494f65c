//! The `CHECKPOINT` file: up to where the materialized state is known to be
//! durable, and how far history has been given up.
//!
//! Four lines of text, replaced as a whole (write, sync, rename, sync directory),
//! so that a power cut leaves the old one or the new one.

use std::io;

use crate::disk::Disk;
use crate::{Error, Revision, io_error};

pub(crate) const NAME: &str = "CHECKPOINT";
const NEW_NAME: &str = "CHECKPOINT.new";
const TITLE: &str = "sampan-store 1";

/// What the `CHECKPOINT` file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Every write up to this revision is durable in the engine.
    pub checkpoint: Revision,
    /// History up to this revision is given up; its log segments may be gone.
    pub oldest: Revision,
}

impl Manifest {
    /// Reads the file; a store that never made a checkpoint has none.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Self, Error> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error("open", disk.path(NAME), error)),
        };
        let mut bytes = [0; 256];
        let count = file.read_at(&mut bytes, 0).map_err(|error| io_error("read", disk.path(NAME), error))?;
        std::str::from_utf8(&bytes[..count]).ok().and_then(Self::parse).ok_or_else(|| Error::Corrupt {
            file: disk.path(NAME),
            offset: 0,
            what: "it is not a sound checkpoint record".into(),
            advice: crate::RESTORE_ADVICE.into(),
        })
    }

    /// Replaces the file durably.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), Error> {
        let replace = || {
            let mut file = disk.create(NEW_NAME)?;
            file.append(self.render().as_bytes())?;
            file.sync()?;
            drop(file);
            disk.rename(NEW_NAME, NAME)?;
            disk.sync_dir()
        };
        replace().map_err(|error| io_error("write", disk.path(NAME), error))
    }

    fn render(&self) -> String {
        let body = self.body();
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}crc {crc:08x}\n")
    }

    fn body(&self) -> String {
        format!("{TITLE}\ncheckpoint {}\noldest {}\n", self.checkpoint, self.oldest)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let checkpoint = lines.next()?.strip_prefix("checkpoint ")?.parse().ok()?;
        let oldest = lines.next()?.strip_prefix("oldest ")?.parse().ok()?;
        let manifest = Self { checkpoint, oldest };
        (manifest.render() == text).then_some(manifest)
    }
}
