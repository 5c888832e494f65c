//! The sampan executable.
fn main() {}
