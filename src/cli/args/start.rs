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
    /// Policy file instead of a profile; reloaded when it changes
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Add the network entries of a preset, built-in or from your own file (repeatable)
    #[arg(long, value_name = "NAME|FILE")]
    pub preset: Vec<String>,
    /// Read everything except agents and metrics from FILE; options given here take precedence
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The sandbox's name [default: the command's name, numbered if taken]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Directory mounted at /sandbox [default: the sandbox's own, under the state directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Use another root filesystem: a directory, or a local OCI image layout or archive, pinned by digest
    /// (nothing is pulled: `skopeo copy docker://… oci-archive:FILE` or `docker save -o FILE …` creates one)
    #[arg(long, value_name = "DIR|IMAGE@sha256:…")]
    pub root: Option<PathBuf>,
    /// Set an environment variable inside (K=V), or pass on your own (K)
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// Serve Prometheus metrics at ADDR, or `off`
    #[arg(long, value_name = "ADDR|off")]
    pub metrics: Option<String>,
    /// When to restart the command
    #[arg(long, value_enum, default_value = "never")]
    pub restart: RestartWhen,
    /// Forward a port of this machine into the sandbox (repeatable)
    #[arg(long, value_name = "[IP:]PORT[:SANDBOX_PORT]")]
    pub forward: Vec<String>,
    /// Give the command a terminal of its own [default: when stdin and stdout are terminals]
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Print how long each step of start and shutdown took
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
    /// Refuse to start unless every control can be enforced (strict), or start anyway and report what is
    /// missing
    #[arg(long, value_enum)]
    pub enforcement: Option<EnforcementArg>,
    /// Print only errors
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Format of cofferdam's own messages
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
    /// Pass on standard input
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Set an environment variable inside (K=V), or pass on your own (K)
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
    /// The sandbox ends with the command
    Never,
    /// Restart it when it exits with a code other than 0
    OnFailure,
    /// Restart it whenever it exits
    Always,
}

/// `--enforcement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnforcementArg {
    /// Refuse to start if a control can't be enforced
    Strict,
    /// Start without it, and report that in status, metrics and the audit log
    BestEffort,
}

/// Reads `--metrics`: an address, a bare port, or `off`.
pub fn metrics_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let shown = text.escape_debug();
    let address = match text.parse::<u16>() {
        Ok(port) => SocketAddr::from(([127, 0, 0, 1], port)),
        Err(_) => text
            .parse()
            .map_err(|_| format!("'{shown}' is not an address such as 127.0.0.1:9464, nor `off`"))?,
    };
    // Nobody would know which one the kernel chose.
    if address.port() == 0 {
        return Err(format!(
            "'{shown}' has port 0: name one from 1 to 65535, such as 127.0.0.1:9464, or `off`"
        ));
    }
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_served_at_a_port_that_is_known() {
        assert_eq!(metrics_address("off"), Ok(None));
        assert_eq!(metrics_address("9464"), Ok(Some("127.0.0.1:9464".parse().unwrap())));
        assert_eq!(metrics_address("[::1]:1"), Ok(Some("[::1]:1".parse().unwrap())));
        for (bad, said) in
            [("0", "port 0"), ("127.0.0.1:0", "port 0"), ("[::1]:0", "port 0"), ("a\nb", "'a\\nb' is not")]
        {
            let why = metrics_address(bad).unwrap_err();
            assert!(why.contains(said), "{bad}: {why}");
        }
    }
}
