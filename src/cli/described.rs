//! The sandbox that a configuration file and the options of any start describe. What a command has of its own
//! (`run` its agent, `up` those of the file) is the command's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::args::{EnforcementArg, StartArgs};
use crate::config::{Config, Enforcement};
use crate::failure::Failure;
use crate::plan::{AgentPlan, Mode};
use crate::site::policies::{self, Base};
use crate::start::{NameChoice, Wanted, door, system_roots};
use crate::steps::Steps;

/// What is the command's own.
pub struct Own {
    /// The sandbox's name.
    pub name: NameChoice,
    /// The agents.
    pub agents: Vec<AgentPlan>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Foreground or service.
    pub mode: Mode,
    /// The clock that times the steps of the start.
    pub steps: Steps,
}

/// Reads a configuration. Its path must be UTF-8, since the paths of its presets, which are text, begin with
/// it.
pub fn read_config(option: &str, file: &Path) -> Result<Config, Failure> {
    door::is_text(option, file)?;
    Config::read(file)
}

/// Puts together what is to be started. `config` says what the file does, and what was typed instead of it;
/// `file` is where it was read from, if it was.
///
/// # Errors
/// The policy, a profile or a preset can't be read, or there is no working directory.
pub fn described(
    config: Config,
    file: Option<PathBuf>,
    start: &StartArgs,
    own: Own,
) -> Result<Wanted, Failure> {
    let Own { name, agents, metrics, mode, steps } = own;
    let policy = policies::source(&policies::Choice {
        base: Base::named(config.profile.as_deref(), config.policy.as_deref()),
        presets: config.presets.clone(),
    })?;
    Ok(Wanted {
        name,
        policy,
        config: file,
        enforcement: enforcement(start.enforcement, &config),
        root: config.root,
        workspace: config.workspace,
        agents,
        forwards: config.forwards,
        inference: config.inference,
        credentials: config.credentials,
        metrics,
        limits: config.limits,
        approvals: config.approvals.hold(),
        upstream_ca: config.upstream_ca,
        client_certs: config.client_certs,
        upstream_proxy: config.upstream_proxy,
        system_roots: system_roots()?,
        mode,
        fault_injection: start.allow_fault_injection,
        quiet: start.quiet,
        log_format: start.log_format,
        steps,
    })
}

/// Returns `--enforcement` if it was typed, else the file's value, else `strict`.
fn enforcement(typed: Option<EnforcementArg>, config: &Config) -> Enforcement {
    match typed {
        Some(EnforcementArg::Strict) => Enforcement::Strict,
        Some(EnforcementArg::BestEffort) => Enforcement::BestEffort,
        None => config.enforcement.unwrap_or(Enforcement::Strict),
    }
}
