//! `cofferdam provider …`: what models are reached by, before any sandbox is there.
//!
//! Requests go the gateway's own road ([`gateway::probe`]) and never an agent's. A key goes to the provider
//! that it is for and nowhere else: what is printed of it is its reference.

pub mod detect;
pub mod entry;
pub mod known;
mod list;
mod owner;
mod road;
mod test;

use crate::cli::args::ProviderCommand;
use crate::failure::Outcome;

/// Runs one of the commands.
pub fn provider(command: &ProviderCommand) -> Outcome {
    match command {
        ProviderCommand::List { file, json } => list::list(file.as_deref(), *json),
        ProviderCommand::Detect { port, json } => detect::detect(port, *json),
        ProviderCommand::Test(args) => test::test(args),
    }
}
