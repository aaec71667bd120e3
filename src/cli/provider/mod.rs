//! `cofferdam provider …`: the providers of models, checked before there is any sandbox.
//!
//! Requests are sent as the gateway sends them ([`gateway::probe`]), never as an agent's. A key goes only to
//! the provider that it is for; only its reference is printed.

pub mod detect;
pub mod entry;
pub mod known;
mod list;
mod owner;
mod road;
mod test;

use crate::cli::args::ProviderCommand;
use crate::failure::Outcome;

/// Runs a `provider` command.
pub fn provider(command: &ProviderCommand) -> Outcome {
    // Keys may be in this process's memory.
    agent::own::no_core_files()?;
    match command {
        ProviderCommand::List { file, json } => list::list(file.as_deref(), *json),
        ProviderCommand::Detect { port, json } => detect::detect(port, *json),
        ProviderCommand::Test(args) => test::test(args),
    }
}
