//! Secrets at rest: values of chosen resources are sealed before they reach the store, so that
//! neither its log nor its state nor a copy of them shows what they hold.
//!
//! * here – the [`Keyring`]: which resources are sealed, by which key; sealing and opening.
//! * [`key`] – one key; [`config`] – the file that holds them.
//! * [`rewrite`] – what is stored otherwise than the file says is written again: the move from
//!   plain to sealed, and to a new key. [`serve`] – `sampan secrets-encrypt` over HTTP.
//!
//! Invariants: a key is durable in the file before anything is sealed with it, and leaves the file
//! only when nothing in the store is sealed with it any more. What an interrupted rotation left
//! is finished at the next start.

pub mod config;
mod key;
mod rewrite;
mod serve;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::{RwLock, RwLockReadGuard};

use self::config::Config;
use self::key::Key;

pub use self::rewrite::settle;

/// Why the keys, or a value, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written; the message names it.
    #[error("{0}")]
    Io(#[source] std::io::Error),
    /// The file does not hold what it should.
    #[error("the encryption keys in {} cannot be used: {what}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A value is sealed with a key that is not there.
    #[error(
        "{value} is sealed with the key {key:?}, which is not in {}; put the file back that has it, such as from a backup",
        path.display()
    )]
    NoKey {
        /// The path of the value in the store.
        value: String,
        /// The key's name.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A value does not open with the key that it names.
    #[error("{value} cannot be opened with the key {key:?} of {}: either is not what it was", path.display())]
    WrongKey {
        /// The path of the value in the store.
        value: String,
        /// The key's name.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A sealed value does not have the form that it should.
    #[error("{0} is sealed in an unknown form")]
    Malformed(String),
    /// The library refused to seal.
    #[error("{0} cannot be sealed")]
    Seal(String),
}

/// What is in force.
struct State {
    config: Config,
    keys: Vec<Key>,
    sealed: BTreeSet<String>,
}

impl State {
    fn new(config: Config, path: &Path) -> Result<State, Error> {
        let bad = |what| Error::Bad { path: path.to_owned(), what };
        let keys = config.keys.iter().map(Key::new).collect::<Result<_, _>>().map_err(bad)?;
        let sealed = config.resources.iter().map(|r| prefix(r)).collect();
        Ok(State { config, keys, sealed })
    }

    /// The key that values under a prefix are to be sealed with; `None` leaves them plain.
    fn writes(&self, prefix: &str) -> Option<&Key> {
        self.keys.first().filter(|_| self.config.enabled && self.sealed.contains(prefix))
    }
}

/// The key space of a resource that is named as in upstream's configuration: `secrets`,
/// `widgets.example.com`.
fn prefix(resource: &str) -> String {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, "core"));
    format!("/registry/{group}/{plural}/")
}

/// See the module.
pub struct Keyring {
    path: PathBuf,
    state: ArcSwap<State>,
    /// Held for reading from sealing a value until it is stored, for writing while the first key
    /// changes: after that nothing is on its way that is sealed with another.
    turn: RwLock<()>,
    /// Held while values are rewritten.
    rotating: tokio::sync::Mutex<()>,
    /// Key spaces with sealed values that the file does not name any more.
    left: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({})", self.path.display())
    }
}

impl Keyring {
    /// Reads the keys; without a file there is a new one, which [`Keyring::keep`] writes.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
    pub fn load(path: &Path) -> Result<Keyring, Error> {
        let config = Config::read(path)?.unwrap_or_else(Config::fresh);
        Ok(Keyring {
            path: path.to_owned(),
            state: ArcSwap::from_pointee(State::new(config, path)?),
            turn: RwLock::default(),
            rotating: tokio::sync::Mutex::default(),
            left: Mutex::default(),
        })
    }

    /// A keyring that seals nothing.
    #[cfg(test)]
    pub fn none() -> Keyring {
        let config = Config { enabled: false, ..Config::fresh() };
        Keyring {
            path: PathBuf::new(),
            state: ArcSwap::from_pointee(State::new(config, Path::new("")).unwrap()),
            turn: RwLock::default(),
            rotating: tokio::sync::Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// Writes the file when there is none: once what is stored was found to need no other key.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self) -> Result<(), Error> {
        if Config::read(&self.path)?.is_some() { Ok(()) } else { self.state.load().config.write(&self.path) }
    }

    /// Waits for a change of keys to end, and keeps the next from beginning; `None` where nothing
    /// is sealed.
    pub async fn turn(&self, prefix: &str) -> Option<RwLockReadGuard<'_, ()>> {
        if self.state.load().sealed.contains(prefix) { Some(self.turn.read().await) } else { None }
    }

    /// Seals `plain`, the value of `path` under `prefix`; `None` when it is to be stored as it is.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn seal(&self, prefix: &str, path: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let state = self.state.load();
        let Some(key) = state.writes(prefix) else { return Ok(None) };
        key.seal(path, plain).map(Some).ok_or_else(|| Error::Seal(path.to_owned()))
    }

    /// Opens what [`Keyring::seal`] made for `path`.
    ///
    /// # Errors
    /// [`Error::NoKey`], [`Error::WrongKey`], [`Error::Malformed`].
    pub fn open(&self, path: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let name = key::name_of(sealed).ok_or_else(|| Error::Malformed(path.to_owned()))?;
        let state = self.state.load();
        let Some(key) = state.keys.iter().find(|k| k.name() == name) else {
            return Err(Error::NoKey { value: path.into(), key: name.into(), path: self.path.clone() });
        };
        if let Some((prefix, _)) = split(path)
            && !state.sealed.contains(prefix)
        {
            self.left.lock().unwrap_or_else(|e| e.into_inner()).insert(prefix.to_owned());
        }
        key.open(path, sealed).ok_or_else(|| Error::WrongKey {
            value: path.into(),
            key: name.into(),
            path: self.path.clone(),
        })
    }

    /// Whether the key is there that a value was sealed with.
    pub fn knows(&self, sealed: &[u8]) -> bool {
        let state = self.state.load();
        key::name_of(sealed).is_some_and(|name| state.keys.iter().any(|k| k.name() == name))
    }

    /// Whether a value is stored otherwise than it would be now. `sealed`: what is sealed of it.
    fn is_stale(&self, prefix: &str, sealed: Option<&[u8]>) -> bool {
        let state = self.state.load();
        sealed.and_then(key::name_of) != state.writes(prefix).map(Key::name)
    }

    /// All key spaces in which something may be stored otherwise than it would be now.
    fn prefixes(&self) -> BTreeSet<String> {
        let left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        self.state.load().sealed.union(&left).cloned().collect()
    }

    fn config(&self) -> Config {
        self.state.load().config.clone()
    }

    /// Puts a configuration in force, durably first. What is on its way by the old one is stored
    /// before this returns.
    async fn change(&self, config: Config) -> Result<(), Error> {
        let state = State::new(config, &self.path)?;
        state.config.write(&self.path)?;
        let _alone = self.turn.write().await;
        self.state.store(Arc::new(state));
        Ok(())
    }
}

/// The key space and the rest of a stored value's path.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/registry/")?;
    let group = rest.find('/')?;
    let plural = rest[group + 1..].find('/')?;
    Some(path.split_at("/registry/".len() + group + 1 + plural + 1))
}

#[cfg(test)]
mod tests;
