//! Which pod has which address: one file per address.

use ipnet::IpNet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Addresses of a range, given out and kept as files named by address that
/// hold their owner. A file is made or it is not, so no lock is needed, and a
/// restart finds what was there.
#[derive(Clone, Debug)]
pub struct Ipam {
    dir: PathBuf,
    range: IpNet,
}

/// Addresses looked at before giving up; more than any node has pods.
const MOST: usize = 65_536;
/// The file that holds the address given out last.
const LAST: &str = "last";

impl Ipam {
    /// The addresses of a range whose first is the gateway's, kept in a directory.
    pub fn open(dir: &Path, range: IpNet) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), range })
    }

    /// An address for an owner: the one it has, or the next free one after the
    /// last given out, so that an address rests before it is used again.
    pub fn take(&self, owner: &str) -> io::Result<IpAddr> {
        if let Some(held) = self.of(owner)?.first() {
            return Ok(*held);
        }
        let last = fs::read_to_string(self.dir.join(LAST)).ok().and_then(|t| t.trim().parse::<IpAddr>().ok());
        let hosts = || self.range.hosts().skip(1).take(MOST);
        let after = hosts().filter(|a| last.is_some_and(|last| *a > last));
        let before = hosts().filter(|a| last.is_none_or(|last| *a <= last));
        for addr in after.chain(before) {
            let path = self.dir.join(addr.to_string());
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    let written = file.write_all(owner.as_bytes());
                    if let Err(error) = written {
                        let _ = fs::remove_file(&path);
                        return Err(error);
                    }
                    fs::write(self.dir.join(LAST), addr.to_string())?;
                    return Ok(addr);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("no address is free in {}", self.range)))
    }

    /// The addresses an owner has.
    pub fn of(&self, owner: &str) -> io::Result<Vec<IpAddr>> {
        let mut held = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(addr) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // Gone meanwhile is nobody's.
            if fs::read(entry.path()).is_ok_and(|of| of == owner.as_bytes()) {
                held.push(addr);
            }
        }
        Ok(held)
    }

    /// Frees what an owner has; nothing is fine too.
    pub fn free(&self, owner: &str) -> io::Result<()> {
        for addr in self.of(owner)? {
            match fs::remove_file(self.dir.join(addr.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
