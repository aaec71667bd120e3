//! What was chosen becomes files: all of them, or none.
//!
//! Nothing is written over but a configuration that `--force` names; signals wait until everything is there or gone again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::settings;
use crate::cli::out::{Failure, as_word};
use crate::heart;
use crate::kept;

/// The files.
pub struct Files<'a> {
    /// The configuration's place.
    pub file: &'a Path,
    /// Its text.
    pub text: &'a str,
    /// The policy beside it, where it has one of its own: its name and text.
    pub policy: Option<(String, String)>,
    /// Whether they may stand there already.
    pub force: bool,
    /// The workspace, as whoever is here reaches it.
    pub workspace: Option<&'a Path>,
    /// What the agent is told, by its path in the workspace.
    pub settings: Option<(&'a str, String)>,
}

/// What was made, taken away again unless it is kept.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // It was ours alone a moment ago; what can't be removed now, nobody here can.
            let _gone = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
        }
    }
}

/// Writes them; whether the agent's settings are new.
///
/// # Errors
/// What can't be written. Nothing is left then of what was.
pub fn write(files: &Files<'_>) -> Result<bool, Failure> {
    let signals = heart::hold_signals()?;
    let written = all(files);
    // Whoever was asked to end meanwhile ends of that, here.
    signals.release()?;
    written
}

fn all(files: &Files<'_>) -> Result<bool, Failure> {
    let told = |path: &Path, e: &io::Error| Failure::refused(format!("{}: {e}", path.display()));
    let mut made = Made::default();
    let mut are_new = false;
    if let Some(workspace) = files.workspace {
        match DirBuilder::new().mode(0o700).create(workspace) {
            Ok(()) => made.0.push(workspace.to_owned()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(told(workspace, &e)),
        }
        if let Some((file, text)) = &files.settings {
            let path = workspace.join(file);
            are_new = settings::put(workspace, file, text).map_err(|e| told(&path, &e))?;
            if are_new {
                made.0.push(path);
            }
        }
    }
    if let Some((name, text)) = &files.policy {
        let policy = files.file.with_file_name(name);
        put(&policy, text, files.force)?;
        if !files.force {
            made.0.push(policy.clone());
        }
        // Watched by the supervisor, which is another user's as root. It is no secret.
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).map_err(|e| told(&policy, &e))?;
    }
    put(files.file, files.text, files.force)?;
    made.0.clear();
    Ok(are_new)
}

fn put(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let put = if force { kept::write } else { kept::write_new };
    put(file, text.as_bytes()).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => is_there(file),
        _ => Failure::refused(format!("{}: {e}", file.display())),
    })
}

/// A file that isn't written over.
pub fn is_there(file: &Path) -> Failure {
    Failure::refused(format!(
        "{} is there already: name another by --file, or --force to write over it",
        as_word(file)
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn all_is_written_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (file, workspace) = (dir.path().join("c.yaml"), dir.path().join("work"));
        let files = |text: &'static str, force| (text, force);
        let write = |(text, force)| {
            let settings = Some((".a/b", "told".to_owned()));
            all(&Files {
                file: &file,
                text,
                policy: Some(("p.yaml".to_owned(), "seen".to_owned())),
                force,
                workspace: Some(&workspace),
                settings,
            })
        };
        fs::write(&file, "theirs").unwrap();
        assert!(write(files("ours", false)).unwrap_err().message.contains("--force"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        assert!(!workspace.exists() && fs::read_dir(dir.path()).unwrap().count() == 1);
        assert!(write(files("ours", true)).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "ours");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::remove_file(&file).unwrap();
        assert!(write(files("again", false)).unwrap_err().message.contains("p.yaml"), "another's policy");
        assert!(!file.exists());
        assert_eq!(fs::metadata(dir.path().join("p.yaml")).unwrap().mode() & 0o777, 0o644);
        fs::remove_file(dir.path().join("p.yaml")).unwrap();
        assert!(!write(files("again", false)).unwrap(), "what is told is left as it is");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
