//! Processes that an ended agent left behind and that fork as fast as they are killed.

use crate::bed::{Cage, Mode, PATIENCE, null, plan, spec, workspace};
use agent::protocol::{ExitStatus, ProcessState, Request};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

pub const CASES: &[crate::Case] = &[
    ("hoppers_are_gone_when_they_are_said_to_be", hoppers_are_gone_when_they_are_said_to_be),
    ("hoppers_cost_no_other_agent_anything", hoppers_cost_no_other_agent_anything),
];

/// At once; after a millisecond each; in a session of their own each; with limits lowered; with a first
/// thread that has ended; two for each.
const KINDS: [&str; 6] = ["h", "n", "s", "m", "l", "b"];
/// So long may a crowd keep an init from the processors that is an ordinary user's, and has its one share of
/// them.
const STARVED: Duration = Duration::from_secs(600);
const MANY: &str = "20";

fn hoppers_are_gone_when_they_are_said_to_be(mode: Mode) {
    attack(mode, |_| {}, |_| {});
}

/// Another one runs, so that not everybody can be killed; it has processes that descend from it, and one that
/// is a child of init's.
fn hoppers_cost_no_other_agent_anything(mode: Mode) {
    let others = "setsid sleep 2001 & (sleep 2002 & exit 0); sleep 2003; true";
    let run = |cage: &Cage| cage.sh("grep -lzx '200[123]' /proc/[0-9]*/cmdline 2>/dev/null | wc -l");
    attack(
        mode,
        |cage| {
            cage.spawn_silent("other", &["bash", "-c", others]).expect("spawn");
            let deadline = Instant::now() + PATIENCE;
            while run(cage) != "3" {
                assert!(Instant::now() < deadline, "they never begin");
            }
        },
        |cage| assert_eq!(run(cage), "3"),
    );
}

fn attack(mode: Mode, before: impl Fn(&Cage), after: impl Fn(&Cage)) {
    let dir = workspace(mode);
    let source = dir.path().join("hopper.c");
    std::fs::write(&source, include_str!("hopper.c")).expect("write");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-pthread", "-o"]).args([&dir.path().join("hopper"), &source]);
    let built = match compiler.status() {
        Err(error) => return eprintln!("SKIPPED: no cc: {error}"),
        Ok(status) => status,
    };
    assert!(built.success());
    for kind in KINDS {
        let mut plan = plan(mode, dir.path());
        // A crowd that fills it leaves init its share of the processor and no more, which for five hundred on
        // two lasts.
        plan.limits.nproc = 128;
        let cage = Cage::with(&plan);
        before(&cage);
        let (out, theirs) = nix::unistd::pipe().expect("pipe");
        let argv = ["/sandbox/hopper", kind, MANY];
        let begun = cage.spawn("a", &spec("a", &argv), [null(), theirs, null()]).expect("spawn");
        assert_eq!(cage.wait(begun.process), ExitStatus::Code(7), "{kind}");
        assert!(!is_at_its_end(&out), "{kind}: they are there");
        cage.ask_within(Request::KillStrays { agent: "a".into() }, &[], STARVED).expect(kind);
        assert!(is_at_its_end(&out), "{kind}: some are there still");
        after(&cage);
        let again = cage.spawn_silent("a", &["true"]).expect("spawn");
        assert_eq!(cage.wait(again.process), ExitStatus::Code(0));
        let agent::protocol::Answer::Processes(rows) = cage.ask(Request::List).expect("list") else {
            panic!("no list")
        };
        let ended: Vec<_> = rows.iter().filter(|row| row.state != ProcessState::Running).collect();
        assert!(ended.iter().all(|row| row.agent == "a"), "{kind}: {ended:?}");
    }
}

/// Nobody has its other end open: told at once, without waiting.
fn is_at_its_end(pipe: impl AsFd) -> bool {
    let mut list = [nix::poll::PollFd::new(pipe.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut list, nix::poll::PollTimeout::ZERO).expect("poll") == 1
}
