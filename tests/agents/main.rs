//! The agents that cofferdam is made for, unmodified from their registries and headless. Each takes turns
//! with tool calls through `inference.local`; what its tools must not reach is refused and recorded, while
//! the agent goes on ([`walk`]).
//!
//! Two of them also run as long-lived services, as their users run them: [`always`].
//!
//! What an agent needs of its own is in [`agents`], a function each. An agent that isn't installed is skipped
//! with a message. docs/agents.md has a row for each; a case compares the two.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod agents;
mod always;
#[path = "../common/mod.rs"]
mod common;
mod walk;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::Mode;

use agents::*;
use always::always_on;
use common::COFFERDAM;

/// Some of them start twice in their case, and each start takes minutes on a slow machine.
const LONGEST: Duration = Duration::from_secs(1800);

/// The cases, and their names for comparing with the page.
macro_rules! agents {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        fn main() -> ExitCode {
            bed::harness::main(
                "agents",
                Path::new(COFFERDAM),
                bed::cases![$($name.within(LONGEST)),*, the_page_has_a_row_for_each.only(Mode::Rootless)],
            )
        }
    };
}

agents![pi, claude_code, codex, opencode, hermes, openclaw, always_on];

fn the_page_has_a_row_for_each(_: &Stage) -> Result<()> {
    let page = include_str!("../../docs/agents.md");
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    ensure!(rows == NAMES, "docs/agents.md and the cases differ:\n{rows:?}\n{NAMES:?}");
    Ok(())
}
