//! What can be typed: the command line as data, with its help texts.
//!
//! Holds no behaviour. Each command's meaning is in the file of its name in the directory above.

mod answers;
mod policy;
mod provider;
mod snapshot;
mod start;

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

pub use answers::{AnswerArgs, ApprovalsCommand, IdentityCommand, Span};
pub use policy::{ExplainArgs, PolicyCommand, Says};
pub use provider::{OnboardArgs, ProviderCommand, ProviderTestArgs};
pub use snapshot::{ApprovalsWord, RestoreArgs, SnapshotArgs};
pub use start::{EnforcementArg, ExecArgs, RestartWhen, RunArgs, StartArgs, UpArgs, metrics_address};

/// Runs an AI agent in a sandbox that denies by default: network, filesystem, process, inference.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Examples:\n  cofferdam demo\n  cofferdam run -- bash\n  \
    cofferdam run --preset pypi --workspace . -- pip install requests\n\n\
    Exit codes: the command's own (128+n for signal n); 125 cofferdam refused or failed; \
    126 not executable; 127 not found.")]
pub struct Cli {
    /// Directory for the state of all sandboxes
    #[arg(long, global = true, value_name = "DIR", env = "COFFERDAM_STATE", hide_env_values = true)]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub state: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a first cofferdam.yaml: the agent, its models, what it may reach
    #[command(after_help = "Examples:\n  cofferdam onboard\n  \
        cofferdam onboard --non-interactive --agent hermes --preset pypi --workspace ./assistant\n  \
        cofferdam onboard --non-interactive --provider openai=https://integrate.api.nvidia.com/v1,env:NVIDIA_API_KEY -- python3 agent.py")]
    Onboard(OnboardArgs),
    /// Run one agent in a sandbox, in the foreground
    #[command(after_help = "Example:\n  cofferdam run --workspace . -- python3 agent.py\n  \
        cofferdam run --preset github --env TZ=UTC -- bash")]
    Run(RunArgs),
    /// Run a long-running sandbox from a file
    #[command(after_help = "Example:\n  cofferdam up -f cofferdam.yaml")]
    Up(UpArgs),
    /// Run another process in a running sandbox, under the same controls
    #[command(after_help = "Example:\n  cofferdam exec -it assistant -- bash")]
    Exec(ExecArgs),
    /// List the running sandboxes, or all
    #[command(after_help = "Examples:\n  cofferdam ps --json\n  cofferdam ps --all")]
    Ps(PsArgs),
    /// Show a sandbox's status: agents, policy, providers, controls
    #[command(after_help = "Example:\n  cofferdam status assistant")]
    Status(NamedJson),
    /// Show the live actor tree: state, uptime, restarts, last failure
    #[command(after_help = "Example:\n  cofferdam tree assistant")]
    Tree(NamedJson),
    /// Show the agents' output, redacted
    #[command(after_help = "Example:\n  cofferdam logs assistant -f --tail 20")]
    Logs(LogsArgs),
    /// Stop a sandbox gracefully
    #[command(after_help = "Example:\n  cofferdam stop assistant")]
    Stop(StopArgs),
    /// Remove stopped sandboxes: workspace, audit log and agents' output
    #[command(after_help = "Examples:\n  cofferdam rm assistant\n  cofferdam rm --yes curl curl-2\n\n\
        A workspace that was named (`--workspace DIR`) stays; so does what the agents wrote elsewhere.")]
    Rm(RmArgs),
    /// Restart one actor of a running sandbox
    #[command(after_help = "Example:\n  cofferdam restart assistant proxy")]
    Restart(ActorArgs),
    /// Make an actor panic (only in a sandbox started with --allow-fault-injection)
    #[command(after_help = "Example:\n  cofferdam crash assistant proxy")]
    Crash(ActorArgs),
    /// List the programs known by their content; accept an upgraded one, or forget one
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam identity list assistant\n  \
                            cofferdam identity accept assistant /sandbox/venv/bin/python3"
    )]
    Identity(IdentityCommand),
    /// Answer requests that the policy doesn't cover (`approvals: { unlisted: ask }` in cofferdam.yaml)
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam approvals list\n  cofferdam approvals approve assistant-3 --for run\n  \
                            cofferdam approvals watch assistant"
    )]
    Approvals(ApprovalsCommand),
    /// Watch a running sandbox in the terminal (actors, agents, events, metrics) and answer its requests
    #[command(after_help = "Examples:\n  cofferdam term\n  cofferdam term assistant")]
    Term(TermArgs),
    /// Check, explain, compare, show and change policies
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam policy check policy.yaml\n  \
                            cofferdam policy explain --preset github --binary /usr/bin/gh GET https://api.github.com/user"
    )]
    Policy(PolicyCommand),
    /// List, detect and test model providers
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam provider detect\n  cofferdam provider test -f cofferdam.yaml"
    )]
    Provider(ProviderCommand),
    /// Copy standard input (or a file) to standard output with secrets redacted
    #[command(after_help = "Example:\n  echo 'key: AKIAIOSFODNN7EXAMPLE' | cofferdam redact")]
    Redact(RedactArgs),
    /// Verify and show the audit log
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam audit show assistant | tail\n  \
                            cofferdam audit verify assistant"
    )]
    Audit(AuditCommand),
    /// Save a stopped sandbox to one file
    #[command(
        after_help = "Examples:\n  cofferdam stop assistant\n  cofferdam snapshot assistant assistant.cofferdam\n\n\
        It contains the workspace, permanent approvals, budget counters, the audit log and the agents' output, and never \
        credentials, policies or cofferdam.yaml. Keep the file as private as the workspace."
    )]
    Snapshot(SnapshotArgs),
    /// Create a sandbox from a snapshot
    #[command(after_help = "Examples:\n  cofferdam restore --check assistant.cofferdam\n  \
        cofferdam restore assistant.cofferdam --name second --approvals drop")]
    Restore(RestoreArgs),
    /// Show which controls this machine can enforce, by trying each one
    #[command(after_help = "Example:\n  cofferdam doctor\n  cofferdam doctor --json")]
    Doctor(JsonArgs),
    /// Take the tour: an agent tests every layer while cofferdam's parts are killed around it
    #[command(after_help = "Example:\n  cofferdam demo")]
    Demo(DemoArgs),
}

/// A listing without a name.
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// List those that don't run as well
    #[arg(short, long)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A listing about one sandbox.
#[derive(Debug, Args)]
pub struct NamedJson {
    /// The sandbox
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The sandbox
    pub name: String,
    /// Only this agent's output
    #[arg(long)]
    pub agent: Option<String>,
    /// Follow the output
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Start with the last LINES lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Print one JSON record per line
    #[arg(long)]
    pub json: bool,
    /// Print raw bytes even to a terminal (escape sequences take effect)
    #[arg(long)]
    pub raw: bool,
}

/// `term`.
#[derive(Debug, Args)]
pub struct TermArgs {
    /// The sandbox [default: the running one; with several, choose from a list]
    pub name: Option<String>,
}

/// `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// The sandbox
    pub name: String,
    /// Time between SIGTERM and SIGKILL for the agents
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: std::time::Duration,
}

/// `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The sandboxes
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `restart` and `crash`.
#[derive(Debug, Args)]
pub struct ActorArgs {
    /// The sandbox
    pub name: String,
    /// The actor, as shown by `cofferdam tree`, or an agent's name
    pub actor: String,
}

/// `redact`.
#[derive(Debug, Args)]
pub struct RedactArgs {
    /// Read this file instead of standard input (`-`)
    pub file: Option<PathBuf>,
}

/// `audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check the hash chain for changed, missing and reordered records
    #[command(after_help = "Example:\n  cofferdam audit verify assistant")]
    Verify {
        /// The sandbox, or the path of an audit.jsonl
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the records
    #[command(after_help = "Example:\n  cofferdam audit show assistant | tail")]
    Show {
        /// The sandbox, or the path of an audit.jsonl
        name: String,
        /// Print the records as stored
        #[arg(long)]
        json: bool,
    },
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the demo's state directory and print its path
    #[arg(long)]
    pub keep: bool,
}
