//! `policy` and what it is asked about.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::NamedJson;

/// `policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check policy files and print every error and warning with its line and column
    #[command(after_help = "Example:\n  cofferdam policy check policy.yaml")]
    Check {
        /// Policy or preset files; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how a request would be judged, by which rule, and for a denial, what differs
    #[command(after_help = "Examples:\n  cofferdam policy explain --preset github --binary /usr/bin/gh \
        GET https://api.github.com/user\n  cofferdam policy explain --policy policy.yaml --binary /usr/bin/node \
        --mcp-tool search --arg q=x https://mcp.example.com/mcp")]
    Explain(Box<ExplainArgs>),
    /// Show what changes between two policies
    #[command(after_help = "Example:\n  cofferdam policy diff old.yaml new.yaml")]
    Diff {
        /// The current policy
        a: PathBuf,
        /// The new policy
        b: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the policy in force in a running sandbox
    #[command(after_help = "Example:\n  cofferdam policy show assistant")]
    Show(NamedJson),
    /// Replace the policy of a running sandbox
    #[command(
        after_help = "Examples:\n  cofferdam policy set assistant policy.yaml\n  cofferdam policy set assistant policy.yaml --restart-agents"
    )]
    Set {
        /// The sandbox
        name: String,
        /// The policy file
        file: PathBuf,
        /// Restart the running agents under the new policy, in a new cage if a filesystem, landlock or
        /// process section changed
        #[arg(long)]
        restart_agents: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of policy files
    #[command(after_help = "Example:\n  cofferdam policy schema > policy.schema.json")]
    Schema {
        /// Accepted for consistency: the output is always JSON
        #[arg(long)]
        json: bool,
    },
    /// List the built-in profiles and presets, or print one
    #[command(after_help = "Example:\n  cofferdam policy presets\n  cofferdam policy presets github")]
    Presets {
        /// The profile or preset to print
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
    /// Add a preset, built-in or from your own file (repeatable)
    #[arg(long, value_name = "NAME|FILE")]
    pub preset: Vec<String>,
    /// The program that makes the request
    #[arg(long, value_name = "PATH")]
    pub binary: String,
    /// The program's SHA-256 in hex, where the policy pins one
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// A program above it in the process tree (repeatable, nearest first)
    #[arg(long, value_name = "PATH")]
    pub ancestor: Vec<String>,
    /// What the request says, where an endpoint judges that
    #[command(flatten)]
    pub says: Says,
    /// An argument for --mcp-tool or --rpc-method, read as JSON if possible, else as text (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub arg: Vec<String>,
    /// A request header; some name a second resource, such as `Destination` or `x-amz-copy-source`
    /// (repeatable)
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
    /// A GraphQL document; with a ws: or wss: URL, sent as a WebSocket message
    #[arg(long, value_name = "DOCUMENT")]
    pub graphql: Option<String>,
    /// The MCP tool to call; its arguments with --arg
    #[arg(long, value_name = "NAME")]
    pub mcp_tool: Option<String>,
    /// The JSON-RPC or MCP method to call; its parameters with --arg
    #[arg(long, value_name = "METHOD")]
    pub rpc_method: Option<String>,
    /// The whole request body
    #[arg(long, value_name = "JSON")]
    pub body: Option<String>,
    /// A text message sent on the WebSocket
    #[arg(long, value_name = "TEXT")]
    pub ws_text: Option<String>,
}
