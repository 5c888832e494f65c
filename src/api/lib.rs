//! What a Kubernetes object is: kinds, schemas, defaults, validation, patches, selectors, columns.
//!
//! Pure: no I/O, no async. This is the only member that knows where the typed
//! structs come from; everyone else says `api::k8s::…`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod affinity;
pub mod cel;
pub mod codec;
pub mod convert;
pub mod custom;
pub mod field;
pub mod kinds;
pub mod managed;
pub mod metadata;
pub mod names;
pub mod node_labels;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod pod_resources;
mod printed;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod registry;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod text_fuzz_tests;
pub mod time;

/// Bytes that JSON spells as base64.
pub use k8s_openapi::ByteString;
/// The typed structs of Kubernetes v1.35.
pub use k8s_openapi::api as k8s;
/// The shared meta types (`ObjectMeta`, `LabelSelector`, `Time`, `IntOrString` …).
pub use k8s_openapi::apimachinery::pkg as meta;
pub use object::labels::{LabelSet, Labels};
pub use object::{Meta, Object, OwnerRef, key_of, split_key};
pub use printed::printed;
pub use resource::{Column, Convert, Plain, Resource, Strategy, Subresource};
pub use status::Status;

/// The Kubernetes version that this build speaks.
pub const KUBERNETES_VERSION: &str = "v1.35.0";
/// What `/version` and node status report.
pub const VERSION: &str = "v1.35.0+sampan1";
