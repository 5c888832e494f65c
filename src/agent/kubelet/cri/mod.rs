//! The container runtime, and the only place that talks CRI.
//!
//! * [`runtime`] – the [`Runtime`] trait and its vocabulary.
//! * [`grpc`] – CRI v1 over a socket, and containerd's event stream.
//! * [`fake`] – a runtime in memory that behaves like one; for tests.

#[cfg(test)]
pub mod fake;
pub mod grpc;
pub mod runtime;

pub use runtime::{Error, ErrorKind, ExecOutput, Runtime, RuntimeEvent, RuntimeEventKind, v1};
