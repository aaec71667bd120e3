//! The command line: parse, dispatch, turn the outcome into an exit code. One file a command.

pub mod args;
mod audit;
mod cage;
mod doctor;
mod environment;
mod exec;
pub mod given;
mod identity;
pub mod ids;
mod kept;
mod live;
mod logs;
mod other_root;
pub mod out;
mod outside;
mod overlay;
mod pairs;
pub mod places;
pub mod policies;
mod policy;
mod ps;
pub mod reach;
mod redact;
mod run;
mod secrets;
pub mod site;
mod sockets;
mod start;
mod up;
mod way_out;
mod workspace;

use std::io;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use out::{Failure, Outcome, REFUSED, say};

use crate::state::Root;

/// Runs the command that was typed, and gives the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if is_misuse(&error) {
                say(&misuse(&error));
                return REFUSED;
            }
            let _ = error.print();
            // `--help` and `--version` arrive here too, and are no failure.
            return if error.use_stderr() { REFUSED } else { 0 };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                say(&message);
            }
            code
        }
    }
}

/// What was typed makes no sense, and it isn't that nothing was.
fn is_misuse(error: &clap::Error) -> bool {
    error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// It in one line, with where to read on.
fn misuse(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let (what, rest) = text.split_once("\nUsage: ").unwrap_or((&text, ""));
    let what: Vec<&str> = what.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let what = what.join(" ").replace(" tip: ", "; ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let what = what.split(" For more information").next().unwrap_or(what);
    let command: Vec<&str> = rest
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'))
        .collect();
    let command = if command.is_empty() { "cofferdam".to_owned() } else { command.join(" ") };
    format!("{what}; see `{command} --help`")
}

fn dispatch(cli: Cli) -> Outcome {
    let root = Root::locate(cli.state.as_deref())?;
    match cli.command {
        Command::Run(args) => run::run(&root, args),
        Command::Up(args) => up::up(&root, &args),
        Command::Exec(args) => exec::exec(&root, args),
        Command::Ps(args) => ps::ps(&root, &args),
        Command::Status(args) => live::status(&root, &args),
        Command::Tree(args) => live::tree(&root, &args),
        Command::Logs(args) => logs::logs(&root, &args),
        Command::Stop(args) => live::stop(&root, &args),
        Command::Restart(args) => live::restart(&root, &args),
        Command::Crash(args) => live::crash(&root, &args),
        Command::Identity(command) => identity::identity(&root, command),
        Command::Policy(command) => policy::policy(&root, command),
        Command::Redact(args) => redact::redact(&args),
        Command::Audit(command) => audit::audit(&root, &command),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Demo(args) => crate::demo::demo(&args),
    }
}

/// Runs a piece of asynchronous work to its end, on this thread. For commands that talk to a running sandbox.
fn wait_for<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e: io::Error| Failure::refused(e.to_string()))?;
    let result = runtime.block_on(work);
    // A thread that still blocks in reading standard input must not hold up the end.
    runtime.shutdown_background();
    result
}
