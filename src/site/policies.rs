//! Finds, reads and checks the policy that a command means: a built-in profile or a file, with presets on top
//! that are built in or files too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agent::plan::{PathRule, Paths, WORKSPACE};
use policy::{Builtin, Candidate, Diagnostics, Policy};

use crate::built_in;
use crate::console::Paint;
use crate::failure::Failure;
use crate::given;
use crate::plan::{PolicySource, PresetSource};

/// HTTP's own ports, which are captured in addition to the policy's if the operator is asked about what the
/// policy doesn't name.
pub const ASKED_ABOUT: [u16; 2] = [80, 443];

/// A policy file larger than this is refused before it is parsed.
pub const FILE_MAX: u64 = 4 << 20;

/// The choice of a policy, as typed or written in a file.
pub struct Choice<'a> {
    /// What it starts from. `None`: the default profile.
    pub base: Option<Base<'a>>,
    /// Names of built-in presets, and paths of files.
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
    /// Returns the base that one source names, which may name either. That it names both was refused before,
    /// by the command line or the configuration file.
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

/// Returns the path to watch for changes. `None` for a descriptor, which only this process can read, and only
/// once.
fn watched(path: &Path) -> Result<Option<PathBuf>, Failure> {
    if given::is_descriptor(path) {
        return Ok(None);
    }
    given::lasting(path).map(Some)
}

/// Reads a policy file of up to [`FILE_MAX`] bytes.
pub fn read(path: &Path) -> Result<String, Failure> {
    let mend = format!(
        "name another, or write it: `cofferdam policy presets {} > {}` makes one to begin with",
        policy::DEFAULT_PROFILE,
        path.display()
    );
    given::read(path, FILE_MAX, &mend)
}

/// Composes and compiles a policy. Every error is reported at its place; warnings are printed unless `quiet`.
pub fn check(source: &PolicySource, quiet: bool) -> Result<Candidate, Failure> {
    let candidate = load(source).map_err(|diagnostics| Failure::refused(render(&diagnostics)))?;
    if !quiet {
        let presets = source.presets.iter().filter_map(|preset| preset.preset().ok());
        let warnings = presets.map(|(_, warnings)| warnings).chain([candidate.warnings().clone()]);
        warnings.filter(|it| !it.is_empty()).for_each(|it| crate::console::warn(&render(&it)));
    }
    Ok(candidate)
}

/// As [`check`], but returns the diagnostics unrendered and prints nothing.
pub fn load(source: &PolicySource) -> Result<Candidate, Diagnostics> {
    let presets = source.presets.iter().map(|preset| preset.preset().map(|(preset, _)| preset));
    Candidate::new(&source.name, &source.text, &presets.collect::<Result<Vec<_>, _>>()?)
}

/// Renders diagnostics for people: as rustc shows them, in colours on a terminal.
pub fn render(diagnostics: &Diagnostics) -> String {
    diagnostics.render(Paint::stderr().on())
}

/// Returns the policy's paths for the cage.
pub fn paths(policy: &Policy) -> Paths {
    let filesystem = policy.filesystem();
    let rule = |rule: &policy::PathRule| PathRule { path: rule.path.clone(), optional: rule.optional };
    let mut read_write: Vec<PathRule> = filesystem.read_write.iter().map(rule).collect();
    if filesystem.include_workdir && !read_write.iter().any(|rule| rule.path == Path::new(WORKSPACE)) {
        read_write.push(PathRule { path: WORKSPACE.into(), optional: false });
    }
    Paths { read_only: filesystem.read_only.iter().map(rule).collect(), read_write }
}

/// Returns how many different ports are captured under the policy: those that it names, and HTTP's own, where
/// the operator is asked about what it doesn't name.
pub fn ports(policy: &Policy) -> usize {
    let endpoints = policy.network().iter().flat_map(|entry| &entry.endpoints);
    let named = endpoints.flat_map(|endpoint| &endpoint.ports).copied();
    named.chain(ASKED_ABOUT).collect::<BTreeSet<_>>().len()
}
