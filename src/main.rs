//! The `ringcast` program.
fn main() {}
