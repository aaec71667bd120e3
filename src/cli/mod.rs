//! The command line: parses, dispatches, turns the outcome into an exit code. One file per command, or per
//! group of small ones (`live`, `snapshot`).

mod approvals;
pub mod args;
mod ask;
mod audit;
mod described;
mod doctor;
mod exec;
mod identity;
mod keys;
mod live;
mod logs;
mod onboard;
mod parts;
mod policy;
pub mod provider;
mod ps;
mod redact;
mod rm;
mod run;
mod signals;
mod snapshot;
#[cfg(feature = "term")]
mod term;
mod up;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, Parser};

use crate::console::{fault, speak};
use crate::failure::{Failure, Outcome, REFUSED};
use crate::state::Root;
use args::{Cli, Command, RunArgs, UpArgs};

/// Runs the command that was typed. Returns the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if is_misuse(&error) {
                fault(&misuse(&error, std::env::args_os()));
                return REFUSED;
            }
            // `--help` and `--version` arrive here too, and are no failure.
            let code = if error.use_stderr() { REFUSED } else { 0 };
            return match error.print() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    fault(&format!("the help can't be written: {error}"));
                    REFUSED
                }
                _ => code,
            };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                fault(&message);
            }
            code
        }
    }
}

/// Whether something was typed that makes no sense. If nothing was typed, the help is shown instead.
fn is_misuse(error: &clap::Error) -> bool {
    error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Returns the error as one line, with the command that shows more help.
fn misuse(error: &clap::Error, typed: impl IntoIterator<Item = OsString>) -> String {
    let text = error.render().to_string();
    let what = text.split("\nUsage: ").next().unwrap_or(&text);
    let what: Vec<&str> = what.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let what = what.join(" ").replace(" tip: ", "; ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let what = what.split(" For more information").next().unwrap_or(what);
    format!("{what}; see `{} --help`", command_of(typed))
}

/// Returns which command was meant, as far as it can be understood. Not every error names it.
fn command_of(typed: impl IntoIterator<Item = OsString>) -> String {
    let lenient = Cli::command().ignore_errors(true).disable_help_flag(true).disable_version_flag(true);
    let read = lenient.try_get_matches_from(typed);
    let mut command = "cofferdam".to_owned();
    let mut at = read.as_ref().ok().and_then(ArgMatches::subcommand);
    while let Some((name, below)) = at {
        command.push(' ');
        command.push_str(name);
        at = below.subcommand();
    }
    command
}

fn dispatch(cli: Cli) -> Outcome {
    // Set before anything can fail.
    if let Command::Run(RunArgs { start, .. }) | Command::Up(UpArgs { start, .. }) = &cli.command {
        speak(start.log_format);
    }
    let place = Place(cli.state);
    match cli.command {
        Command::Run(args) => run::run(&place.root()?, args),
        Command::Up(args) => up::up(&place.root()?, &args),
        Command::Exec(args) => exec::exec(&place.root()?, args),
        Command::Ps(args) => ps::ps(&place.root()?, &args),
        Command::Status(args) => live::status(&place.root()?, &args),
        Command::Tree(args) => live::tree(&place.root()?, &args),
        Command::Logs(args) => logs::logs(&place.root()?, &args),
        Command::Stop(args) => live::stop(&place.root()?, &args),
        Command::Rm(args) => rm::rm(&place.root()?, &args),
        Command::Restart(args) => live::restart(&place.root()?, &args),
        Command::Crash(args) => live::crash(&place.root()?, &args),
        Command::Identity(command) => identity::identity(&place.root()?, command),
        Command::Approvals(command) => approvals::approvals(&place.root()?, command),
        Command::Policy(command) => policy::policy(&place, command),
        Command::Redact(args) => redact::redact(&args),
        Command::Audit(command) => audit::audit(&place, &command),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Snapshot(args) => snapshot::snapshot(&place.root()?, &args),
        Command::Restore(args) => snapshot::restore(&place, &args),
        Command::Demo(args) => crate::demo::demo(args.keep),
        Command::Provider(command) => provider::provider(&command),
        Command::Onboard(args) => onboard::onboard(&place, &args),
        #[cfg(feature = "term")]
        Command::Term(args) => term::term(&place.root()?, &args),
        #[cfg(not(feature = "term"))]
        Command::Term(_) => Err(Failure::refused(
            "this cofferdam was built without its terminal UI: build it with `cargo build --release`, without `--no-default-features`, \
             or with `--features term`",
        )),
    }
}

/// The `--state` option. The state directory is located only when a command needs it: commands that use none
/// also work for a user who has none, such as a build machine's user without a home.
struct Place(Option<PathBuf>);

impl Place {
    fn root(&self) -> Result<Root, Failure> {
        Root::locate(self.0.as_deref())
    }
}

/// Runs a future to completion on this thread. For commands that talk to a running sandbox.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_misuse_leads_to_the_help_of_its_command() {
        for (typed, help) in [
            ("run --restart sometimes -- true", "cofferdam run"),
            ("--state up run --restart sometimes --help", "cofferdam run"),
            ("run --no-such-option -- true", "cofferdam run"),
            ("run --restart", "cofferdam run"),
            ("up --enforcement lax", "cofferdam up"),
            ("stop assistant --grace soon", "cofferdam stop"),
            ("stop", "cofferdam stop"),
            ("policy explain --binary", "cofferdam policy explain"),
            ("policy frobnicate", "cofferdam policy"),
            ("frobnicate", "cofferdam"),
        ] {
            let typed: Vec<OsString> =
                std::iter::once("cofferdam").chain(typed.split(' ')).map(OsString::from).collect();
            let error = Cli::try_parse_from(&typed).unwrap_err();
            assert!(is_misuse(&error), "{typed:?}");
            let said = misuse(&error, typed.clone());
            assert!(said.ends_with(&format!("; see `{help} --help`")), "{typed:?}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
