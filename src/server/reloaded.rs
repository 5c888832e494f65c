//! Configuration files that are followed: a change of one is put into force without a restart.

use std::path::{Path, PathBuf};

use api::Status;
use client::dirwatch::DirWatch;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Reads a configuration file.
///
/// # Errors
/// The system's, with the path in front.
pub(crate) fn read(path: &Path) -> Result<String, Status> {
    std::fs::read_to_string(path).map_err(|e| Status::internal_plain(format!("cannot read {}: {e}", path.display())))
}

/// The text of a configuration that stands in a file, or in `flags` that stand for one, with the
/// name that errors call it by; nothing where neither was given.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn given(file: Option<&Path>, flags: Option<&str>, about: &str) -> Result<Option<(String, String)>, Status> {
    Ok(match (file, flags) {
        (Some(path), _) => Some((read(path)?, path.display().to_string())),
        (None, Some(text)) => Some((text.to_owned(), format!("what the {about} flags say"))),
        (None, None) => None,
    })
}

/// Reads a configuration of a kind of `apiserver.config.k8s.io`, in YAML or JSON; what is not known
/// in it is an error.
///
/// # Errors
/// In upstream's words.
pub(crate) fn document<T: DeserializeOwned>(text: &str, wanted: &str) -> Result<T, String> {
    const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
    let mut tree = api::codec::parse_tree(text.as_bytes(), true).map_err(|s| s.message)?;
    let mut take = |field: &str| {
        let taken = tree.as_object_mut().and_then(|o| o.remove(field));
        taken.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let (kind, version) = (take("kind"), take("apiVersion"));
    let known = version.strip_prefix("apiserver.config.k8s.io/").is_some_and(|v| VERSIONS.contains(&v));
    if kind != wanted || !known {
        return Err(format!("no kind {kind:?} is registered for version {version:?}"));
    }
    serde_json::from_value(tree).map_err(|e| format!("strict decoding error: {e}"))
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
