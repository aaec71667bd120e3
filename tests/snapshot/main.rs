//! `cofferdam snapshot` and `cofferdam restore`: put what a sandbox keeps between runs into one file and
//! back, safely even for hostile workspaces and hostile files.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod attacks;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod forge;
mod hostile;
mod killed;
mod round;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::Mode;

use common::COFFERDAM;
use files::*;
use hostile::*;
use killed::*;
use round::*;

fn main() -> ExitCode {
    bed::harness::main(
        "snapshot",
        Path::new(COFFERDAM),
        bed::cases![
            a_round_trip_gives_the_same_tree,
            what_has_no_place_in_a_file_is_left_out_aloud,
            approvals_for_good_come_only_by_the_operators_word,
            the_record_of_before_is_put_aside_and_counts_go_on,
            a_workspace_elsewhere_is_taken_in_where_it_is_named,
            a_file_of_roots_is_an_ordinary_users_sandbox_too.only(Mode::Rooted),
            what_is_there_is_never_written_over,
            more_than_may_be_is_refused,
            a_running_sandbox_is_refused_and_a_snapshot_holds_the_name,
            links_lead_nowhere_while_they_are_exchanged,
            roots_own_files_are_not_read_for_the_agent.only(Mode::Rooted),
            a_named_workspace_is_read_as_its_owner.only(Mode::Rooted),
            what_may_not_be_looked_into_is_counted.only(Mode::Rooted),
            a_snapshot_lies_where_no_agent_writes,
            a_directory_with_state_in_it_is_no_workspace,
            what_an_earlier_restore_left_refuses_no_later_one.only(Mode::Rootless),
            counts_of_budgets_are_judged_and_nobody_elses.only(Mode::Rooted),
            approvals_are_shown_whole_and_what_they_open_first.only(Mode::Rootless),
            every_entry_counts.only(Mode::Rootless),
            hostile_files_make_nothing.only(Mode::Rootless),
            a_hostile_file_writes_nothing_elsewhere_as_root.only(Mode::Rooted),
            every_changed_byte_is_noticed.only(Mode::Rootless),
            a_killed_snapshot_leaves_no_file,
            a_killed_restore_leaves_nothing_that_is_used,
            an_interrupted_one_leaves_nothing,
        ],
    )
}

/// Makes a stopped sandbox whose agent has run this script in its own workspace.
fn sandbox(stage: &Stage, name: &str, script: &str) -> Result<()> {
    stage.run(&["--name", name], &["sh", "-c", script])?.expect_code(0)?;
    Ok(())
}

/// A sandbox's own workspace.
fn own(stage: &Stage, name: &str) -> PathBuf {
    stage.state().join(name).join("workspace")
}

/// A file of the case's.
fn file(stage: &Stage, name: &str) -> (PathBuf, String) {
    let path = stage.dir().join(name);
    let text = path.display().to_string();
    (path, text)
}

/// Checks that a restore has left nothing.
fn nothing_came(stage: &Stage, name: &str) -> Result<()> {
    ensure!(!stage.state().join(name).exists(), "{name} is there");
    let left: Vec<_> = std::fs::read_dir(stage.state().join(".restoring"))
        .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
        .unwrap_or_default();
    ensure!(left.is_empty() || left == [".lock"], "left behind: {left:?}");
    Ok(())
}
