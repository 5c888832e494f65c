//! Files with keys and other secrets: readable by their owner only, replaced as a whole.

use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file at once: a reader, or a power cut, sees the old text or the new one. Folders
/// above it are made.
///
/// # Errors
/// The system's, with the path in front.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| Error::new(e.kind(), format!("cannot write {}: {e}", path.display())))
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// The system's, with the path in front.
pub fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::new(e.kind(), format!("cannot read {}: {e}", path.display()))),
    }
}
