//! Refuses paths that aren't UTF-8, before anything is made: the plan is JSON, which can't hold them.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::given::lasting;
use crate::start::Wanted;
use crate::state::Root;

/// Checks that every named path, made absolute, can be written into the plan.
///
/// # Errors
/// A path that can't, and the option that named it.
pub fn check(root: &Root, wanted: &Wanted) -> Result<(), Failure> {
    let usual = Root::locate(None).ok();
    let presets = wanted.policy.presets.iter().map(|preset| ("--preset, `presets`", &preset.file));
    let named = [
        ("--workspace, `workspace`", &wanted.workspace),
        ("--root, `root`", &wanted.root),
        ("--policy, `policy`", &wanted.policy.watch),
        ("--config, --file", &wanted.config),
        ("`upstream_ca`", &wanted.upstream_ca),
        ("SSL_CERT_FILE", &wanted.system_roots),
    ];
    let named = named.into_iter().chain(presets);
    let named = named.filter_map(|(what, path): (_, &Option<PathBuf>)| Some((what, path.as_deref()?)));
    [("--state", root.dir())]
        .into_iter()
        .chain(usual.as_ref().map(|usual| ("XDG_STATE_HOME, HOME", usual.dir())))
        .chain(named)
        .try_for_each(|(what, path)| is_text(what, &lasting(path)?))
}

/// Checks that one path can be written into the plan.
///
/// # Errors
/// The path can't; the message says which option named it.
pub fn is_text(what: &str, path: &Path) -> Result<(), Failure> {
    if path.to_str().is_some() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{what}: {path:?} is not UTF-8 text, which a sandbox's paths must be: rename what isn't, or name another"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_can_not_be_written_down_is_told_on_one_line() {
        assert!(is_text("--root", Path::new("/ü b")).is_ok());
        let odd = Path::new(OsStr::from_bytes(b"/tmp/b\xff\nd"));
        let why = is_text("--root", odd).unwrap_err().message;
        assert!(why.starts_with(r#"--root: "/tmp/b\xFF\nd" is not UTF-8 text"#), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
}
