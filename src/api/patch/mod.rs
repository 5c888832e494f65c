//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

#[cfg(test)]
mod fuzz_tests;
