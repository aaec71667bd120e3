//! Writes the chosen files: all of them, or none.
//!
//! Only the configuration may be overwritten, with `--force`. Whatever can fail comes before the first file
//! gets its name, and the configuration gets its name last. Signals wait until everything is written, or
//! removed again.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::made::{Made, opened};
use super::settings;
use crate::console::as_word;
use crate::failure::Failure;
use crate::heart;
use crate::kept::{self, Aside};

/// The mode of a policy file: readable by all, since the supervisor watches it and, when started as root,
/// runs as another user. A policy is no secret.
const POLICY_MODE: u32 = 0o644;

/// The files to write.
pub struct Files<'a> {
    /// The configuration's path.
    pub file: &'a Path,
    /// Its text.
    pub text: &'a str,
    /// The sandbox's own policy beside it, if any: its name and text.
    pub policy: Option<(String, String)>,
    /// Whether the configuration replaces an existing one. A policy never does.
    pub force: bool,
    /// The workspace's path, from our working directory.
    pub workspace: Option<&'a Path>,
    /// The agent's settings: the path in the workspace, and the text.
    pub settings: Option<(&'a str, String)>,
}

/// Writes the files. Returns whether the agent's settings were written.
///
/// # Errors
/// A file can't be written. What was written before is removed.
pub fn write(files: &Files<'_>) -> Result<bool, Failure> {
    let signals = heart::hold_signals()?;
    let written = all(files);
    // A signal that arrived meanwhile ends this process here.
    signals.release()?;
    written
}

fn all(files: &Files<'_>) -> Result<bool, Failure> {
    let policy = files.policy.as_ref().map(|(name, text)| (files.file.with_file_name(name), text));
    let policy = match policy {
        Some((place, text)) if !policy_stands(&place, text)? => {
            let aside = Aside::write(&place, text.as_bytes(), POLICY_MODE).map_err(told(&place))?;
            Some((place, aside))
        }
        _ => None,
    };
    let file = files.file;
    let configuration = Aside::write(file, files.text.as_bytes(), kept::OURS_ALONE).map_err(told(file))?;
    let mut made = Made::default();
    let are_new = match files.workspace {
        Some(workspace) => within(workspace, files.settings.as_ref(), &mut made)?,
        None => false,
    };
    if let Some((place, policy)) = policy {
        policy.take().map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => another_policy(&place),
            _ => told(&place)(e),
        })?;
        made.took(kept::beside(&place), name_of(&place)).map_err(told(&place))?;
    }
    let taken = if files.force { configuration.replace() } else { configuration.take() };
    taken.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => is_there(file),
        _ => told(file)(e),
    })?;
    made.keep();
    kept::settle(file).map_err(told(file))?;
    Ok(are_new)
}

/// Makes the workspace, and writes the agent's settings into it. Returns whether they were written.
fn within(workspace: &Path, settings: Option<&(&str, String)>, made: &mut Made) -> Result<bool, Failure> {
    let parent = opened(kept::beside(workspace)).map_err(told(workspace))?;
    if let Some(name) = workspace.file_name() {
        made.directory(parent.as_fd(), name).map_err(told(workspace))?;
    }
    let Some((file, text)) = settings else { return Ok(false) };
    settings::put(made, workspace, file, text).map_err(told(&workspace.join(file)))
}

/// Whether exactly this policy is there already.
///
/// # Errors
/// Something else is there: it isn't ours, and this command was not told to replace it.
pub fn policy_stands(place: &Path, text: &str) -> Result<bool, Failure> {
    match place.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(told(place)(e)),
        Ok(_) => match kept::read(place).map_err(told(place))? {
            Some(stands) if stands == text.as_bytes() => Ok(true),
            _ => Err(another_policy(place)),
        },
    }
}

fn another_policy(place: &Path) -> Failure {
    Failure::refused(format!(
        "{} is there already and isn't what would be written: give the sandbox another --name, or remove that file",
        as_word(place)
    ))
}

fn name_of(place: &Path) -> &OsStr {
    place.file_name().unwrap_or_default()
}

fn told(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| Failure::refused(format!("{path}: {e}"))
}

/// Returns the refusal to overwrite a file.
pub fn is_there(file: &Path) -> Failure {
    Failure::refused(format!(
        "{} is there already: name another by --file, or --force to write over it",
        as_word(file)
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A place to write in, with the workspace below it.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.at(name)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn mode(&self, name: &str) -> u32 {
            fs::symlink_metadata(self.at(name)).unwrap().mode() & 0o777
        }

        fn write(&self, text: &str, force: bool) -> Result<bool, Failure> {
            all(&Files {
                file: &self.at("c.yaml"),
                text,
                policy: Some(("p.yaml".to_owned(), "seen".to_owned())),
                force,
                workspace: Some(&self.at("work")),
                settings: Some((".a/b/c", "told".to_owned())),
            })
        }
    }

    #[test]
    fn all_is_written_or_nothing() {
        let place = Place::new();
        fs::write(place.at("c.yaml"), "theirs").unwrap();
        assert!(place.write("ours", false).unwrap_err().message.contains("--force"));
        assert_eq!((place.text("c.yaml").as_str(), place.names()), ("theirs", vec!["c.yaml".into()]));
        assert!(place.write("ours", true).unwrap());
        assert_eq!(place.text("c.yaml"), "ours");
        assert_eq!((place.mode("c.yaml"), place.mode("p.yaml"), place.mode("work")), (0o600, 0o644, 0o700));
        fs::remove_file(place.at("c.yaml")).unwrap();
        assert!(!place.write("again", false).unwrap(), "what is told is left as it is");
        assert_eq!(place.names(), ["c.yaml", "p.yaml", "work"]);
    }

    #[test]
    fn a_policy_of_somebodys_is_never_written_over() {
        let place = Place::new();
        let refused = |force| {
            let why = place.write("ours", force).unwrap_err().message;
            assert!(why.contains("p.yaml is there already") && why.contains("--name"), "{why}");
        };
        fs::write(place.at("p.yaml"), "by hand").unwrap();
        fs::write(place.at("c.yaml"), "theirs").unwrap();
        [true, false].into_iter().for_each(refused);
        assert_eq!((place.text("p.yaml").as_str(), place.text("c.yaml").as_str()), ("by hand", "theirs"));
        assert_eq!(place.names(), ["c.yaml", "p.yaml"]);
        // A link to a file with the same text doesn't count as ours either.
        fs::remove_file(place.at("p.yaml")).unwrap();
        fs::write(place.at("elsewhere"), "seen").unwrap();
        symlink("elsewhere", place.at("p.yaml")).unwrap();
        refused(true);
        assert_eq!(place.names(), ["c.yaml", "elsewhere", "p.yaml"]);
    }

    #[test]
    fn what_fails_at_the_end_leaves_what_stood_there_and_no_directory() {
        let place = Place::new();
        // A directory takes no file's place, whatever is forced.
        fs::create_dir(place.at("c.yaml")).unwrap();
        for force in [true, false] {
            place.write("ours", force).unwrap_err();
            assert_eq!(place.names(), ["c.yaml"], "force: {force}");
        }
        // In the middle, where some of the ways are new and some aren't.
        fs::create_dir_all(place.at("work/.a")).unwrap();
        fs::write(place.at("work/.a/mine"), "mine").unwrap();
        place.write("ours", true).unwrap_err();
        assert_eq!(
            (place.names(), fs::read_dir(place.at("work/.a")).unwrap().count()),
            (vec!["c.yaml".into(), "work".into()], 1)
        );
        fs::remove_dir(place.at("c.yaml")).unwrap();
        fs::write(place.at("c.yaml"), "theirs").unwrap();
        symlink("/", place.at("work/.a/b")).unwrap();
        place.write("ours", true).unwrap_err();
        assert_eq!(
            (place.text("c.yaml").as_str(), place.names()),
            ("theirs", vec!["c.yaml".into(), "work".into()])
        );
    }

    /// Another user who may write to the directory keeps putting a link in the policy's place: the mode of
    /// the link's target must not change.
    #[test]
    fn no_mode_is_set_through_a_link() {
        let place = Place::new();
        kept::write(&place.at("victim"), b"theirs").unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = symlink("victim", place.at("link"));
                    let _ = fs::rename(place.at("link"), place.at("p.yaml"));
                    let _ = fs::remove_file(place.at("p.yaml"));
                }
            });
            for _ in 0..200 {
                // Written or refused, as the race goes.
                let _ = place.write("ours", true);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!((place.mode("victim"), place.text("victim").as_str()), (0o600, "theirs"));
    }
}
