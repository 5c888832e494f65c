//! The structural schema types of built-in kinds (and later of custom resources).

/// A handle on one schema type; cheap to clone.
#[derive(Clone, Debug)]
pub struct TypeRef {}
