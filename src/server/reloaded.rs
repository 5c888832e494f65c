//! Configuration files that are followed: a change of one is put into force without a restart.

use std::path::{Path, PathBuf};

use api::Status;
use client::dirwatch::DirWatch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Reads a configuration file.
///
/// # Errors
/// The system's, with the path in front.
pub(crate) fn read(path: &Path) -> Result<String, Status> {
    std::fs::read_to_string(path).map_err(|e| Status::internal_plain(format!("cannot read {}: {e}", path.display())))
}

/// Calls `changed` with the text of a file whenever it is another than `known`, until cancelled.
/// What it refuses is told in the log, and what was in force stays.
///
/// # Errors
/// When the file's folder cannot be watched.
pub(crate) fn follow(
    path: PathBuf,
    known: String,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
    changed: impl Fn(&str) -> Result<(), String> + Send + 'static,
) -> Result<(), Status> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let told = |e: std::io::Error| Status::internal_plain(format!("cannot watch {}: {e}", folder.display()));
    let mut watch = DirWatch::new(folder).map_err(told)?;
    let cancel = cancel.clone();
    tasks.spawn(async move {
        let mut known = known;
        while let Some(events) = cancel.run_until_cancelled(watch.changed()).await {
            if let Err(e) = events {
                tracing::error!(path = %path.display(), error = %e, "a configuration file is no longer followed");
                return;
            }
            // A file that is being replaced may not be there for a moment.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            if text == known {
                continue;
            }
            known.clone_from(&text);
            match changed(&text) {
                Ok(()) => tracing::info!(path = %path.display(), "a changed configuration is in force"),
                Err(e) => {
                    tracing::error!(path = %path.display(), error = e, "a changed configuration is not usable; the one before stays in force");
                }
            }
        }
    });
    Ok(())
}
