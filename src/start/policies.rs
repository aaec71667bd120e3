//! Which policy a command means: a built-in profile or a file, with presets on top; read and checked.

use std::path::{Path, PathBuf};

use agent::plan::{PathRule, Paths, WORKSPACE};
use policy::{Candidate, Diagnostics, Policy};

use crate::console::Paint;
use crate::failure::Failure;
use crate::plan::PolicySource;
use crate::start::given;

/// A policy file larger than this is refused before it is parsed.
pub const FILE_MAX: u64 = 4 << 20;

/// What was typed or written about the policy.
pub struct Choice<'a> {
    /// A built-in profile.
    pub profile: Option<&'a str>,
    /// A file; goes before the profile.
    pub file: Option<&'a Path>,
    /// Built-in presets.
    pub presets: Vec<String>,
}

/// Finds the text that a choice means.
pub fn source(choice: &Choice<'_>) -> Result<PolicySource, Failure> {
    for preset in &choice.presets {
        require_preset(preset)?;
    }
    let (name, text, watch) = match (choice.file, choice.profile) {
        (Some(path), _) => (path.display().to_string(), read(path)?, watched(path)?),
        (None, profile) => {
            let wanted = profile.unwrap_or(policy::DEFAULT_PROFILE);
            (format!("profile {wanted}"), built_in_profile(wanted)?.to_owned(), None)
        }
    };
    Ok(PolicySource { name, text, watch, presets: choice.presets.clone() })
}

/// What is watched for changes: not what only this process can read, and only once.
fn watched(path: &Path) -> Result<Option<PathBuf>, Failure> {
    if given::is_descriptor(path) {
        return Ok(None);
    }
    Ok(Some(std::path::absolute(path)?))
}

/// Reads a policy file, of a size that a policy can have.
pub fn read(path: &Path) -> Result<String, Failure> {
    let mend = format!(
        "name another, or write it: `cofferdam policy presets {} > {}` makes one to begin with",
        policy::DEFAULT_PROFILE,
        path.display()
    );
    given::read(path, FILE_MAX, &mend)
}

/// Reads, composes and compiles; every error is told at its place, warnings unless `quiet`.
pub fn check(source: &PolicySource, quiet: bool) -> Result<Candidate, Failure> {
    let candidate = load(source).map_err(|diagnostics| Failure::refused(render(&diagnostics)))?;
    if !quiet && !candidate.warnings().is_empty() {
        crate::console::warn(&render(candidate.warnings()));
    }
    Ok(candidate)
}

/// As [`check`], with the diagnostics as they are.
pub fn load(source: &PolicySource) -> Result<Candidate, Diagnostics> {
    // Their names were checked when the source was chosen.
    let presets: Result<Vec<_>, _> =
        source.presets.iter().filter_map(|name| policy::preset(name)).map(policy::Builtin::preset).collect();
    Candidate::new(&source.name, &source.text, &presets?)
}

fn built_in_profile(name: &str) -> Result<&'static str, Failure> {
    let found = policy::profile(name).map(|builtin| builtin.text);
    found.ok_or_else(|| unknown("profile", name, policy::profiles()))
}

fn require_preset(name: &str) -> Result<(), Failure> {
    let found = policy::preset(name).map(drop);
    found.ok_or_else(|| unknown("preset", name, policy::presets()))
}

fn unknown(what: &str, name: &str, known: &[policy::Builtin]) -> Failure {
    let known: Vec<&str> = known.iter().map(|builtin| builtin.name).collect();
    Failure::refused(format!("no {what} is called '{name}': there are {}", known.join(", ")))
}

/// Diagnostics for people: as rustc shows them, in colours on a terminal.
pub fn render(diagnostics: &Diagnostics) -> String {
    diagnostics.render(Paint::stderr().on())
}

/// The policy's paths for the cage.
pub fn paths(policy: &Policy) -> Paths {
    let filesystem = policy.filesystem();
    let rule = |rule: &policy::PathRule| PathRule { path: rule.path.clone(), optional: rule.optional };
    let mut read_write: Vec<PathRule> = filesystem.read_write.iter().map(rule).collect();
    if filesystem.include_workdir && !read_write.iter().any(|rule| rule.path == Path::new(WORKSPACE)) {
        read_write.push(PathRule { path: WORKSPACE.into(), optional: false });
    }
    Paths { read_only: filesystem.read_only.iter().map(rule).collect(), read_write }
}
