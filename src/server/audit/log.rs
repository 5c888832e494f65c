//! The log file: JSON lines, buffered in memory for a moment, never synced; rotated by size, old
//! files kept by number and age, named as upstream names them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counts::{Counts, Fault};
use super::{Error, Rotation};

/// How long a line may wait for others.
const DELAY: Duration = Duration::from_secs(1);
/// A buffer of this size is written at once.
const WRITE_AT: usize = 64 << 10;
/// Requests wait while this much is waiting.
const LIMIT: usize = 8 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The log, shared by all requests.
pub(super) struct Log {
    buffer: Mutex<Buffer>,
    /// There is something to write, or enough to write it now.
    filled: Notify,
    enough: Notify,
    drained: Notify,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// After the end of the task: lines are written where they come from.
    direct: Option<Target>,
}

impl Log {
    /// Opens the log; `-` is standard output.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(super) fn start(
        path: &Path,
        rotation: Rotation,
        counts: Arc<Counts>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Arc<Log>, Error> {
        let target = match path.to_str() {
            Some("-") => Target::Stdout,
            _ => {
                let failed = |source| Error::Io { action: "open the audit log", path: path.to_owned(), source };
                Target::Rotated(Rotated::open(path, rotation).map_err(failed)?)
            }
        };
        let log = Arc::new(Log {
            buffer: Mutex::default(),
            filled: Notify::new(),
            enough: Notify::new(),
            drained: Notify::new(),
            counts,
        });
        tasks.spawn(log.clone().run(target, cancel.clone()));
        Ok(log)
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until there is room for the events of another request: a slow disk slows requests
    /// down, and loses none of them.
    pub(super) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            if self.buffer().bytes.len() < LIMIT {
                return;
            }
            drained.await;
        }
    }

    /// Takes a line.
    pub(super) fn write(&self, line: &[u8]) {
        let mut buffer = self.buffer();
        if let Some(target) = &mut buffer.direct {
            self.told(target.write(line));
            return;
        }
        let before = buffer.bytes.len();
        buffer.bytes.extend_from_slice(line);
        drop(buffer);
        if before == 0 {
            self.filled.notify_one();
        }
        if before < WRITE_AT && before + line.len() >= WRITE_AT {
            self.enough.notify_one();
        }
    }

    /// Writes what gathers, until cancelled; nothing wakes it while there is nothing.
    async fn run(self: Arc<Self>, mut target: Target, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.filled.notified() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(DELAY) => {}
                () = self.enough.notified() => {}
            }
            let bytes = std::mem::take(&mut self.buffer().bytes);
            // The disk may take its time: not on a thread that serves requests.
            let own = self.clone();
            let written = tokio::task::spawn_blocking(move || {
                own.told(target.write(&bytes));
                target
            });
            target = match written.await {
                Ok(target) => target,
                Err(e) => return tracing::error!(error = %e, "the audit log is no longer written"),
            };
            self.drained.notify_waiters();
        }
        let mut buffer = self.buffer();
        self.told(target.write(&std::mem::take(&mut buffer.bytes)));
        buffer.direct = Some(target);
        drop(buffer);
        self.drained.notify_waiters();
    }

    fn told(&self, result: io::Result<()>) {
        if let Err(e) = result {
            self.counts.failed(Fault::Log, 1);
            tracing::error!(error = %e, "audit events could not be written");
        }
    }
}

enum Target {
    Stdout,
    Rotated(Rotated),
}

impl Target {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Target::Stdout => io::stdout().lock().write_all(lines),
            Target::Rotated(file) => file.write(lines),
        }
    }
}

/// A file that is set aside when it is full.
struct Rotated {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
}

impl Rotated {
    fn open(path: &Path, rotation: Rotation) -> io::Result<Rotated> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = create(path)?;
        let size = file.metadata()?.len();
        Ok(Rotated { path: path.to_owned(), rotation, file, size })
    }

    /// Writes whole lines; a file ends with a line.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let limit = self.rotation.max_size.max(1) << 20;
        if self.size > 0 && self.size + lines.len() as u64 > limit {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let now = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string();
        std::fs::rename(&self.path, self.aside(&now))?;
        self.file = create(&self.path)?;
        self.size = 0;
        self.prune()
    }

    /// `audit-2026-01-01T00-00-00.000.log` for `audit.log`.
    fn aside(&self, time: &str) -> PathBuf {
        let (stem, extension) = self.parts();
        self.path.with_file_name(format!("{stem}-{time}{extension}"))
    }

    fn parts(&self) -> (String, String) {
        let text = |o: Option<&std::ffi::OsStr>| o.map(|s| s.to_string_lossy().into_owned());
        let extension = text(self.path.extension()).map(|e| format!(".{e}")).unwrap_or_default();
        (text(self.path.file_stem()).unwrap_or_default(), extension)
    }

    /// Removes old files that are too many or too old.
    fn prune(&self) -> io::Result<()> {
        let (stem, extension) = self.parts();
        let Some(directory) = self.path.parent() else { return Ok(()) };
        let mut old: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|n| n.strip_suffix(&extension));
            if time.is_some_and(|t| t.len() == "2026-01-01T00-00-00.000".len()) {
                old.push(path);
            }
        }
        old.sort();
        old.reverse();
        let age = DAY * u32::try_from(self.rotation.max_age).unwrap_or(u32::MAX);
        for (i, path) in old.iter().enumerate() {
            let modified = std::fs::metadata(path)?.modified()?;
            let aged = SystemTime::now().duration_since(modified).unwrap_or_default() > age;
            let many = self.rotation.max_backup > 0 && i >= self.rotation.max_backup;
            if many || (self.rotation.max_age > 0 && aged) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> Vec<String> {
        let names = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn full_files_are_set_aside_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let rotation = Rotation { max_size: 1, max_age: 0, max_backup: 2 };
        let mut log = Rotated::open(&path, rotation).unwrap();
        let line = vec![b'x'; 600 << 10];
        for _ in 0..5 {
            log.write(&line).unwrap();
            // Files are told apart by the millisecond.
            std::thread::sleep(Duration::from_millis(2));
        }
        let names = files(directory.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[0].starts_with("audit-20") && names[2] == "audit.log", "{names:?}");
        // It goes on where it was.
        let mut log = Rotated::open(&path, rotation).unwrap();
        log.write(b"more").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (600 << 10) + 4);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_gathered_and_the_last_are_written_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/audit.log");
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let log = Log::start(&path, Rotation::default(), Arc::default(), &tasks, &cancel).unwrap();
        log.write(b"one\n");
        log.write(b"two\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        tasks.close();
        cancel.cancel();
        tasks.wait().await;
        log.write(b"three\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
