//! The profiles and presets that come with the program.
//!
//! They are files under `policies/`, built in as they stand; a test reads every one of them.

use crate::diagnostics::Diagnostics;
use crate::read::{Parsed, Preset, parse, parse_preset};

/// A file that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// What `--profile` or `--preset` calls it.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

/// The profile that is used when none is named.
pub const DEFAULT_PROFILE: &str = "locked-down";

macro_rules! builtin {
    ($folder:literal, $($name:literal),+) => {
        [$(Builtin { name: $name, text: include_str!(concat!("../../../policies/", $folder, "/", $name, ".yaml")) }),+]
    };
}

static PROFILES: [Builtin; 3] = builtin!("profiles", "locked-down", "development", "integration-testing");
static PRESETS: [Builtin; 5] = builtin!("presets", "github", "pypi", "npm", "huggingface", "local-inference");

/// The built-in profiles: whole policies.
#[must_use]
pub fn profiles() -> &'static [Builtin] {
    &PROFILES
}

/// The built-in presets: entries to add to a policy.
#[must_use]
pub fn presets() -> &'static [Builtin] {
    &PRESETS
}

/// A built-in profile by its name.
#[must_use]
pub fn profile(name: &str) -> Option<&'static Builtin> {
    PROFILES.iter().find(|p| p.name == name)
}

/// A built-in preset by its name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Builtin> {
    PRESETS.iter().find(|p| p.name == name)
}

impl Builtin {
    /// Reads it as a policy.
    ///
    /// # Errors
    /// It is a preset, or (a test says never) it has errors.
    pub fn policy(&self) -> Result<Parsed, Diagnostics> {
        parse(self.name, self.text)
    }

    /// Reads it as a preset.
    ///
    /// # Errors
    /// It is a profile, or (a test says never) it has errors.
    pub fn preset(&self) -> Result<Preset, Diagnostics> {
        parse_preset(self.name, self.text).map(|(preset, _)| preset)
    }
}
