//! The API over TLS.
