//! Makes the choices from the options alone, without questions. A missing option has a default, or is an
//! error that names it.

use std::path::{Component, Path, PathBuf};

use super::agents::{self, Known, Whereabouts};
use super::file::{Agent, Chosen};
use super::providers;
use super::token;
use crate::built_in;
use crate::cli::args::OnboardArgs;
use crate::cli::provider::detect::{self, Offer};
use crate::console::as_word;
use crate::failure::Failure;
use crate::given::lasting;
use crate::name::Name;
use crate::site::policies::{self, Choice};

/// Returns the choices for the file, and notes for the operator.
///
/// # Errors
/// A choice is missing or isn't possible.
pub fn chosen(args: &OnboardArgs) -> Result<(Chosen, Vec<String>), Failure> {
    let agent = agent(args)?.ok_or_else(|| {
        Failure::refused(format!(
            "which agent? --agent NAME for one that cofferdam knows ({}), or -- COMMAND",
            agents::names()
        ))
    })?;
    let name = name(args)?.unwrap_or_else(|| agent.name());
    presets(&args.preset)?;
    let (mut providers, notes) = match providers::typed(&args.provider)? {
        Some(these) => (these, Vec::new()),
        None => detected(&agent)?,
    };
    if let Some(model) = &args.model {
        providers::with_model(&mut providers, &agent, model)?;
    }
    let workspace = args.workspace.clone().or_else(|| default_workspace(&agent, &name));
    let workspace = workspace.map(|named| from_file(&args.file, &named)).transpose()?;
    let chosen = Chosen { name, agent, presets: args.preset.clone(), providers, workspace, token: token()? };
    let notes = [notes, runs(&chosen.agent)?, speaks(&chosen)?].concat();
    Ok((chosen, notes))
}

/// Returns the agent that was typed, if any.
///
/// # Errors
/// It isn't known, or can't be run.
pub fn agent(args: &OnboardArgs) -> Result<Option<Agent>, Failure> {
    if let Some(name) = &args.agent {
        let known = Known::named(name)?;
        let program = known.program(&path(), &shown()?, args.show_program)?;
        return Ok(Some(Agent::Known(known, program)));
    }
    let text = |word: &std::ffi::OsString| {
        word.to_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure::refused("the command is not UTF-8, in which cofferdam.yaml is written"))
    };
    let command = args.command.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok((!command.is_empty()).then_some(Agent::Command(command)))
}

/// Returns the name that was typed, if any.
///
/// # Errors
/// It can't name a sandbox.
pub fn name(args: &OnboardArgs) -> Result<Option<Name>, Failure> {
    args.name.as_deref().map(Name::parse).transpose()
}

/// Checks that each preset is a built-in one.
///
/// # Errors
/// The first that isn't; the message lists those that there are.
pub fn presets(names: &[String]) -> Result<(), Failure> {
    // A preset file isn't accepted here, since the configuration may be moved: the operator can add one by
    // hand.
    names.iter().try_for_each(|name| built_in::preset(name).map(drop)).map_err(Failure::refused)
}

/// Returns the caller's `PATH`.
pub fn path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Returns which paths of this machine the file's policy shows.
///
/// # Errors
/// None, as long as the built-in profile is valid.
pub fn shown() -> Result<Vec<PathBuf>, Failure> {
    let source = policies::source(&Choice { base: None, presets: Vec::new() })?;
    Ok(agents::shown(policies::check(&source, true)?.policy()))
}

fn detected(agent: &Agent) -> Result<(Vec<Offer>, Vec<String>), Failure> {
    let detected = detect::look(&[])?;
    let (used, left) = providers::first_fit(detected.providers, agent);
    let left =
        left.iter().map(|offer| format!("not used: {} ({}); --provider names one", offer.name, offer.found));
    Ok((used, left.chain(detected.notes).collect()))
}

/// Returns the default workspace. A known agent has one: it reads its settings from its home, which must
/// exist for them to be written.
pub fn default_workspace(agent: &Agent, name: &Name) -> Option<PathBuf> {
    agent.known().is_some().then(|| PathBuf::from(name.as_str()))
}

/// Converts a typed path into one for the file, where paths are relative to the file.
///
/// # Errors
/// There is no working directory, or the path isn't UTF-8.
pub fn from_file(file: &Path, typed: &Path) -> Result<PathBuf, Failure> {
    if typed.to_str().is_none() {
        return Err(Failure::refused(format!(
            "workspace {}: not UTF-8, in which cofferdam.yaml is written",
            as_word(typed)
        )));
    }
    if typed.is_absolute() {
        return Ok(typed.to_owned());
    }
    if file.parent().is_none_or(|parent| parent.as_os_str().is_empty()) {
        let is_plain = matches!(typed.components().next(), Some(Component::Normal(_)));
        return Ok(if is_plain { Path::new(".").join(typed) } else { typed.to_owned() });
    }
    lasting(typed)
}

/// Returns a warning if a command's program won't be found inside, as far as that can be seen from here: not
/// for a path in the workspace.
///
/// # Errors
/// See [`shown`].
pub fn runs(agent: &Agent) -> Result<Vec<String>, Failure> {
    let Agent::Command(command) = agent else { return Ok(Vec::new()) };
    let Some(program) = command.first().filter(|it| it.starts_with('/') || !it.contains('/')) else {
        return Ok(Vec::new());
    };
    Ok(match agents::whereabouts(program, &path(), &shown()?) {
        Whereabouts::Inside(_) => Vec::new(),
        Whereabouts::Outside(file) => {
            vec![format!("{} is where no sandbox shows it: docs/agents.md", as_word(&file))]
        }
        Whereabouts::Nowhere => vec![format!(
            "{} is no program of this machine's: it must be there inside",
            as_word(Path::new(program))
        )],
    })
}

/// Checks that a provider speaks the agent's protocol, and that its model is known. Returns a warning if no
/// provider does.
///
/// # Errors
/// The agent must be told a model, and none was given.
pub fn speaks(chosen: &Chosen) -> Result<Vec<String>, Failure> {
    let Some(known) = chosen.agent.known() else { return Ok(Vec::new()) };
    let kind = known.speaks;
    if chosen.providers.iter().all(|offer| offer.provider.kind != kind) {
        return Ok(vec![format!(
            "{} speaks the {} protocol, and no provider of that kind is named: --provider {}=URL,CREDENTIAL",
            known.name,
            kind.as_str(),
            kind.as_str()
        )]);
    }
    if known.names_model && chosen.model_for(known).is_none() {
        return Err(Failure::refused(format!(
            "{} must be told which model it has: --model, as its provider calls it",
            known.name
        )));
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_path_is_the_same_place_from_the_file() {
        let from = |file: &str, typed: &str| from_file(Path::new(file), Path::new(typed)).unwrap();
        assert_eq!(from("c.yaml", "work"), Path::new("./work"));
        assert_eq!(from("c.yaml", "../work"), Path::new("../work"));
        assert_eq!(from("c.yaml", "/work"), Path::new("/work"));
        assert_eq!(from("sub/c.yaml", "work"), std::env::current_dir().unwrap().join("work"));
    }
}
