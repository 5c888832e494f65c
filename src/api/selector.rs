//! Label and field selectors, in upstream's syntax and with upstream's messages.

mod field;
mod label;
mod parse;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};

#[cfg(test)]
mod fuzz_tests;
