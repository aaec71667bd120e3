//! Files that the agents of every cage of a sandbox must have no hand in: those that decide about them, or
//! they would decide themselves; and those that hold keys, or they would have them.

use std::fs;
use std::path::{Path, PathBuf};

use agent::isolation::links;
use agent::isolation::shown::{Place, places};
use agent::plan::CagePlan;

use crate::failure::Failure;

/// The files of a sandbox, by absolute paths: for every cage that it will have.
#[derive(Debug)]
pub struct Apart {
    /// What decides about the agents, and what each is.
    pub deciding: Vec<(&'static str, PathBuf)>,
    /// What holds keys, by their references.
    pub keys: Vec<(String, PathBuf)>,
    /// The operator's roots for upstream servers, read again by each supervisor: nothing that a run has read
    /// once and for all.
    pub roots: Option<PathBuf>,
}

impl Apart {
    /// Refuses a cage in which agents could read one of the keys, or change what decides about them.
    ///
    /// # Errors
    /// Which file, and the mend.
    pub fn keep_out(&self, cage: &CagePlan) -> Result<(), Failure> {
        let places = places(cage);
        self.keep_keys_out(&places)?;
        self.keep_roots_out(&places)?;
        self.deciding.iter().try_for_each(|(what, file)| refuse_changeable(what, file, &places))
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

/// How it is said that agents can change what decides about them.
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

/// Whether agents could change this file, or lead the way to it elsewhere.
///
/// # Errors
/// Without a working directory.
pub fn is_changeable(file: &Path, places: &[Place]) -> Result<bool, Failure> {
    Ok(place_of(file, places.iter().filter(|place| place.writable))?.is_some())
}

/// The place of these in which a file lies, or anything on the way to it, link by link: a link there could be
/// led elsewhere.
fn place_of<'a>(
    file: &Path,
    places: impl Iterator<Item = &'a Place> + Clone,
) -> Result<Option<&'a Path>, Failure> {
    let file = std::path::absolute(file)?;
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
