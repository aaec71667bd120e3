//! `cofferdam run`: one agent in a sandbox, in the foreground.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::cli::args::{RestartWhen, RunArgs, metrics_address};
use crate::cli::described::{Own, described, read_config};
use crate::config::{Backoff, Forward, Restart, RestartPolicy};
use crate::failure::{Failure, Outcome};
use crate::plan::{AgentPlan, Mode};
use crate::start::{NameChoice, Wanted, environment, start};
use crate::state::{Name, Root};
use crate::steps::Steps;

/// Bytes of a path at most, its NUL included (limits.h).
const PATH_MAX: usize = 4096;

/// Starts the sandbox. Returns its exit code once it is over.
pub fn run(root: &Root, args: RunArgs) -> Outcome {
    start(root, wanted(args)?)
}

fn wanted(args: RunArgs) -> Result<Wanted, Failure> {
    let read = args.config.as_deref().map(|file| read_config("--config", file)).transpose()?;
    let mut config = read.unwrap_or_default();
    let program = args.command.first().cloned().unwrap_or_default();
    if program.is_empty() {
        return Err(Failure { code: 127, message: "the command is empty: name a program".into() });
    }
    if program.len() >= PATH_MAX {
        let message =
            format!("the program's name is longer than a path can be ({PATH_MAX} bytes): name a program");
        return Err(Failure { code: 126, message });
    }
    let agent_name = Name::from_command(&program);
    let tty = args.tty || (io::stdin().is_terminal() && io::stdout().is_terminal());
    let agent = AgentPlan {
        name: agent_name.to_string(),
        command: args.command,
        env: environment::build(
            agent_name.as_str(),
            &environment::with_placeholders(variables(&args.env, tty)?, &config.credentials)?,
        )?,
        restart: restart(args.restart),
        health: None,
        outside: None,
    };
    let config_name = config.name.as_deref().map(Name::parse).transpose()?;
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
    // What is typed takes precedence over the file; where it is which policy, whether either is a profile or
    // a policy file.
    if args.profile.is_some() || args.policy.is_some() {
        (config.profile, config.policy) = (args.profile, args.policy);
    }
    config.root = args.root.or(config.root);
    config.workspace = args.workspace.or(config.workspace);
    config.presets.extend(args.preset);
    config.forwards.extend(forwards);
    let own = Own {
        name,
        agents: vec![agent],
        metrics,
        mode: Mode::Foreground { tty },
        steps: Steps::of_process(args.timings, "command"),
    };
    described(config, args.config, &args.start, own)
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
