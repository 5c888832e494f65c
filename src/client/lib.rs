//! How everyone but the API server itself talks to the API.
//!
//! * [`api`] – the [`Api`] trait (implemented in process by `server`),
//!   and [`Client`], the typed convenience over it.
//! * [`informer`] – list + watch with an indexed cache, shared between its users.
//! * [`workqueue`] – de-duplicating, rate-limited queue of keys.
//! * [`events`] – records Events.
//!
//! Nothing here knows a store, a controller or a kubelet.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod events;
pub mod informer;
pub mod workqueue;

pub use api::{Api, Call, Client, Event, Gvr, Kind, List, ListParams, PatchKind, Verb, Watch};
pub use events::EventRecorder;
pub use informer::{Informer, Informers};
pub use workqueue::WorkQueue;
