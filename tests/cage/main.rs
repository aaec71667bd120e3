//! The cage from inside: every attack that must fail, each with a control that must work.
//!
//! `themes` runs the scripts of `inside/` as the agent, `native` what Python can't do, `neighbours` sets
//! agents and sandboxes on each other, `later` asks whether what `exec` starts stands under the same
//! controls, `sessions` how such a process and its client end, `works` runs what must run, and `walls` asks
//! the rest: paths, limits, what `doctor` proves.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

#[path = "../common/mod.rs"]
mod common;
mod console;
mod controls;
mod later;
mod native;
mod neighbours;
mod sessions;
mod themes;
mod verdict;
mod walls;
mod works;

use std::path::Path;
use std::process::ExitCode;

use controls::{
    a_capability_that_stays_refuses_the_start, a_kernel_without_landlock, doctor_names_the_gap_and_the_mend,
    strict_refuses_and_names_the_control,
};
use later::{
    a_slow_start_holds_up_nobody, a_stopped_client_goes_on, attacks_by_exec, attacks_on_a_terminal,
    control_c_goes_inside, job_control_works, later_processes_are_the_same, nothing_runs_unwatched,
    quick_ends_are_told, the_first_agents_terminal, the_window_is_passed_on,
};
use native::native;
use neighbours::{
    an_agent_that_eats_its_own_output, no_window_between_fork_and_exec, two_agents, two_sandboxes,
};
use sessions::{
    a_client_killed_at_the_start_leaves_nothing, a_deaf_agents_terminal_is_given_back,
    a_job_in_the_background_is_stopped, a_job_in_the_background_reads_nothing,
    a_session_ends_with_its_sandbox, a_silent_sandbox_holds_no_terminal, a_slow_reader_gets_everything,
    a_stopped_client_lends_its_terminal, a_stopped_heart_lends_its_terminal, the_terminal_is_itself_again,
    two_interrupts_end_a_deaf_agent, what_is_typed_for_the_shell_is_not_the_agents,
};
use themes::{files, kernel, privileges, processes, sockets, terminals, the_attacks_guard_themselves};
use walls::{
    a_missing_path_stops_the_start, doctor_and_status_agree, forks_are_bounded,
    the_policys_paths_are_the_only_ones, the_state_is_never_shown, the_usual_state_is_never_shown,
};
use works::{
    compiled_programs_work, git_works, go_works, java_works, node_works, package_managers_work, python_works,
    shells_work, tmux_works,
};

fn main() -> ExitCode {
    bed::harness::main(
        "cage",
        Path::new(common::COFFERDAM),
        bed::cases![
            the_attacks_guard_themselves,
            files,
            kernel,
            privileges,
            processes,
            sockets,
            terminals,
            native,
            attacks_by_exec,
            later_processes_are_the_same,
            attacks_on_a_terminal,
            the_window_is_passed_on,
            control_c_goes_inside,
            job_control_works,
            a_stopped_client_goes_on,
            nothing_runs_unwatched,
            quick_ends_are_told,
            a_slow_start_holds_up_nobody,
            a_slow_reader_gets_everything,
            a_client_killed_at_the_start_leaves_nothing,
            a_session_ends_with_its_sandbox,
            the_terminal_is_itself_again,
            a_stopped_client_lends_its_terminal,
            a_stopped_heart_lends_its_terminal,
            what_is_typed_for_the_shell_is_not_the_agents,
            a_job_in_the_background_reads_nothing,
            a_job_in_the_background_is_stopped,
            a_deaf_agents_terminal_is_given_back,
            two_interrupts_end_a_deaf_agent,
            a_silent_sandbox_holds_no_terminal,
            the_first_agents_terminal,
            the_policys_paths_are_the_only_ones,
            a_missing_path_stops_the_start,
            the_state_is_never_shown,
            the_usual_state_is_never_shown,
            forks_are_bounded,
            doctor_and_status_agree,
            two_agents,
            two_sandboxes,
            no_window_between_fork_and_exec,
            an_agent_that_eats_its_own_output,
            shells_work,
            tmux_works,
            python_works,
            node_works,
            git_works,
            compiled_programs_work,
            java_works,
            go_works,
            package_managers_work,
            strict_refuses_and_names_the_control,
            a_capability_that_stays_refuses_the_start,
            a_kernel_without_landlock,
            doctor_names_the_gap_and_the_mend,
        ],
    )
}
