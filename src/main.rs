//! cofferdam: one binary that runs an always-on AI agent behind four layers of deny-by-default controls.
//!
//! The same file is executed in three roles, told apart before anything else happens: the command that a
//! person types, which becomes the heart of a sandbox; the supervisor that the heart starts; and the demo's
//! agent. (The third process of a sandbox, init, is an early fork of the command: see `agent::launch`.)

mod builder;
mod built_in;
mod children;
mod cli;
mod compose;
mod config;
mod console;
mod demo;
mod failure;
mod given;
mod heart;
mod ids;
mod kept;
mod logs;
mod name;
mod plan;
mod sealed;
mod site;
mod snapshot;
mod start;
mod state;
mod steps;
mod users;
mod waits;

use std::ffi::{CStr, OsString};
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};

/// All arguments of the supervisor: its title, since anybody who sees a process sees its command line.
pub const SUPERVISOR_ROLE: &CStr = c"cofferdam: supervisor";
/// First argument of the demo's agent, inside its sandbox.
pub const DEMO_AGENT_ROLE: &CStr = c"__demo-agent";

#[cfg(not(panic = "unwind"))]
compile_error!("a panic must reach the supervisor as one actor's failure: build with panic = \"unwind\"");

/// Takes what the operator's umask(2) denies the owner out of it: we make directories that we must enter, and
/// files that we must read again. What it denies others stays denied.
fn allow_ourselves() {
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    let wanted = umask(others);
    umask(wanted & others);
}

fn main() -> ExitCode {
    steps::begin();
    allow_ourselves();
    let mut arguments = std::env::args_os();
    let (title, first) = (arguments.next(), arguments.next());
    let is = |argument: &Option<OsString>, role: &CStr| {
        argument.as_ref().is_some_and(|text| text.as_encoded_bytes() == role.to_bytes())
    };
    let code = if is(&title, SUPERVISOR_ROLE) && first.is_none() {
        compose::main()
    } else if is(&first, DEMO_AGENT_ROLE) {
        demo::agent_main()
    } else {
        cli::main()
    };
    ExitCode::from(code)
}
