//! What can be typed: the command line as data, with its help texts.
//!
//! Holds no behaviour. Each command's meaning is in the file of the same name beside this one.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs an AI agent in a sandbox that denies by default: network, filesystem, process, inference.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Examples:\n  cofferdam demo\n  cofferdam run -- bash\n  \
    cofferdam run --preset pypi --workspace . -- pip install requests\n\n\
    Exit codes: the command's own (128+n for signal n); 125 cofferdam refused or failed; \
    126 not executable; 127 not found.")]
pub struct Cli {
    /// Directory that holds every sandbox's state
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
    /// Run one agent in a sandbox, in the foreground
    #[command(after_help = "Example:\n  cofferdam run --workspace . -- python3 agent.py\n  \
        cofferdam run --preset github --env TZ=UTC -- bash")]
    Run(RunArgs),
    /// Run a long-lived sandbox from a file
    #[command(after_help = "Example:\n  cofferdam up -f cofferdam.yaml")]
    Up(UpArgs),
    /// Run another process in a running sandbox, under the same controls
    #[command(after_help = "Example:\n  cofferdam exec -it assistant -- bash")]
    Exec(ExecArgs),
    /// List the sandboxes
    #[command(after_help = "Example:\n  cofferdam ps --json")]
    Ps(JsonArgs),
    /// Show a sandbox's condition: parts, policy, controls
    #[command(after_help = "Example:\n  cofferdam status assistant")]
    Status(NamedJson),
    /// Show the live actor tree: state, uptime, restarts, last failure
    #[command(after_help = "Example:\n  cofferdam tree assistant")]
    Tree(NamedJson),
    /// Show the agents' output, redacted
    #[command(after_help = "Example:\n  cofferdam logs assistant -f --tail 20")]
    Logs(LogsArgs),
    /// Stop a sandbox in order
    #[command(after_help = "Example:\n  cofferdam stop assistant")]
    Stop(StopArgs),
    /// Restart one actor of a running sandbox
    #[command(after_help = "Example:\n  cofferdam restart assistant proxy")]
    Restart(ActorArgs),
    /// Make an actor panic (only in a sandbox started with --allow-fault-injection)
    #[command(after_help = "Example:\n  cofferdam crash assistant proxy")]
    Crash(ActorArgs),
    /// List what programs contained at first use; accept an upgraded one, forget one
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam identity list assistant\n  \
                            cofferdam identity accept assistant /sandbox/venv/bin/python3"
    )]
    Identity(IdentityCommand),
    /// Answer what agents ask for beyond the policy (`approvals: { unlisted: ask }` in cofferdam.yaml)
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam approvals list\n  cofferdam approvals approve assistant-3 --for run\n  \
                            cofferdam approvals watch assistant"
    )]
    Approvals(ApprovalsCommand),
    /// Check, explain, compare, show and change policies
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam policy check policy.yaml\n  \
                            cofferdam policy explain --preset github --binary /usr/bin/gh GET https://api.github.com/user"
    )]
    Policy(PolicyCommand),
    /// Copy standard input (or a file) to standard output, secrets replaced
    #[command(after_help = "Example:\n  echo 'key: ghp_…' | cofferdam redact")]
    Redact(RedactArgs),
    /// Verify and show the audit log
    #[command(
        subcommand,
        after_help = "Examples:\n  cofferdam audit show assistant | tail\n  \
                            cofferdam audit verify assistant"
    )]
    Audit(AuditCommand),
    /// Show what this machine can enforce, each control proven by trying it
    #[command(after_help = "Example:\n  cofferdam doctor\n  cofferdam doctor --json")]
    Doctor(JsonArgs),
    /// The tour: an agent meets every layer, while cofferdam's parts are killed under it
    #[command(after_help = "Example:\n  cofferdam demo")]
    Demo(DemoArgs),
    /// Comes with a later release
    #[command(hide = true, disable_help_flag = true, name = "provider", aliases = ["onboard", "snapshot", "restore", "term"])]
    Later {
        /// Whatever it is to be told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
}

/// Options that describe a sandbox; shared by `run` and (as overrides) nothing else.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Built-in profile to start from [default: locked-down]
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    pub profile: Option<String>,
    /// Policy file, instead of a profile; watched, and reloaded when it changes
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Add a built-in preset's network entries (repeatable)
    #[arg(long, value_name = "NAME")]
    pub preset: Vec<String>,
    /// Take from a cofferdam.yaml all but its agents and metrics: what is typed goes before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The sandbox's name [default: the command's, with a number where that is taken]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Directory mounted at /sandbox [default: the sandbox's own, under the state directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Use another root than this machine's: a directory, or an OCI image layout or archive on this disk, pinned
    /// (nothing is pulled: `skopeo copy docker://… oci-archive:FILE` or `docker save -o FILE …` makes one)
    #[arg(long, value_name = "DIR|IMAGE@sha256:…")]
    pub root: Option<PathBuf>,
    /// Set a variable inside (K=V), or pass one of yours by name (K)
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// Serve Prometheus metrics at ADDR, or `off`
    #[arg(long, value_name = "ADDR|off")]
    pub metrics: Option<String>,
    /// When to start the command again
    #[arg(long, value_enum, default_value = "never")]
    pub restart: RestartWhen,
    /// Lead a port of this machine into the sandbox (repeatable)
    #[arg(long, value_name = "[IP:]PORT[:SANDBOX_PORT]")]
    pub forward: Vec<String>,
    /// Give the command a terminal of its own [default: when stdin and stdout are terminals]
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Say at the end where the time of start and end went
    #[arg(long)]
    pub timings: bool,
    /// What every start takes.
    #[command(flatten)]
    pub start: StartArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What `run` and `up` both take.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Refuse to start without every control (strict), or go on and say which are missing
    #[arg(long, value_enum)]
    pub enforcement: Option<EnforcementArg>,
    /// Say nothing but errors
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Form of cofferdam's own messages
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Let `cofferdam crash` make actors of this sandbox panic
    #[arg(long)]
    pub allow_fault_injection: bool,
}

/// `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The sandbox's file
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "cofferdam.yaml")]
    pub file: PathBuf,
    /// Serve Prometheus metrics at ADDR, or `off` [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR|off")]
    pub metrics: Option<String>,
    /// What every start takes.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Pass standard input
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Set a variable inside (K=V), or pass one of yours by name (K)
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// The sandbox
    pub name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A listing without a name.
#[derive(Debug, Args)]
pub struct JsonArgs {
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
    /// Only this agent's
    #[arg(long)]
    pub agent: Option<String>,
    /// Go on as output comes
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Begin with the last so many lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Print one JSON record a line
    #[arg(long)]
    pub json: bool,
    /// On a terminal too, print the agents' bytes as they are: they may do to it what they like
    #[arg(long)]
    pub raw: bool,
}

/// `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// The sandbox
    pub name: String,
    /// How long the agents get between SIGTERM and SIGKILL
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: std::time::Duration,
}

/// `restart` and `crash`.
#[derive(Debug, Args)]
pub struct ActorArgs {
    /// The sandbox
    pub name: String,
    /// The actor, as `cofferdam tree` names it (an agent: agents/NAME)
    pub actor: String,
}

/// `identity …`.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// List the programs that have asked for the network, by what they contained at first use
    #[command(after_help = "Example:\n  cofferdam identity list assistant")]
    List {
        /// The sandbox
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Trust a program's new content, after an upgrade
    #[command(after_help = "Example:\n  cofferdam identity accept assistant /sandbox/venv/bin/python3")]
    Accept {
        /// The sandbox
        name: String,
        /// The program, by its path inside
        path: String,
        /// Only if this is the content that was seen there [default: the one that `list` shows]
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a program: its next use is a first use
    #[command(after_help = "Example:\n  cofferdam identity forget assistant /sandbox/venv/bin/python3")]
    Forget {
        /// The sandbox
        name: String,
        /// The program, by its path inside
        path: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `approvals …`.
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// List what was asked for, and what was answered
    #[command(after_help = "Example:\n  cofferdam approvals list assistant")]
    List {
        /// The sandbox [default: all that run]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a request through: this one, or as an entry of the policy, for its program as it is now
    #[command(after_help = "Examples:\n  cofferdam approvals approve assistant-3\n  \
                            cofferdam approvals approve assistant-3 --for good --path '/repos/**'")]
    Approve {
        #[command(flatten)]
        answer: AnswerArgs,
        /// How far it goes: one request, until the sandbox ends, or for good
        #[arg(long = "for", value_enum, default_value_t = Span::Once)]
        span: Span,
        /// Another method than was asked for, `*` for any (with --for run or good)
        #[arg(long)]
        method: Option<String>,
        /// Another path, or a pattern (with --for run or good)
        #[arg(long, value_name = "PATTERN")]
        path: Option<String>,
    },
    /// Refuse it, now and whenever it comes again
    #[command(after_help = "Example:\n  cofferdam approvals deny assistant-3")]
    Deny(AnswerArgs),
    /// Take an answer back: it is asked again when it comes again
    #[command(after_help = "Example:\n  cofferdam approvals revoke assistant-3")]
    Revoke(AnswerArgs),
    /// Print each question and each answer as it comes, until the sandbox ends
    #[command(after_help = "Example:\n  cofferdam approvals watch assistant")]
    Watch {
        /// The sandbox
        name: String,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
}

/// Which question is answered.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// Its id, as `approvals list` has it
    pub id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How far an approval goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Span {
    /// One request.
    Once,
    /// Until the sandbox ends.
    Run,
    /// For good.
    Good,
}

/// `policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Read policy files and print every error and warning at its line and column
    #[command(after_help = "Example:\n  cofferdam policy check policy.yaml")]
    Check {
        /// Policy or preset files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say how a request would be judged, by which rule, and for a denial what differs
    #[command(after_help = "Examples:\n  cofferdam policy explain --preset github --binary /usr/bin/gh \
        GET https://api.github.com/user\n  cofferdam policy explain --policy policy.yaml --binary /usr/bin/node \
        --mcp-tool search --arg q=x https://mcp.example.com/mcp")]
    Explain(Box<ExplainArgs>),
    /// Say what changes between two policies
    #[command(after_help = "Example:\n  cofferdam policy diff old.yaml new.yaml")]
    Diff {
        /// The policy as it is
        a: PathBuf,
        /// The policy as it would be
        b: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the policy in force in a running sandbox
    #[command(after_help = "Example:\n  cofferdam policy show assistant")]
    Show(NamedJson),
    /// Put another policy in force in a running sandbox
    #[command(
        after_help = "Examples:\n  cofferdam policy set assistant policy.yaml\n  cofferdam policy set assistant policy.yaml --restart-agents"
    )]
    Set {
        /// The sandbox
        name: String,
        /// The policy file
        file: PathBuf,
        /// Start the agents that run again under the new policy; where a filesystem, landlock or process section changed, in another
        /// cage
        #[arg(long)]
        restart_agents: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of policy files
    #[command(after_help = "Example:\n  cofferdam policy schema > policy.schema.json")]
    Schema,
    /// List the built-in profiles and presets, or print one
    #[command(after_help = "Example:\n  cofferdam policy presets\n  cofferdam policy presets github")]
    Presets {
        /// The one to print
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `policy explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Built-in profile [default: locked-down]
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    pub profile: Option<String>,
    /// Policy file
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Add a built-in preset (repeatable)
    #[arg(long, value_name = "NAME")]
    pub preset: Vec<String>,
    /// The program that asks
    #[arg(long, value_name = "PATH")]
    pub binary: String,
    /// Its SHA-256, in hex, where the policy pins one
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// A program above it in the process tree (repeatable, nearest first)
    #[arg(long, value_name = "PATH")]
    pub ancestor: Vec<String>,
    /// What the request says, where an endpoint judges that
    #[command(flatten)]
    pub says: Says,
    /// With --mcp-tool or --rpc-method: an argument, as JSON or else text (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub arg: Vec<String>,
    /// A header field of it, which may name a second resource: `Destination`, `x-amz-copy-source` (repeatable)
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// `[METHOD] URL` (without a method: GET), or `CONNECT HOST:PORT`
    #[arg(required = true, num_args = 1..=2, value_name = "METHOD URL")]
    pub request: Vec<String>,
}

/// What a request says in its body, or a message on a WebSocket.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Says {
    /// A GraphQL document; with a ws: or wss: URL in a message on the WebSocket
    #[arg(long, value_name = "DOCUMENT")]
    pub graphql: Option<String>,
    /// An MCP tool that is called; its arguments with --arg
    #[arg(long, value_name = "NAME")]
    pub mcp_tool: Option<String>,
    /// A JSON-RPC or MCP method that is called; its parameters with --arg
    #[arg(long, value_name = "METHOD")]
    pub rpc_method: Option<String>,
    /// The whole body
    #[arg(long, value_name = "JSON")]
    pub body: Option<String>,
    /// A text message on the WebSocket
    #[arg(long, value_name = "TEXT")]
    pub ws_text: Option<String>,
}

/// `redact`.
#[derive(Debug, Args)]
pub struct RedactArgs {
    /// Read this file instead of standard input
    pub file: Option<PathBuf>,
}

/// `audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check the hash chain: finds changed, missing and reordered records
    #[command(after_help = "Example:\n  cofferdam audit verify assistant")]
    Verify {
        /// The sandbox, or a path to an audit.jsonl
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the records
    #[command(after_help = "Example:\n  cofferdam audit show assistant | tail")]
    Show {
        /// The sandbox, or a path to an audit.jsonl
        name: String,
        /// Print the records as they are stored
        #[arg(long)]
        json: bool,
    },
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the demo's state directory and print where it is
    #[arg(long)]
    pub keep: bool,
}

/// `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RestartWhen {
    /// End the sandbox with the command
    Never,
    /// Start it again when it exits with anything but 0
    OnFailure,
    /// Start it again whenever it exits
    Always,
}

/// `--enforcement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnforcementArg {
    /// A control that can't be enforced is an error at start
    Strict,
    /// Go on without, and say so in status, metrics and audit
    BestEffort,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// Reads `--metrics`: an address, a bare port, or `off`.
pub fn metrics_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    if let Ok(port) = text.parse::<u16>() {
        return Ok(Some(SocketAddr::from(([127, 0, 0, 1], port))));
    }
    text.parse::<SocketAddr>()
        .map(Some)
        .map_err(|_| format!("'{text}' is not an address such as 127.0.0.1:9464, nor `off`"))
}
