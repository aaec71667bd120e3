//! Which policy a command means: a built-in profile or a file, with presets on top, built in or files as
//! well; read and checked.

use std::path::{Path, PathBuf};

use agent::plan::{PathRule, Paths, WORKSPACE};
use policy::{Builtin, Candidate, Diagnostics, Policy};

use crate::built_in;
use crate::console::Paint;
use crate::failure::Failure;
use crate::given;
use crate::plan::{PolicySource, PresetSource};

/// A policy file larger than this is refused before it is parsed.
pub const FILE_MAX: u64 = 4 << 20;

/// What was typed or written about the policy.
pub struct Choice<'a> {
    /// What it starts from; none: the profile that is meant where nobody names one.
    pub base: Option<Base<'a>>,
    /// Built-in presets, and files.
    pub presets: Vec<String>,
}

/// What a policy starts from.
#[derive(Clone, Copy)]
pub enum Base<'a> {
    /// A built-in profile.
    Profile(&'a str),
    /// A file.
    File(&'a Path),
}

impl<'a> Base<'a> {
    /// Of one place that may name either. None names both: the command line and the configuration file refuse
    /// that.
    pub fn named(profile: Option<&'a str>, file: Option<&'a Path>) -> Option<Self> {
        file.map(Self::File).or(profile.map(Self::Profile))
    }
}

/// Finds the text that a choice means.
pub fn source(choice: &Choice<'_>) -> Result<PolicySource, Failure> {
    let presets = choice.presets.iter().map(|word| preset(word)).collect::<Result<_, _>>()?;
    let (name, text, watch) = match choice.base.unwrap_or(Base::Profile(policy::DEFAULT_PROFILE)) {
        Base::File(path) => (path.display().to_string(), read(path)?, watched(path)?),
        Base::Profile(wanted) => {
            let found = built_in::profile(wanted).map_err(Failure::refused)?;
            (format!("profile {wanted}"), found.text.to_owned(), None)
        }
    };
    Ok(PolicySource { name, text, watch, presets })
}

/// Reads the preset that a word stands for.
fn preset(word: &str) -> Result<PresetSource, Failure> {
    if built_in::is_a_file(word) {
        let path = Path::new(word);
        let mend = "name another: it has `preset: { name, description }` and `network_policies`";
        let text = given::read(path, FILE_MAX, mend)?;
        return Ok(PresetSource { name: word.to_owned(), text, file: watched(path)? });
    }
    let Builtin { name, text } = built_in::preset(word).map_err(Failure::refused)?;
    Ok(PresetSource { name: (*name).to_owned(), text: (*text).to_owned(), file: None })
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
    if !quiet {
        let presets = source.presets.iter().filter_map(|preset| preset.preset().ok());
        let warnings = presets.map(|(_, warnings)| warnings).chain([candidate.warnings().clone()]);
        warnings.filter(|it| !it.is_empty()).for_each(|it| crate::console::warn(&render(&it)));
    }
    Ok(candidate)
}

/// As [`check`], with the diagnostics as they are.
pub fn load(source: &PolicySource) -> Result<Candidate, Diagnostics> {
    let presets = source.presets.iter().map(|preset| preset.preset().map(|(preset, _)| preset));
    Candidate::new(&source.name, &source.text, &presets.collect::<Result<Vec<_>, _>>()?)
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
