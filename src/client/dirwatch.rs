//! Tells when files of a folder change, by inotify.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

struct Fd(Inotify);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A watch of one folder: files written and closed, moved in or out, made or removed.
pub struct DirWatch {
    fd: AsyncFd<Fd>,
}

impl std::fmt::Debug for DirWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirWatch")
    }
}

impl DirWatch {
    /// Watches a folder that exists.
    ///
    /// # Errors
    /// When inotify has no watch left or the folder is not there.
    pub fn new(dir: &Path) -> io::Result<DirWatch> {
        DirWatch::with(dir, AddWatchFlags::empty())
    }

    /// As [`DirWatch::new`], and every write to a file counts, too.
    ///
    /// # Errors
    /// The same.
    pub fn with_writes(dir: &Path) -> io::Result<DirWatch> {
        DirWatch::with(dir, AddWatchFlags::IN_MODIFY)
    }

    /// Watches one open file, whatever its name becomes, for a writer that closes it.
    ///
    /// # Errors
    /// When inotify has no watch left.
    pub fn of_writers(file: &std::fs::File) -> io::Result<DirWatch> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        DirWatch::watching(Path::new(&path), AddWatchFlags::IN_CLOSE_WRITE)
    }

    fn with(dir: &Path, more: AddWatchFlags) -> io::Result<DirWatch> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | more;
        DirWatch::watching(dir, flags)
    }

    fn watching(path: &Path, flags: AddWatchFlags) -> io::Result<DirWatch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(path, flags)?;
        // SAFETY: `Fd` owns the inotify descriptor and gives the same one until it is dropped, which
        // is what `register` asks for.
        #[allow(unsafe_code)]
        let fd = unsafe { AsyncFd::register(Fd(inotify))? };
        Ok(DirWatch { fd })
    }

    /// Waits for the next changes; gives the names of the files concerned.
    ///
    /// # Errors
    /// When reading fails.
    pub async fn changed(&mut self) -> io::Result<Vec<String>> {
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.get_inner().0.read_events() {
                Ok(events) => {
                    return Ok(events
                        .into_iter()
                        .filter_map(|e| e.name.map(|n| n.to_string_lossy().into_owned()))
                        .collect());
                }
                Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
