//! Protobuf bodies (`application/vnd.kubernetes.protobuf`) of built-in kinds
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>).
//!
//! * [`table`] – messages and fields, read off upstream's definitions by `xtask protobuf`.
//! * [`mod@decode`] – a body becomes JSON.  [`mod@encode`] – JSON becomes a body, a list, a watch event.
//! * [`unset`] – what a client sent with a zero value that Go does not tell from an absent one.
//!
//! Both directions are driven by the table; nothing here knows a kind. Go writes zero values of
//! fields that are no pointers, and JSON leaves them out, or not: the table says which.

mod decode;
mod encode;
mod table;
#[cfg(test)]
mod tests;
mod unset;

pub use decode::decode;
pub use encode::{Kind, watch_frame};
pub use unset::{Unset, drop_unset, put_unset};

/// What a body begins with; the envelope follows.
const MAGIC: &[u8] = b"k8s\0";

#[cfg(test)]
mod fuzz_tests;
