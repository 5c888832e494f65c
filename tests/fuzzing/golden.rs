//! Examples: one object of every kind, from `tests/golden`.

use std::path::Path;

/// The texts of `tests/golden/*.yaml`, seen from a room under `src/`.
pub fn yaml() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    let yaml = files.into_iter().filter(|f| f.extension().is_some_and(|e| e == "yaml"));
    yaml.filter_map(|f| std::fs::read_to_string(f).ok()).collect()
}
