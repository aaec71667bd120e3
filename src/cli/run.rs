//! `cofferdam run`: one agent in a sandbox, in the foreground.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use crate::cli::args::{EnforcementArg, RestartWhen, RunArgs, metrics_address};
use crate::config::{Backoff, Config, Enforcement, Forward, Restart, RestartPolicy};
use crate::failure::{Failure, Outcome};
use crate::plan::{AgentPlan, Mode};
use crate::site::policies::{self, Base};
use crate::start::{NameChoice, Wanted, start, system_roots};
use crate::start::{door, environment};
use crate::state::{Name, Root};
use crate::steps::Steps;

/// Starts the sandbox. Returns its exit code once it is over.
pub fn run(root: &Root, args: RunArgs) -> Outcome {
    start(root, wanted(args)?)
}

fn wanted(args: RunArgs) -> Result<Wanted, Failure> {
    let config = args.config.as_deref().map(|file| read_config("--config", file)).transpose()?;
    let program = args.command.first().cloned().unwrap_or_default();
    if program.is_empty() {
        return Err(Failure { code: 127, message: "the command is empty: name a program".into() });
    }
    let agent_name = Name::from_command(&program);
    let credentials = config.as_ref().map(|c| c.credentials.clone()).unwrap_or_default();
    let tty = args.tty || (io::stdin().is_terminal() && io::stdout().is_terminal());
    let agent = AgentPlan {
        name: agent_name.to_string(),
        command: args.command,
        env: environment::build(
            agent_name.as_str(),
            &environment::with_placeholders(variables(&args.env, tty)?, &credentials)?,
        )?,
        restart: restart(args.restart),
        health: None,
        outside: None,
    };
    let config_name = config.as_ref().and_then(|c| c.name.as_deref()).map(Name::parse).transpose()?;
    let name = match args.name.as_deref().map(Name::parse).transpose()?.or(config_name) {
        Some(name) => NameChoice::Exactly(name),
        None => NameChoice::Numbered(agent_name),
    };
    let forwards = args
        .forward
        .iter()
        .map(|text| text.parse::<Forward>().map_err(|e| Failure::refused(format!("--forward: {e}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let metrics = match &args.metrics {
        Some(text) => metrics_address(text).map_err(|e| Failure::refused(format!("--metrics: {e}")))?,
        None => None,
    };
    let wanted = Wanted {
        name,
        policy: policies::source(&policies::Choice {
            // What is typed takes precedence over the file, whether either is a profile or a policy file.
            base: Base::named(args.profile.as_deref(), args.policy.as_deref())
                .or(config.as_ref().and_then(|c| Base::named(c.profile.as_deref(), c.policy.as_deref()))),
            presets: [config.as_ref().map_or(&[][..], |c| &c.presets), &args.preset].concat(),
        })?,
        config: args.config.clone(),
        root: args.root.or(config.as_ref().and_then(|c| c.root.clone())),
        workspace: args.workspace.or(config.as_ref().and_then(|c| c.workspace.clone())),
        agents: vec![agent],
        forwards: [config.as_ref().map_or(Vec::new(), |c| c.forwards.clone()), forwards].concat(),
        inference: config.as_ref().and_then(|c| c.inference.clone()),
        credentials,
        metrics,
        enforcement: enforcement(args.start.enforcement, config.as_ref()),
        limits: config.as_ref().map(|c| c.limits.clone()).unwrap_or_default(),
        client_certs: config.as_ref().map_or(Vec::new(), |c| c.client_certs.clone()),
        upstream_proxy: config.as_ref().and_then(|c| c.upstream_proxy.clone()),
        approvals: config.as_ref().and_then(|c| c.approvals.hold()),
        upstream_ca: config.and_then(|c| c.upstream_ca),
        system_roots: system_roots()?,
        mode: Mode::Foreground { tty },
        fault_injection: args.start.allow_fault_injection,
        quiet: args.start.quiet,
        log_format: args.start.log_format,
        steps: Steps::of_process(args.timings, "command"),
    };
    Ok(wanted)
}

/// Reads a configuration. Its path must be UTF-8, since the paths of its presets, which are text, begin with
/// it.
pub fn read_config(option: &str, file: &Path) -> Result<Config, Failure> {
    door::is_text(option, file)?;
    Config::read(file)
}

/// Returns `--enforcement` if it was typed, else the file's value, else `strict`.
pub fn enforcement(typed: Option<EnforcementArg>, config: Option<&Config>) -> Enforcement {
    match typed {
        Some(EnforcementArg::Strict) => Enforcement::Strict,
        Some(EnforcementArg::BestEffort) => Enforcement::BestEffort,
        None => config.and_then(|c| c.enforcement).unwrap_or(Enforcement::Strict),
    }
}

/// Returns the variables of `--env` and, with a terminal, the operator's `TERM`, so that editors and pagers
/// draw correctly.
fn variables(given: &[String], tty: bool) -> Result<Vec<(String, String)>, Failure> {
    let kind = std::env::var("TERM").ok().filter(|_| tty).map(|term| ("TERM".to_owned(), term));
    Ok(kind.into_iter().chain(environment::pairs(given)?).collect())
}

fn restart(when: RestartWhen) -> Restart {
    let policy = match when {
        RestartWhen::Never => RestartPolicy::Never,
        RestartWhen::OnFailure => RestartPolicy::OnFailure,
        RestartWhen::Always => RestartPolicy::Always,
    };
    // Restarts are quick at first, since the operator watches.
    Restart {
        policy,
        backoff: Backoff { min: Duration::from_millis(200), ..Backoff::default() },
        ..Restart::default()
    }
}
