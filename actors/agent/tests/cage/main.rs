//! The cage for real: init is cloned without a heart, programs and attacks run inside, rootless and rooted.
//!
//! Own harness: cloning wants a single-threaded process. Run as root, every case runs twice: as root, and in
//! a child of an ordinary user; run as an ordinary user, once. A case that needs what the machine lacks says
//! `SKIPPED`. Arguments: an optional part of a case's name.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test says what failed by panicking, and what it skipped aloud"
)]

extern crate cofferdam_agent as agent;

mod attacks;
mod bed;
mod bench;
mod capture;
mod evades;
mod floods;
mod holders;
mod hoppers;
mod launch;
mod lives;
mod own;
mod paths;
mod programs;
mod proof;
mod supervisors;

use bed::Mode;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A test: its name and what to run.
type Case = (&'static str, fn(Mode));

fn main() {
    if std::env::args().nth(1).as_deref() == Some(launch::PART) {
        launch::play();
    }
    if std::env::args().nth(1).as_deref() == Some(own::PART) {
        own::play();
    }
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = arguments.first().cloned().unwrap_or_default();
    let root = nix::unistd::geteuid().is_root();
    let mode = if root { Mode::Rooted } else { Mode::Rootless };
    let mut failed = run_all(mode, &wanted);
    if root {
        let user = bed::ORDINARY_USER;
        let executable = std::env::current_exe().expect("own path");
        // By an open copy: the user may not be able to walk to the target directory.
        let copy = bed::copy_for_everyone(&executable);
        let status = Command::new(copy.path().join("cage"))
            .args(&arguments)
            .uid(user)
            .gid(user)
            .current_dir("/")
            .status()
            .expect("run as an ordinary user");
        failed |= !status.success();
    }
    std::process::exit(i32::from(failed));
}

fn run_all(mode: Mode, wanted: &str) -> bool {
    let cases: Vec<Case> = [
        attacks::CASES,
        programs::CASES,
        proof::CASES,
        paths::CASES,
        lives::CASES,
        own::CASES,
        holders::CASES,
        floods::CASES,
        evades::CASES,
        hoppers::CASES,
        supervisors::CASES,
        launch::CASES,
        bench::CASES,
        capture::CASES,
    ]
    .concat();
    let mut failed = Vec::new();
    for (name, case) in cases.into_iter().filter(|(name, _)| name.contains(wanted)) {
        match std::panic::catch_unwind(|| case(mode)) {
            Ok(()) => eprintln!("test {mode:?} {name} ... ok"),
            Err(_) => {
                eprintln!("test {mode:?} {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        eprintln!("{mode:?}: {} failed: {}", failed.len(), failed.join(", "));
    }
    !failed.is_empty()
}
