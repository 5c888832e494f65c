//! How everyone but the API server itself talks to the API.
//!
//! * [`api`] – the [`Api`] trait (implemented in process by `server`, over TLS by [`https`]),
//!   and [`Client`], the typed convenience over it.
//! * [`wire`] – how lists and watches stand on the wire.
//! * [`tls`] – certificates that are replaced in use, and whom to trust.  [`join`] – how a machine
//!   becomes a node.  [`private_file`] – files with secrets.  [`dirwatch`] – files that change.
//! * [`informer`] – list + watch with an indexed cache, shared between its users.
//! * [`workqueue`] – de-duplicating, rate-limited queue of keys.  [`histogram`] – how times are counted.
//! * [`events`] – records Events.  [`liveness`] – whether tasks go on.
//!
//! Nothing here knows a store, a controller or a kubelet.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod dirwatch;
pub mod encryption;
pub mod events;
pub mod histogram;
pub mod https;
pub mod informer;
pub mod join;
pub mod liveness;
pub mod private_file;
pub mod tls;
pub mod wire;
pub mod workqueue;

pub use api::{Api, Call, Client, Event, Gvr, Kind, List, ListParams, PatchKind, Verb, Watch};
pub use events::EventRecorder;
pub use https::Https;
pub use informer::{Informer, Informers, Subscription};
pub use liveness::Liveness;
pub use workqueue::WorkQueue;
