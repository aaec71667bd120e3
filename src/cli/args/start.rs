//! What starts a process inside: `run`, `up` and `exec`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::console::LogFormat;

/// Options that describe a sandbox; shared by `run` and (as overrides) nothing else.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Built-in profile to start from [default: locked-down]
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    pub profile: Option<String>,
    /// Policy file, instead of a profile; watched, and reloaded when it changes
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Add a preset's network entries, a built-in one's or those of a file of your own (repeatable)
    #[arg(long, value_name = "NAME|FILE")]
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
