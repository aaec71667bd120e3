//! `cofferdam up`: a long-running sandbox from a file.

use std::net::SocketAddr;

use crate::cli::args::{UpArgs, metrics_address};
use crate::cli::run::{enforcement, read_config};
use crate::config::Config;
use crate::failure::{Failure, Outcome};
use crate::plan::{AgentPlan, Mode};
use crate::site::policies::{self, Base};
use crate::start::environment;
use crate::start::{NameChoice, Wanted, start, system_roots};
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
    Ok(Wanted {
        name: NameChoice::Exactly(Name::parse(name)?),
        policy: policies::source(&policies::Choice {
            base: Base::named(config.profile.as_deref(), config.policy.as_deref()),
            presets: config.presets.clone(),
        })?,
        config: Some(args.file.clone()),
        enforcement: enforcement(args.start.enforcement, Some(&config)),
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
        mode: Mode::Service,
        fault_injection: args.start.allow_fault_injection,
        quiet: args.start.quiet,
        log_format: args.start.log_format,
        steps: Steps::default(),
    })
}
