//! `hostPath`: a path of the node, checked by its `type`.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

pub(crate) fn check(path: &str, kind: &str) -> Result<PathBuf, String> {
    let p = PathBuf::from(path);
    let meta = std::fs::metadata(&p);
    let is = |what: &str, ok: fn(&std::fs::Metadata) -> bool| match &meta {
        Ok(m) if ok(m) => Ok(()),
        _ => Err(format!("hostPath type check failed: {path} is not a {what}")),
    };
    match kind {
        "" => {}
        "DirectoryOrCreate" => {
            if meta.is_err() {
                std::fs::create_dir_all(&p).map_err(|e| e.to_string())?;
                std::fs::set_permissions(&p, std::fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
            } else {
                is("directory", |m| m.is_dir())?;
            }
        }
        "FileOrCreate" => {
            if meta.is_err() {
                std::fs::File::create(&p).map_err(|e| e.to_string())?;
                std::fs::set_permissions(&p, std::fs::Permissions::from_mode(0o644)).map_err(|e| e.to_string())?;
            } else {
                is("file", |m| m.is_file())?;
            }
        }
        "Directory" => is("directory", |m| m.is_dir())?,
        "File" => is("file", |m| m.is_file())?,
        "Socket" => is("socket file", |m| m.file_type().is_socket())?,
        "CharDevice" => is("character device", |m| m.file_type().is_char_device())?,
        "BlockDevice" => is("block device", |m| m.file_type().is_block_device())?,
        other => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(p)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n).to_string_lossy().into_owned();
        assert!(check(&at("d"), "Directory").unwrap_err().contains("is not a directory"));
        check(&at("d"), "DirectoryOrCreate").unwrap();
        check(&at("d"), "Directory").unwrap();
        assert!(check(&at("d"), "File").is_err());
        check(&at("f"), "FileOrCreate").unwrap();
        check("/dev/null", "CharDevice").unwrap();
    }
}
