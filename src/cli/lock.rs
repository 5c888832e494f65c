//! One process a data directory: a locked file that names the process that has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end when it is asked to.
const END: Duration = Duration::from_secs(30);

/// Holds a data directory until dropped.
#[derive(Debug)]
pub struct Lock(File);

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("lock")
}

fn try_lock(data_dir: &Path) -> Result<Result<Lock, File>> {
    let path = path(data_dir);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Ok(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(Err(file)),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The process that a locked file names.
fn holder(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

impl Lock {
    /// Takes a data directory, which is made where it is missing.
    ///
    /// # Errors
    /// When another process has it.
    pub fn take(data_dir: &Path) -> Result<Lock> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot create {}; choose another place with --data-dir", data_dir.display()))?;
        let mut lock = match try_lock(data_dir)? {
            Ok(lock) => lock,
            Err(mut file) => {
                let who = holder(&mut file).map_or(String::new(), |p| format!(" ({p})"));
                bail!(
                    "{} is in use by another process{who}; stop it first or choose another --data-dir",
                    data_dir.display()
                );
            }
        };
        let mut write = || -> std::io::Result<()> {
            lock.0.set_len(0)?;
            lock.0.rewind()?;
            writeln!(lock.0, "{}", std::process::id())
        };
        write().with_context(|| format!("cannot write {}", path(data_dir).display()))?;
        Ok(lock)
    }

    /// Takes a data directory, after asking the process that has it to end.
    ///
    /// # Errors
    /// When it does not end, or another one takes its place.
    pub fn take_over(data_dir: &Path) -> Result<Lock> {
        let begun = Instant::now();
        let mut asked = None;
        loop {
            let mut file = match try_lock(data_dir)? {
                Ok(lock) => return Ok(lock),
                Err(file) => file,
            };
            let pid = holder(&mut file);
            if pid.is_some() && pid != asked {
                if asked.is_some() {
                    bail!(
                        "sampan was started again at once: stop its service first, such as by `systemctl stop sampan`"
                    );
                }
                asked = pid;
                let _ = pid.map(|p| kill(p, Signal::SIGTERM));
            }
            if begun.elapsed() > END {
                bail!("the process that uses {} does not end; stop it first", data_dir.display());
            }
            // There is no event for the end of a process that is not our child.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_process() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("sampan-lock-{}", std::process::id()));
        let first = Lock::take(&dir)?;
        let second = Lock::take(&dir).map_err(|e| e.to_string());
        let own = std::process::id().to_string();
        assert!(second.is_err_and(|e| e.contains("in use by another process") && e.contains(&own)));
        drop(first);
        drop(Lock::take(&dir)?);
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
