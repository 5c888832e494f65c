//! Containers' log files, in CRI's format `<time> <stream> <P|F> <text>`: reading and rotating.
//!
//! Upstream: `pkg/kubelet/logs/container_log_manager.go`, `cri-client/pkg/logs`.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::cri::Runtime;

/// A log file is rotated when it is larger than this.
pub const SIZE_MAX: u64 = 10 << 20;
/// How often sizes are looked at (upstream's `containerLogMonitorInterval`).
pub const INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);
/// How many files of a container are kept, with the current one.
pub const FILES_MAX: usize = 5;

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time, as it stands there.
    pub time: &'a str,
    /// Whether it went to standard error.
    pub stderr: bool,
    /// Whether the line goes on in the next one.
    pub partial: bool,
    /// The text without the line break.
    pub text: &'a [u8],
}

/// Takes a line apart; `None` when it is none.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = parts.next()?.starts_with(b"P");
    Some(Line { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// The offset at which the last `lines` lines of a file begin.
///
/// # Errors
/// When the file cannot be read.
pub fn tail_offset(file: &mut std::fs::File, lines: usize) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut at = end;
    let mut found = 0;
    let mut block = vec![0u8; 64 << 10];
    while at > 0 {
        let size = at.min(block.len() as u64);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let part = &mut block[..usize::try_from(size).unwrap_or(0)];
        file.read_exact(part)?;
        for (i, b) in part.iter().enumerate().rev() {
            let position = at + i as u64;
            // The break at the very end belongs to the last line.
            if *b == b'\n' && position + 1 < end {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
    }
    Ok(0)
}

/// The text of the last lines of a log, at most `bytes` of it.
pub fn tail(path: &str, lines: usize, bytes: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let at = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(at))?;
        let mut all = Vec::new();
        file.read_to_end(&mut all)?;
        Ok(all)
    };
    let mut out = Vec::new();
    for line in read().unwrap_or_default().split(|b| *b == b'\n').filter_map(parse) {
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
    }
    let from = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

/// Rotated files of a log, the oldest first.
pub fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else { return Vec::new() };
    let prefix = format!("{name}.");
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && !n.ends_with(".tmp")))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

fn compress(file: &Path) -> std::io::Result<()> {
    let mut packed = file.as_os_str().to_owned();
    packed.push(".gz");
    let mut part = packed.clone();
    part.push(".tmp");
    let mut from = std::fs::File::open(file)?;
    let mut to = flate2::write::GzEncoder::new(std::fs::File::create(&part)?, flate2::Compression::default());
    std::io::copy(&mut from, &mut to)?;
    to.finish()?.flush()?;
    std::fs::rename(part, packed)?;
    std::fs::remove_file(file)
}

/// Rotates one container's log when it is too large: old files are packed, the oldest removed, the
/// current one renamed, and the runtime opens a new one.
pub async fn rotate(runtime: &dyn Runtime, container: &str, log: &Path) {
    if !std::fs::metadata(log).is_ok_and(|m| m.len() > SIZE_MAX) {
        return;
    }
    let owned = log.to_owned();
    let prepared = tokio::task::spawn_blocking(move || {
        for file in rotated(&owned).iter().filter(|f| f.extension().is_none_or(|e| e != "gz")) {
            compress(file)?;
        }
        let all = rotated(&owned);
        // The current file and the one it becomes count too.
        for file in all.iter().take((all.len() + 2).saturating_sub(FILES_MAX)) {
            std::fs::remove_file(file)?;
        }
        let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let mut moved = owned.as_os_str().to_owned();
        moved.push(format!(".{stamp}"));
        std::fs::rename(&owned, &moved)?;
        Ok::<_, std::io::Error>(PathBuf::from(moved))
    })
    .await;
    match prepared {
        Ok(Ok(moved)) => {
            if let Err(e) = runtime.reopen_log(container).await {
                tracing::warn!(container, error = %e, "the log was not reopened");
                let _ = std::fs::rename(moved, log);
            }
        }
        Ok(Err(e)) => tracing::warn!(container, error = %e, "the log was not rotated"),
        Err(e) => tracing::warn!(container, error = %e, "the log was not rotated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_begins_at_whole_lines() {
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(b"a\nb\nc\n").unwrap();
        assert_eq!(tail_offset(&mut f, 1).unwrap(), 4);
        assert_eq!(tail_offset(&mut f, 2).unwrap(), 2);
        assert_eq!(tail_offset(&mut f, 9).unwrap(), 0);
        assert_eq!(tail_offset(&mut f, 0).unwrap(), 6);
    }

    #[test]
    fn lines_are_taken_apart() {
        let l = parse(b"2026-11-21T01:39:43.4Z stderr F hello world").unwrap();
        assert!(l.stderr && !l.partial);
        assert_eq!(l.text, b"hello world");
        assert!(parse(b"nonsense").is_none());
    }
}
