//! Rules of the tree that no lint can say.

use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let silent: Vec<_> = files.iter().filter(|f| !std::fs::read_to_string(f).unwrap().starts_with("//!")).collect();
    assert!(silent.is_empty(), "no //! at the top of: {silent:?}");
}

#[test]
fn rooms_know_only_whom_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed: [(&str, &[&str]); 8] = [
        ("api", &[]),
        ("store", &[]),
        ("client", &["api"]),
        ("net", &["api"]),
        ("controllers", &["client", "api"]),
        ("scheduler", &["client", "api"]),
        ("agent", &["net", "client", "api"]),
        ("server", &["store", "client", "api"]),
    ];
    let rooms: Vec<&str> = allowed.iter().map(|(r, _)| *r).collect();
    for (room, may) in allowed {
        let manifest = std::fs::read_to_string(root.join("src").join(room).join("Cargo.toml")).unwrap();
        for other in &rooms {
            let uses = manifest
                .lines()
                .any(|l| l.starts_with(&format!("{other}.workspace")) || l.starts_with(&format!("{other} =")));
            assert!(!uses || may.contains(other), "{room} must not know {other}");
        }
    }
}
