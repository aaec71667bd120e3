//! cofferdam.
fn main() {}
