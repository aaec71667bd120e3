//! `provider` and `onboard`: what models are reached by, and a first configuration.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};

use crate::cli::onboard::agents;

/// `provider …`.
#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// List the kinds of providers, and the providers of a file with where their keys come from and whether
    /// these are available
    #[command(after_help = "Example:\n  cofferdam provider list -f cofferdam.yaml")]
    List {
        /// The sandbox's file [default: cofferdam.yaml, if present]
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find model servers on this machine and keys in the environment, and print the lines for cofferdam.yaml
    #[command(after_help = "Example:\n  cofferdam provider detect")]
    Detect {
        /// Probe these ports instead of the well-known ones
        #[arg(long, value_name = "PORT", hide = true)]
        port: Vec<u16>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask each provider of a file for its models, using its key; exit 1 if any fails
    #[command(after_help = "Examples:\n  cofferdam provider test\n  \
        cofferdam provider test -f cofferdam.yaml nvidia --model meta/llama-3.3-70b-instruct")]
    Test(ProviderTestArgs),
}

/// `provider test`.
#[derive(Debug, Args)]
pub struct ProviderTestArgs {
    /// The sandbox's file
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "cofferdam.yaml")]
    pub file: PathBuf,
    /// Test only these
    #[arg(value_name = "PROVIDER")]
    pub providers: Vec<String>,
    /// Send this model a short request instead of listing models (the provider may charge for it)
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How long to wait for each provider, at most 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = patience)]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The longest that a provider may be waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

fn patience(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(span) if span > LONGEST_WAIT => Err("at most 1h".into()),
        Ok(span) if span.is_zero() => Err("more than 0s".into()),
        Ok(span) => Ok(span),
        Err(error) => Err(error.to_string()),
    }
}

/// `onboard`.
#[derive(Debug, Args)]
pub struct OnboardArgs {
    /// Don't prompt; use defaults for whatever isn't given
    #[arg(long)]
    pub non_interactive: bool,
    /// The sandbox's name [default: the agent's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A known agent
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    #[arg(help = format!("A known agent: {}", agents::names()))]
    pub agent: Option<String>,
    /// If the agent is a single file that sandboxes don't show (in your home, say), show it inside, read-only
    #[arg(long, requires = "agent")]
    pub show_program: bool,
    /// Add a built-in preset's network entries (repeatable)
    #[arg(long, value_name = "NAME")]
    pub preset: Vec<String>,
    /// Model providers: `detect` (the default), `none`, or a provider and the source of its key: env:NAME,
    /// file:/PATH, systemd:NAME (repeatable)
    #[arg(long, value_name = "detect|none|KIND=URL[,CREDENTIAL]")]
    pub provider: Vec<String>,
    /// The model for the agent's requests [default: the one that the agent asks for]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Directory mounted at /sandbox, created if missing [default: the sandbox's own, under the state
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// The file to write
    #[arg(short = 'f', long, value_name = "FILE", default_value = "cofferdam.yaml")]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub file: PathBuf,
    /// Overwrite the file if it exists; no other file is ever overwritten
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The command and arguments of any other agent
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
