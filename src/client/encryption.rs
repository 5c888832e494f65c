//! What `sampan secrets-encrypt` and a server say to each other.

use serde::{Deserialize, Serialize};

/// What the paths begin with.
pub const PATH: &str = "/v1-sampan/encrypt/";
/// Where a server answers with a [`Status`].
pub const STATUS_PATH: &str = "/v1-sampan/encrypt/status";
/// Where a server takes a [`Change`] and answers, when it is done, with a [`Status`].
pub const CONFIG_PATH: &str = "/v1-sampan/encrypt/config";

/// How stored values are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether new values are encrypted.
    pub enabled: bool,
    /// Whether values may still be encrypted with a key that is on its way out.
    pub changing: bool,
    /// The resources that are encrypted.
    pub resources: Vec<String>,
    /// The keys.
    pub keys: Vec<KeyStatus>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Its name.
    pub name: String,
    /// Whether it is the one that encrypts.
    pub active: bool,
}

/// What is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A new key; everything is encrypted again and the old key dropped.
    RotateKeys,
    /// Everything is encrypted.
    Enable,
    /// Everything is decrypted.
    Disable,
}
