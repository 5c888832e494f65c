//! A data directory that is not what was written there: what a crash explains is mended,
//! anything else is told, and nothing is destroyed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::Cluster;

const COUNT: usize = 20;

/// A stopped cluster with config maps `cm-0` to `cm-19`.
fn filled() -> Cluster {
    let mut cluster = Cluster::start();
    let manifests: Vec<String> =
        (0..COUNT).map(|n| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: cm-{n}}}\n")).collect();
    cluster.apply_with(&["create", "--validate=false", "-f", "-"], &manifests.join("---\n"));
    cluster.stop();
    cluster
}

fn database(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("data/server/db")
}

/// The newest log segment.
fn segment(cluster: &Cluster) -> PathBuf {
    let entries = fs::read_dir(database(cluster)).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 0xff;
    fs::write(file, bytes).unwrap();
}

/// Every file below `directory` and its contents.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn config_maps(cluster: &Cluster) -> usize {
    cluster.kubectl(&["get", "configmaps", "-o", "name"]).lines().filter(|l| l.contains("/cm-")).count()
}

/// The server must not start; it says which file is damaged and what to do, and changes nothing.
fn refuses(cluster: &mut Cluster, file: &Path) {
    let before = logs(cluster);
    let said = cluster.run_in_vain();
    assert!(said.contains(&file.display().to_string()), "the file is not named:\n{said}");
    assert!(said.contains("is corrupt") && said.contains("Restore a backup"), "no advice:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(logs(cluster), before, "nothing is changed");
}

fn logs(cluster: &Cluster) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = contents(&database(cluster)).into_iter();
    all.filter(|(path, _)| path.parent() == Some(&database(cluster)) && !path.ends_with("LOCK")).collect()
}

#[test]
fn a_torn_write_at_the_end_of_the_log_is_cut_off() {
    let mut cluster = filled();
    let mut bytes = fs::read(segment(&cluster)).unwrap();
    let whole = bytes.len();
    // A frame of which only the first part reached the disk.
    bytes.extend_from_within(whole - 300..whole - 100);
    fs::write(segment(&cluster), bytes).unwrap();
    cluster.run();
    assert!(cluster.log().contains("cutting off a torn write"), "{}", cluster.log());
    assert_eq!(config_maps(&cluster), COUNT);
}

#[test]
fn a_damaged_log_is_told_and_left_alone() {
    let mut cluster = filled();
    let segment = segment(&cluster);
    let whole = fs::read(&segment).unwrap();
    // In the middle, in the last record, in the header; then a cut that takes whole records.
    for offset in [whole.len() / 2, whole.len() - 10, 3] {
        flip(&segment, offset);
        refuses(&mut cluster, &segment);
        fs::write(&segment, &whole).unwrap();
    }
    fs::write(&segment, &whole[..whole.len() - 2000]).unwrap();
    refuses(&mut cluster, &segment);
    fs::remove_file(&segment).unwrap();
    let directory = database(&cluster);
    refuses(&mut cluster, &directory);
    fs::write(&segment, &whole).unwrap();
    let checkpoint = directory.join("CHECKPOINT");
    let text = fs::read(&checkpoint).unwrap();
    flip(&checkpoint, text.len() / 2);
    refuses(&mut cluster, &checkpoint);
    fs::write(&checkpoint, text).unwrap();
    cluster.run();
    assert_eq!(config_maps(&cluster), COUNT, "the restored files serve again");
}

#[test]
fn a_damaged_state_is_rebuilt_from_the_log_and_kept_aside() {
    let mut cluster = filled();
    let state = database(&cluster).join("state");
    for (path, bytes) in contents(&state) {
        fs::write(path, vec![0x5a; bytes.len()]).unwrap();
    }
    let damaged = contents(&state);
    cluster.run();
    assert!(cluster.log().contains("the state is damaged"), "{}", cluster.log());
    assert_eq!(config_maps(&cluster), COUNT);
    let entries = fs::read_dir(database(&cluster)).unwrap().map(|e| e.unwrap().path());
    let aside = entries.filter(|p| p.to_string_lossy().contains("state.damaged-")).max().unwrap();
    let kept: Vec<_> = contents(&aside).into_values().collect();
    assert!(damaged.values().all(|bytes| kept.contains(bytes)), "the damaged files are kept");
}
