//! The built-in policies by their names, and how a file's path is told from such a name. Reads no file.

use policy::Builtin;

/// Whether a preset's name is a file's path: no built-in preset has such a name.
pub fn is_a_file(preset: &str) -> bool {
    preset.contains('/') || preset.ends_with(".yaml") || preset.ends_with(".yml")
}

/// A built-in profile by its name.
///
/// # Errors
/// Which there are.
pub fn profile(name: &str) -> Result<&'static Builtin, String> {
    policy::profile(name).ok_or_else(|| {
        let known = names(policy::profiles());
        format!("no profile is called '{name}': there are {known}; a file is a policy's (`--policy FILE`, `policy: FILE`)")
    })
}

/// A built-in preset by its name.
///
/// # Errors
/// Which there are.
pub fn preset(name: &str) -> Result<&'static Builtin, String> {
    policy::preset(name).ok_or_else(|| {
        let known = names(policy::presets());
        format!(
            "no preset is called '{name}': there are {known}; a file has a `/` in its path, or ends in .yaml"
        )
    })
}

fn names(all: &[Builtin]) -> String {
    all.iter().map(|builtin| builtin.name).collect::<Vec<_>>().join(", ")
}
