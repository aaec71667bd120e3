//! `cofferdam up`: a long-running sandbox from a file.

use std::net::SocketAddr;

use crate::cli::args::{UpArgs, metrics_address};
use crate::cli::described::{Own, described, read_config};
use crate::config::Config;
use crate::failure::{Failure, Outcome};
use crate::plan::{AgentPlan, Mode};
use crate::start::{NameChoice, Wanted, environment, start};
use crate::state::{Name, Root};
use crate::steps::Steps;

/// Where a service's metrics are served by default.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

/// Starts the sandbox. Returns its exit code once it is over.
pub fn up(root: &Root, args: &UpArgs) -> Outcome {
    start(root, wanted(read_config("--file", &args.file)?, args)?)
}

/// Returns what the file and the options describe.
///
/// # Errors
/// What is missing in the file, or isn't possible.
pub fn wanted(config: Config, args: &UpArgs) -> Result<Wanted, Failure> {
    let file = args.file.display();
    let Some(name) = config.name.as_deref() else {
        return Err(Failure::refused(format!(
            "{file}: `name` is missing: give the sandbox one, such as name: assistant"
        )));
    };
    if config.agents.is_empty() {
        return Err(Failure::refused(format!(
            "{file}: `agents` is empty: name at least one, with its command"
        )));
    }
    let agents = config
        .agents
        .iter()
        .map(|(name, agent)| {
            let env: Vec<(String, String)> =
                agent.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            Ok(AgentPlan {
                name: name.clone(),
                command: agent.command.iter().map(Into::into).collect(),
                env: environment::build(name, &environment::with_placeholders(env, &config.credentials)?)?,
                restart: agent.restart.clone(),
                health: agent.health.clone(),
                outside: None,
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let listen = args.metrics.as_deref().or(config.metrics.as_ref().map(|m| m.listen.as_str()));
    let metrics = match listen {
        Some(text) => metrics_address(text).map_err(|e| {
            let key =
                if args.metrics.is_some() { "--metrics".into() } else { format!("{file}: metrics.listen") };
            Failure::refused(format!("{key}: {e}"))
        })?,
        None => Some(METRICS),
    };
    let own = Own {
        name: NameChoice::Exactly(Name::parse(name)?),
        agents,
        metrics,
        mode: Mode::Service,
        steps: Steps::default(),
    };
    described(config, Some(args.file.clone()), &args.start, own)
}
