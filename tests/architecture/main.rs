//! The house itself: its parts' order, what each crate needs, and what the pages say of it. Read out of the source; nothing is run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod dependencies;
mod layers;
mod pages;
