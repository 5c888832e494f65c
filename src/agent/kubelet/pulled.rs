//! Who may use an image that is here because somebody pulled it with credentials: only pods that
//! have these, or that pull it themselves. Images that no pull of ours brought are everybody's.
//!
//! Upstream: `pkg/kubelet/images/pullmanager`, with its default policy `NeverVerifyPreloadedImages`.
//! Credentials are compared by their hash alone: one that was renewed pulls again, which is cheap.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::cri::v1::AuthConfig;
use crate::images::oci::digest;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// A pull without credentials succeeded.
    everyone: bool,
    /// Hashes of the credentials with which a pull succeeded.
    credentials: BTreeSet<String>,
}

/// By image id and repository: credentials are good for one place. What is public anywhere is public.
type Records = BTreeMap<String, BTreeMap<String, Access>>;

/// See the module.
#[derive(Debug)]
pub struct Pulled {
    file: PathBuf,
    records: Mutex<Records>,
}

/// An image's name without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    match name.rfind(':') {
        Some(i) if !name[i..].contains('/') => &name[..i],
        _ => name,
    }
}

fn hash(c: &AuthConfig) -> String {
    digest([c.username.as_str(), &c.password, &c.auth, &c.identity_token].join("\0").as_bytes())
}

impl Pulled {
    /// What earlier agents wrote down.
    pub fn open(file: PathBuf) -> Pulled {
        let records = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|e| {
                tracing::error!(file = %file.display(), error = %e, "who pulled which image is not known any more");
                Records::new()
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Records::new(),
            Err(e) => {
                tracing::error!(file = %file.display(), error = %e, "who pulled which image cannot be read");
                Records::new()
            }
        };
        Pulled { file, records: Mutex::new(records) }
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether every pod may use an image that is here.
    pub fn is_everyones(&self, id: &str) -> bool {
        self.lock().get(id).is_none_or(|by| by.values().any(|a| a.everyone))
    }

    /// Whether a pod with these credentials for the image may.
    pub fn may_use(&self, id: &str, image: &str, credentials: &[AuthConfig]) -> bool {
        self.is_everyones(id)
            || self
                .lock()
                .get(id)
                .and_then(|by| by.get(repository(image)))
                .is_some_and(|a| credentials.iter().any(|c| a.credentials.contains(&hash(c))))
    }

    /// Notes that an image was pulled; `names` are all that it has here by now.
    pub fn note(&self, id: &str, image: &str, with: Option<&AuthConfig>, names: &[String]) {
        let mut records = self.lock();
        // It was here before under another name, from a file: as public as it was.
        let was_here = !records.contains_key(id) && names.iter().any(|n| repository(n) != repository(image));
        let with = with.filter(|_| !was_here);
        let access = records.entry(id.to_owned()).or_default().entry(repository(image).to_owned()).or_default();
        let before = access.clone();
        match with {
            None => access.everyone = true,
            Some(c) => {
                access.credentials.insert(hash(c));
            }
        }
        if *access != before
            && let Err(e) = write(&self.file, &records)
        {
            tracing::error!(file = %self.file.display(), error = %e, "who pulled an image was not written down");
        }
    }
}

fn write(file: &Path, records: &Records) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    let mut f = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    f.write_all(&serde_json::to_vec(records)?)?;
    f.sync_all()?;
    std::fs::rename(fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(password: &str) -> AuthConfig {
        AuthConfig { username: "u".into(), password: password.into(), ..Default::default() }
    }

    #[test]
    fn a_private_image_is_for_those_who_could_pull_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pulled.json");
        let pulled = Pulled::open(file.clone());
        assert!(pulled.may_use("sha256:1", "r.example/a:1", &[]), "it was here before");
        pulled.note("sha256:1", "r.example/a:1", Some(&auth("p")), &["r.example/a:1".into()]);
        assert!(!pulled.may_use("sha256:1", "r.example/a:2", &[]));
        assert!(!pulled.may_use("sha256:1", "r.example/a:1", &[auth("x")]));
        assert!(pulled.may_use("sha256:1", "r.example/a:2", &[auth("x"), auth("p")]));
        assert!(!pulled.may_use("sha256:1", "other.example/a:1", &[auth("p")]), "meant for another registry");
        let again = Pulled::open(file.clone());
        assert!(again.may_use("sha256:1", "r.example/a:1", &[auth("p")]), "kept over restarts");
        again.note("sha256:1", "r.example/a:1", None, &[]);
        assert!(Pulled::open(file).is_everyones("sha256:1"), "it has become public");
    }

    #[test]
    fn an_image_from_a_file_stays_everybodys_when_it_is_pulled_too() {
        let dir = tempfile::tempdir().unwrap();
        let pulled = Pulled::open(dir.path().join("pulled.json"));
        let names = ["docker.io/library/a:1".to_owned(), "r.example/a:1".to_owned()];
        pulled.note("sha256:1", "r.example/a:1", Some(&auth("p")), &names);
        assert!(pulled.may_use("sha256:1", "docker.io/library/a:1", &[]));
    }

    #[test]
    fn a_repository_is_a_name_without_tag_and_digest() {
        for name in ["h:5000/a/b", "h:5000/a/b:1", "h:5000/a/b@sha256:0", "h:5000/a/b:1@sha256:0"] {
            assert_eq!(repository(name), "h:5000/a/b");
        }
    }
}
