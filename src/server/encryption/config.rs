//! The file with the keys: upstream's `EncryptionConfiguration`
//! (<https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/>) with one entry and the
//! providers `aesgcm` and `identity`. The provider that stands first writes, and its first key;
//! all keys read.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::private_file;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Error;

/// The name of the file in the directory of the server's credentials.
pub const FILE: &str = "encryption-config.json";
const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";

/// A key as the file has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedKey {
    pub(super) name: String,
    pub(super) secret: String,
}

impl NamedKey {
    fn fresh() -> NamedKey {
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let name = format!("aesgcmkey-{now}-{:04x}", rand::random::<u16>());
        NamedKey { name, secret: BASE64_STANDARD.encode(rand::random::<[u8; 32]>()) }
    }
}

/// What the file says.
#[derive(Clone)]
pub(super) struct Config {
    /// The resources whose values are sealed, as `secrets` or `widgets.example.com`.
    pub(super) resources: Vec<String>,
    /// The first one seals.
    pub(super) keys: Vec<NamedKey>,
    /// Whether values are sealed, or only opened.
    pub(super) enabled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    kind: String,
    api_version: String,
    resources: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Provider {
    AesGcm { keys: Vec<NamedKey> },
    Identity {},
}

impl Config {
    /// Secrets, sealed with a new key.
    pub(super) fn fresh() -> Config {
        Config { resources: vec!["secrets".to_owned()], keys: vec![NamedKey::fresh()], enabled: true }
    }

    /// The same with a new key in front.
    pub(super) fn with_new_key(mut self) -> Config {
        self.keys.insert(0, NamedKey::fresh());
        self
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or says something that is not done here.
    pub(super) fn read(path: &Path) -> Result<Option<Config>, Error> {
        let Some(text) = private_file::read(path).map_err(Error::Io)? else { return Ok(None) };
        Config::parse(&text).map(Some).map_err(|what| Error::Bad { path: path.to_owned(), what })
    }

    fn parse(text: &str) -> Result<Config, String> {
        let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if file.kind != KIND || file.api_version != API_VERSION {
            return Err(format!("it is no {KIND} of {API_VERSION}"));
        }
        let Ok([entry]) = <[Entry; 1]>::try_from(file.resources) else {
            return Err("it must have one entry in resources".to_owned());
        };
        let (enabled, keys) = match <[Provider; 2]>::try_from(entry.providers) {
            Ok([Provider::AesGcm { keys }, Provider::Identity {}]) => (true, keys),
            Ok([Provider::Identity {}, Provider::AesGcm { keys }]) => (false, keys),
            _ => return Err("its providers must be aesgcm and identity".to_owned()),
        };
        if keys.is_empty() {
            return Err("it has no key".to_owned());
        }
        let named = |key: &NamedKey| keys.iter().filter(|k| k.name == key.name).count();
        if let Some(twice) = keys.iter().find(|k| named(k) > 1) {
            return Err(format!("it has two keys with the name {:?}", twice.name));
        }
        Ok(Config { resources: entry.resources, keys, enabled })
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let mut providers = vec![Provider::AesGcm { keys: self.keys.clone() }, Provider::Identity {}];
        if !self.enabled {
            providers.reverse();
        }
        let entry = Entry { resources: self.resources.clone(), providers };
        let file = File { kind: KIND.to_owned(), api_version: API_VERSION.to_owned(), resources: vec![entry] };
        let bad = |e: serde_json::Error| Error::Bad { path: path.to_owned(), what: e.to_string() };
        let text = serde_json::to_string_pretty(&file).map_err(bad)?;
        private_file::write(path, &(text + "\n")).map_err(Error::Io)?;
        // A key must not be lost to a power cut once something is sealed with it.
        let synced = path.parent().map_or(Ok(()), |d| std::fs::File::open(d).and_then(|d| d.sync_all()));
        synced.map_err(Error::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_upstreams_and_read_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert!(Config::read(&path).unwrap().is_none());
        for enabled in [true, false] {
            let written = Config { enabled, ..Config::fresh().with_new_key() };
            written.write(&path).unwrap();
            let read = Config::read(&path).unwrap().unwrap();
            assert!(read.keys == written.keys && read.enabled == enabled && read.resources == ["secrets"]);
        }
        let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(value["resources"][0]["providers"][0], serde_json::json!({"identity": {}}));
    }

    #[test]
    fn a_file_that_says_something_else_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let base = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":"#;
        let key = r#"{"name":"a","secret":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}"#;
        let cases = [
            "nonsense".to_owned(),
            format!("{base}[]}}"),
            format!(r#"{base}[{{"resources":["secrets"],"providers":[{{"identity":{{}}}}]}}]}}"#),
            format!(
                r#"{base}[{{"resources":["secrets"],"providers":[{{"aesgcm":{{"keys":[]}}}},{{"identity":{{}}}}]}}]}}"#
            ),
            format!(
                r#"{base}[{{"resources":["secrets"],"providers":[{{"aesgcm":{{"keys":[{key},{key}]}}}},{{"identity":{{}}}}]}}]}}"#
            ),
        ];
        for text in cases {
            std::fs::write(&path, &text).unwrap();
            let Err(error) = Config::read(&path) else { panic!("{text}") };
            assert!(error.to_string().contains(FILE), "{error}");
        }
    }
}
