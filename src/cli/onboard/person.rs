//! Makes the choices by asking a person. What was typed as an option isn't asked again.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use super::agents::{self, KNOWN, Program, Whereabouts, alone, whereabouts};
use super::file::{Agent, Chosen};
use super::providers;
use super::{token, typed};
use crate::cli::args::OnboardArgs;
use crate::cli::ask::Person;
use crate::cli::provider::detect::{self, Offer};
use crate::console::one_line;
use crate::failure::Failure;
use crate::name::Name;

/// Returns the choices for the file, and notes for the operator.
///
/// # Errors
/// A choice isn't possible, or the answers have ended.
pub fn chosen<R: BufRead, W: Write>(
    person: &mut Person<R, W>,
    args: &OnboardArgs,
) -> Result<(Chosen, Vec<String>), Failure> {
    person.tell("This machine can enforce everything. Ctrl-C leaves without writing anything.\n")?;
    let agent = match typed::agent(args)? {
        Some(agent) => agent,
        None => which_agent(person)?,
    };
    let name = match typed::name(args)? {
        Some(name) => name,
        None => person.ask("Name of the sandbox", agent.name().as_str(), |answer| {
            Name::parse(answer).map_err(|why| why.message)
        })?,
    };
    let providers = which_providers(person, args, &agent)?;
    let presets = which_presets(person, args)?;
    let workspace = which_workspace(person, args, &agent, &name)?;
    let chosen = Chosen { name, agent, presets, providers, workspace, token: token()? };
    let notes = [typed::runs(&chosen.agent)?, typed::speaks(&chosen)?].concat();
    Ok((chosen, notes))
}

fn which_agent<R: BufRead, W: Write>(person: &mut Person<R, W>) -> Result<Agent, Failure> {
    let (path, shown) = (typed::path(), typed::shown()?);
    let mut found = Vec::new();
    for known in &KNOWN {
        match whereabouts(known.name, &path, &shown) {
            Whereabouts::Inside(program) => found.push((known, Program::Inside(program))),
            Whereabouts::Outside(file) => match alone(&file) {
                Some(file) => found.push((known, Program::Shown(file))),
                None => person.tell(&format!(
                    "  ({} is at {}, which no sandbox shows, and is more than one file: docs/agents.md)",
                    known.name,
                    one_line(&file.display().to_string())
                ))?,
            },
            Whereabouts::Nowhere => {}
        }
    }
    let command = "another command".to_owned();
    let names: Vec<String> = found.iter().map(|(known, _)| known.name.to_owned()).chain([command]).collect();
    let told: Vec<String> =
        found.iter().map(|(_, program)| one_line(&program.to_string())).chain([String::new()]).collect();
    let chosen = match found.is_empty() {
        true => {
            person.tell(&format!(
                "  (looked for {}: none can be shown to a sandbox as it is)",
                agents::names()
            ))?;
            0
        }
        false => person.one_of("Agent", &names, &told)?,
    };
    if let Some((known, program)) = found.into_iter().nth(chosen) {
        let is_fine = match &program {
            Program::Inside(_) => true,
            Program::Shown(file) => {
                let file = one_line(&file.display().to_string());
                person.agrees(&format!("No sandbox shows {file}: show that one file, read-only?"), true)?
            }
        };
        if is_fine {
            return Ok(Agent::Known(known, program));
        }
    }
    person.ask("Command that the sandbox runs", "", |answer| {
        let words = shlex::split(answer).filter(|words| words.first().is_some_and(|first| !first.is_empty()));
        words
            .map(Agent::Command)
            .ok_or_else(|| "a program and its arguments, as a shell takes them".to_owned())
    })
}

fn which_providers<R: BufRead, W: Write>(
    person: &mut Person<R, W>,
    args: &OnboardArgs,
    agent: &Agent,
) -> Result<Vec<Offer>, Failure> {
    let mut offers = match providers::typed(&args.provider)? {
        Some(these) => these,
        None => {
            let found = detect::look(&[])?;
            for note in &found.notes {
                person.tell(&format!("  ({note})"))?;
            }
            offered(person, found.providers, agent)?
        }
    };
    match &args.model {
        Some(model) => providers::with_model(&mut offers, agent, model)?,
        None => which_model(person, &mut offers, agent)?,
    }
    Ok(offers)
}

/// Asks which of these providers to use, or for another one.
fn offered<R: BufRead, W: Write>(
    person: &mut Person<R, W>,
    offers: Vec<Offer>,
    agent: &Agent,
) -> Result<Vec<Offer>, Failure> {
    let names: Vec<String> = offers.iter().map(|offer| offer.name.clone()).collect();
    let told: Vec<String> = offers.iter().map(|offer| one_line(&offer.found)).collect();
    if !offers.is_empty() {
        let (default, _) = providers::first_fit(offers.clone(), agent);
        let default: Vec<&str> = default.iter().map(|offer| offer.name.as_str()).collect();
        let default = if default.is_empty() { "none".to_owned() } else { default.join(",") };
        person.tell("Providers, the first that serves is asked; `none` for another or none:")?;
        let wanted = person.some_of("Providers", &default, &names, &told)?;
        if !wanted.is_empty() {
            let mut offers: Vec<Option<Offer>> = offers.into_iter().map(Some).collect();
            return Ok(wanted.into_iter().filter_map(|n| offers.get_mut(n)?.take()).collect());
        }
    }
    person.ask(
        "Provider, as KIND=URL,CREDENTIAL (openai=https://…/v1,env:NAME), or none",
        "none",
        |answer| {
            if answer == "none" {
                return Ok(Vec::new());
            }
            let provider = providers::one(answer)?;
            let name = provider.kind.as_str().to_owned();
            Ok(vec![Offer { name, provider, models: Vec::new(), found: "typed".into() }])
        },
    )
}

/// Asks which model to use, if the agent must be told one. It is for the first provider that the agent can
/// speak to.
fn which_model<R: BufRead, W: Write>(
    person: &mut Person<R, W>,
    offers: &mut [Offer],
    agent: &Agent,
) -> Result<(), Failure> {
    let Some(known) = agent.known().filter(|known| known.names_model) else { return Ok(()) };
    let Some(offer) = offers.iter_mut().find(|offer| offer.provider.kind == known.speaks) else {
        return Ok(());
    };
    let first = offer.models.first().map(ToString::to_string).unwrap_or_default();
    let model = person.ask(&format!("Model at {}", offer.name), &first, |answer| {
        let is_one = !answer.is_empty() && answer.chars().all(|c| c.is_ascii_graphic());
        is_one.then(|| answer.to_owned()).ok_or_else(|| "a model's name, as its provider calls it".to_owned())
    })?;
    offer.models.insert(0, model.into());
    Ok(())
}

fn which_presets<R: BufRead, W: Write>(
    person: &mut Person<R, W>,
    args: &OnboardArgs,
) -> Result<Vec<String>, Failure> {
    if !args.preset.is_empty() {
        typed::presets(&args.preset)?;
        return Ok(args.preset.clone());
    }
    let names: Vec<String> = policy::presets().iter().map(|preset| preset.name.to_owned()).collect();
    let told: Vec<String> = policy::presets()
        .iter()
        .map(|preset| preset.preset().map(|it| it.description.to_string()).unwrap_or_default())
        .collect();
    person.tell("What else it may reach; more is written in a policy (docs/policy.md):")?;
    let wanted = person.some_of("Presets", "none", &names, &told)?;
    Ok(wanted.into_iter().filter_map(|n| names.get(n).cloned()).collect())
}

fn which_workspace<R: BufRead, W: Write>(
    person: &mut Person<R, W>,
    args: &OnboardArgs,
    agent: &Agent,
    name: &Name,
) -> Result<Option<PathBuf>, Failure> {
    let named = match &args.workspace {
        Some(named) => Some(named.clone()),
        None => {
            let default = typed::default_workspace(agent, name);
            let default = default.map_or("none".to_owned(), |dir| format!("./{}", dir.display()));
            person.ask(
                "Workspace, the agent's home (none: one in the state directory)",
                &default,
                |answer| Ok((answer != "none").then(|| PathBuf::from(answer))),
            )?
        }
    };
    named.map(|named| typed::from_file(&args.file, &named)).transpose()
}
