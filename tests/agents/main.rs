//! The agents that cofferdam is for, unmodified from their registries and headless: each takes turns with tool calls
//! through `inference.local`, and what its tools must not reach is refused, on record, while it goes on ([`walk`]).
//!
//! What an agent needs of its own is in [`agents`], a function each; nothing of cofferdam's is adapted to any of them. An agent
//! that isn't installed is skipped aloud.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod agents;
#[path = "../common/mod.rs"]
mod common;
mod walk;

use std::path::Path;
use std::process::ExitCode;

use agents::*;
use common::COFFERDAM;

fn main() -> ExitCode {
    bed::harness::main(
        "agents",
        Path::new(COFFERDAM),
        bed::cases![pi, claude_code, codex, opencode, hermes, openclaw],
    )
}
