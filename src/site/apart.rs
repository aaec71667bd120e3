//! Files that a sandbox's agents must not touch, in any of its cages. Agents that could change the files that
//! decide about them would decide for themselves; agents that could read the files that hold keys would have
//! the keys.

use std::fs;
use std::path::{Path, PathBuf};

use agent::isolation::links;
use agent::isolation::shown::Place;

use crate::failure::Failure;
use crate::given::lasting;

/// The files to keep apart from a sandbox's agents, by absolute paths, for every cage that it will have.
#[derive(Debug)]
pub struct Apart {
    /// The files that decide about the agents, each with what messages call it.
    pub deciding: Vec<(&'static str, PathBuf)>,
    /// The files that hold keys, each with its reference.
    pub keys: Vec<(String, PathBuf)>,
    /// The operator's roots for upstream servers. Each supervisor reads them again, so even a run hasn't read
    /// them once and for all.
    pub roots: Option<PathBuf>,
}

impl Apart {
    /// Refuses a cage in whose places agents could read one of the keys, or change what decides about them.
    ///
    /// # Errors
    /// Which file it is, and the remedy.
    pub fn keep_out(&self, places: &[Place]) -> Result<(), Failure> {
        self.keep_keys_out(places)?;
        self.keep_roots_out(places)?;
        self.deciding.iter().try_for_each(|(what, file)| refuse_changeable(what, file, places))
    }

    /// Refuses places in which agents could change the operator's roots.
    ///
    /// # Errors
    /// As [`Apart::keep_out`].
    pub fn keep_roots_out(&self, places: &[Place]) -> Result<(), Failure> {
        self.roots.iter().try_for_each(|file| refuse_changeable("SSL_CERT_FILE", file, places))
    }

    /// Refuses places in which agents could read one of the keys.
    ///
    /// # Errors
    /// As [`Apart::keep_out`].
    pub fn keep_keys_out(&self, places: &[Place]) -> Result<(), Failure> {
        for (reference, file) in &self.keys {
            if let Some(place) = place_of(file, places.iter())? {
                return Err(Failure::refused(format!(
                    "credential {reference} lies in {}, or the way to it leads through there, and agents can read that: move it out of \
                     the workspace, of --root and of what the policy shows",
                    place.display()
                )));
            }
        }
        Ok(())
    }
}

/// Returns the words for a file that decides about the agents, and that they can change.
pub fn lies_within(what: &str, file: &Path) -> String {
    format!("{what} {} lies where the agent can change it", file.display())
}

fn refuse_changeable(what: &str, file: &Path, places: &[Place]) -> Result<(), Failure> {
    match is_changeable(file, places)? {
        false => Ok(()),
        true => Err(Failure::refused(format!(
            "{}: move it out of the workspace and of what the policy makes writable",
            lies_within(what, file)
        ))),
    }
}

/// Whether agents could change this file, or redirect the path to it.
///
/// # Errors
/// Without a working directory.
pub fn is_changeable(file: &Path, places: &[Place]) -> Result<bool, Failure> {
    Ok(place_of(file, places.iter().filter(|place| place.writable))?.is_some())
}

/// Returns which of these places holds the file, or any part of the path to it, link by link: a link there
/// could be redirected.
fn place_of<'a>(
    file: &Path,
    places: impl Iterator<Item = &'a Place> + Clone,
) -> Result<Option<&'a Path>, Failure> {
    let file = lasting(file)?;
    Ok(links::steps(&file).find_map(|way| {
        let mut real = way.ancestors().filter_map(|part| fs::canonicalize(part).ok());
        real.find_map(|part| places.clone().find(|place| part.starts_with(&place.path)))
            .map(|place| place.path.as_path())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_counts_as_well_as_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for made in ["workspace/sub", "outside"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        for file in ["workspace/a", "workspace/sub/b", "outside/c"] {
            fs::write(at(file), "").unwrap();
        }
        std::os::unix::fs::symlink(at("outside"), at("workspace/out")).unwrap();
        std::os::unix::fs::symlink(at("workspace/a"), at("outside/in")).unwrap();
        std::os::unix::fs::symlink(at("workspace/out"), at("outside/through")).unwrap();
        let places = [Place { path: fs::canonicalize(at("workspace")).unwrap(), writable: true }];
        let is_within = |file: &str| place_of(&at(file), places.iter()).unwrap().is_some();
        for within in [
            "workspace/a",
            "workspace/sub/b",
            "workspace/out/c",
            "outside/in",
            "outside/through/c",
            "workspace/not-there",
            "workspace/sub/../../outside/c",
        ] {
            assert!(is_within(within), "{within}");
        }
        for without in ["outside/c", "outside/not-there", "c", "workspace2"] {
            assert!(!is_within(without), "{without}");
        }
    }
}
