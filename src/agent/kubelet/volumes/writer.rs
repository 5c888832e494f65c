//! Writes a volume's files so that a reader sees either all of the old or all of the new ones:
//! a fresh folder `..<time>` is filled, and the link `..data` is moved to it in one step; the
//! visible names are links into `..data`. Upstream: `pkg/volume/util/atomic_writer.go`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, where it is not root.
    pub uid: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

const DATA: &str = "..data";

fn is_safe(path: &str) -> bool {
    let p = Path::new(path);
    !path.is_empty() && !path.starts_with("..") && p.components().all(|c| matches!(c, Component::Normal(_)))
}

/// Whether a folder holds just these files.
fn same(dir: &Path, files: &Files) -> bool {
    fn count(dir: &Path) -> usize {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 })
            .sum()
    }
    dir.is_dir()
        && count(dir) == files.len()
        && files.iter().all(|(name, f)| {
            let path = dir.join(name);
            std::fs::read(&path).is_ok_and(|d| d == f.data)
        })
}

fn fill(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    for (name, f) in files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, &f.data)?;
        // Not by the open mode, which the umask would change.
        file.set_permissions(std::fs::Permissions::from_mode(f.mode))?;
        if f.uid.is_some() {
            std::os::unix::fs::lchown(&path, f.uid, None)?;
        }
    }
    if let Some(gid) = group {
        own(dir, gid, files)?;
    }
    Ok(())
}

/// The group may read what the owner may read.
fn own(dir: &Path, gid: u32, files: &Files) -> io::Result<()> {
    std::os::unix::fs::lchown(dir, None, Some(gid))?;
    for (name, f) in files {
        let path = dir.join(name);
        std::os::unix::fs::lchown(&path, None, Some(gid))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(f.mode | 0o040))?;
        let mut parent = path.parent();
        while let Some(p) = parent.filter(|p| *p != dir) {
            std::os::unix::fs::lchown(p, None, Some(gid))?;
            parent = p.parent();
        }
    }
    Ok(())
}

/// Makes `target` hold just these files; gives whether anything changed.
///
/// # Errors
/// When a path leads outside of the volume, or the disk refuses.
pub fn write(target: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    if let Some(bad) = files.keys().find(|p| !is_safe(p)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {bad:?} in a volume")));
    }
    std::fs::create_dir_all(target)?;
    let data = target.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&target.join(old), files)
    {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now();
    let name = format!("..{}.{}", stamp.strftime("%Y_%m_%d_%H_%M_%S"), stamp.as_nanosecond() % 1_000_000_000);
    fill(&target.join(&name), files, group)?;
    let fresh = target.join("..data_tmp");
    let _ = std::fs::remove_file(&fresh);
    symlink(&name, &fresh)?;
    std::fs::rename(&fresh, &data)?;
    let wanted: std::collections::BTreeSet<PathBuf> =
        files.keys().filter_map(|p| Path::new(p).components().next().map(|c| PathBuf::from(c.as_os_str()))).collect();
    for top in &wanted {
        let link = target.join(top);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    for entry in std::fs::read_dir(target)? {
        let entry = entry?;
        let own = PathBuf::from(entry.file_name());
        if !own.to_string_lossy().starts_with("..") && !wanted.contains(&own) {
            std::fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        std::fs::remove_dir_all(target.join(old))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), File { data: v.as_bytes().to_vec(), mode: 0o644, uid: None }))
            .collect()
    }

    #[test]
    fn files_are_links_into_one_folder_that_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let v = dir.path().join("v");
        assert!(write(&v, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(v.join("sub/b")).unwrap(), "2");
        let first = std::fs::read_link(v.join("..data")).unwrap();
        assert!(!write(&v, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert!(write(&v, &files(&[("a", "3")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(v.join("a")).unwrap(), "3");
        assert!(!v.join("sub").exists() && std::fs::symlink_metadata(v.join("sub")).is_err());
        assert!(!v.join(first).exists());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(write(dir.path(), &files(&[(bad, "")]), None).is_err(), "{bad}");
        }
    }
}
