//! Fuzzing of whatever reads bytes of a client: a decoder is given noise, soups of its own words and
//! damaged examples, and must neither panic nor take memory or time out of proportion.
//!
//! * [`decoder`] – the runs; [`inputs`] – what is fed; [`cost`] – what it took; [`golden`] – examples.
//!
//! A run is short, so that it can stand among the unit tests; `PROPTEST_CASES=1000000` makes it long.
//! The room's tests must count allocations: `#[global_allocator] static A: fuzzing::Counting = fuzzing::Counting;`

pub mod cost;
pub mod decoder;
pub mod golden;
pub mod inputs;

pub use cost::Counting;
pub use decoder::Decoder;
