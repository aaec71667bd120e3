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
    /// Show the kinds of providers there are, and those of a file: where their keys come from, and whether these can be had now
    #[command(after_help = "Example:\n  cofferdam provider list -f cofferdam.yaml")]
    List {
        /// The sandbox's file [default: cofferdam.yaml, where there is one]
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for model servers on this machine and for keys in the environment, and print the lines for cofferdam.yaml
    #[command(after_help = "Example:\n  cofferdam provider detect")]
    Detect {
        /// Look at these ports instead of the known ones
        #[arg(long, value_name = "PORT", hide = true)]
        port: Vec<u16>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask each provider of a file for its models, with its key; exit 1 if one doesn't answer as it should
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
    /// Only these
    #[arg(value_name = "PROVIDER")]
    pub providers: Vec<String>,
    /// Have this model say a word, instead of asking which there are: a provider may charge for that
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How long a provider may take, 1h at most
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
    /// An agent that cofferdam knows
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    #[arg(help = format!("An agent that cofferdam knows: {}", agents::names()))]
    pub agent: Option<String>,
    /// Where the agent is a single file that no sandbox shows, such as in your home: show that file inside, read-only
    #[arg(long, requires = "agent")]
    pub show_program: bool,
    /// Add a built-in preset's network entries (repeatable)
    #[arg(long, value_name = "NAME")]
    pub preset: Vec<String>,
    /// Where models are: `detect` (the default), `none`, or a provider with where its key is: env:NAME, file:/PATH, systemd:NAME (repeatable)
    #[arg(long, value_name = "detect|none|KIND=URL[,CREDENTIAL]")]
    pub provider: Vec<String>,
    /// The model that the agent's requests go to [default: the one that the agent names]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Directory mounted at /sandbox, made if it isn't there [default: the sandbox's own, under the state directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// The file to write
    #[arg(short = 'f', long, value_name = "FILE", default_value = "cofferdam.yaml")]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub file: PathBuf,
    /// Have the file take the place of one that is there; nothing else is ever written over
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Any other agent: its command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
