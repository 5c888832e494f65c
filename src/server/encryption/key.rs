//! One key, and the form of what it seals.
//!
//! ```text
//! sealed   name length u8 | name | salt, 32 bytes | AES-256-GCM ciphertext | tag, 16 bytes
//! ```
//!
//! Every value is sealed with a key of its own, derived from the secret and a random salt
//! (HKDF-SHA256), as upstream's KMS v2 does: so no nonce is ever used twice, however many values
//! one secret seals. Authenticated along: the path of the value in the store, which keeps a sealed
//! value from passing for another, and the key's name.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};

use super::config::NamedKey;

const SECRET: usize = 32;
const SALT: usize = 32;

/// A key that can be used.
pub(super) struct Key {
    name: String,
    secret: Prk,
}

impl Key {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(key: &NamedKey) -> Result<Key, String> {
        let NamedKey { name, secret } = key;
        let bytes = BASE64_STANDARD.decode(secret).map_err(|e| format!("the secret of {name:?} is no base64: {e}"))?;
        if bytes.len() != SECRET {
            return Err(format!("the secret of {name:?} has {} bytes; it must have {SECRET}", bytes.len()));
        }
        if name.is_empty() || name.len() > usize::from(u8::MAX) {
            return Err("a key must have a name of at most 255 bytes".to_owned());
        }
        Ok(Key { name: name.clone(), secret: Prk::new_less_safe(HKDF_SHA256, &bytes) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn derived(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let info = [salt];
        let key = self.secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }

    fn authenticated(&self, path: &str) -> Aad<Vec<u8>> {
        Aad::from([path, "\0", &self.name].concat().into_bytes())
    }

    pub(super) fn seal(&self, path: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let salt: [u8; SALT] = rand::random();
        let head = 1 + self.name.len() + SALT;
        let mut sealed = Vec::with_capacity(head + plain.len() + AES_256_GCM.tag_len());
        sealed.push(self.name.len() as u8);
        sealed.extend_from_slice(self.name.as_bytes());
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(plain);
        let key = self.derived(&salt)?;
        let tag = key.seal_in_place_separate_tag(once(), self.authenticated(path), &mut sealed[head..]).ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    pub(super) fn open(&self, path: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let rest = sealed.get(1 + self.name.len()..)?;
        let (salt, ciphertext) = rest.split_at_checked(SALT)?;
        let mut opened = ciphertext.to_vec();
        let length = self.derived(salt)?.open_in_place(once(), self.authenticated(path), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

/// Each derived key seals one value, so that its nonce may be the same every time.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// The name of the key that a value was sealed with.
pub(super) fn name_of(sealed: &[u8]) -> Option<&str> {
    let (length, rest) = sealed.split_first()?;
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}
