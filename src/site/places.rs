//! The places where a sandbox's agents could ever write. They are kept in its state directory from cage to
//! cage and from start to start: a link that an agent left there is still the agent's after the policy has
//! taken the place away.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use agent::isolation::links::{self, Astray};
use agent::isolation::shown::written;
use agent::plan::CagePlan;

use crate::failure::Failure;
use crate::kept;
use crate::state::files;

/// Returns where the agents of earlier cages could write.
///
/// # Errors
/// The list can't be read, or isn't whole.
pub fn before(dir: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let path = dir.join(files::PLACES);
    let told = |why: String| {
        Failure::refused(format!(
            "{}: {why}: it says where agents of '{}' could have left links; remove it once you have looked there",
            path.display(),
            dir.file_name().unwrap_or_default().display()
        ))
    };
    let bytes = kept::read(&path).map_err(|e| told(e.to_string()))?;
    let Some(bytes) = bytes else { return Ok(BTreeSet::new()) };
    let whole = bytes.strip_suffix(&[0]).ok_or_else(|| told("it is not whole".into()))?;
    let places =
        whole.split(|byte| *byte == 0).map(|place| PathBuf::from(OsString::from_vec(place.to_vec())));
    Ok(places.collect())
}

/// Returns where a path leads. Follows no link that agents could have left.
///
/// # Errors
/// See [`links::follow`].
pub fn follow(path: &Path, before: &BTreeSet<PathBuf>) -> Result<PathBuf, Astray> {
    let theirs: Vec<PathBuf> = before.iter().cloned().collect();
    links::follow(&std::path::absolute(path)?, &theirs)
}

/// Writes the list of a new sandbox: its agents could have left links only in `workspace`.
///
/// # Errors
/// When that can't be kept.
pub fn begin(dir: &Path, workspace: &Path) -> Result<(), Failure> {
    let path = dir.join(files::PLACES);
    let bytes = [workspace.as_os_str().as_bytes(), &[0]].concat();
    kept::write(&path, &bytes).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))
}

/// Adds the places of a cage before anything runs in it: to the cage's own list, which later cages take over,
/// and to the list that is kept.
///
/// # Errors
/// When that can't be kept.
pub fn remember(dir: &Path, cage: &mut CagePlan) -> Result<(), Failure> {
    gather(dir, cage)?.keep()
}

/// As [`remember`], but returns what is to be kept instead of writing it: the caller may still refuse to
/// build the cage.
///
/// # Errors
/// The kept list can't be read, or isn't whole.
pub fn gather(dir: &Path, cage: &mut CagePlan) -> Result<News, Failure> {
    let kept = before(dir)?;
    let places: BTreeSet<PathBuf> = kept.iter().cloned().chain(written(cage)).collect();
    let bytes = (places != kept)
        .then(|| places.iter().flat_map(|place| [place.as_os_str().as_bytes(), &[0]].concat()).collect());
    cage.written_before = places;
    Ok(News { path: dir.join(files::PLACES), bytes })
}

/// The list of places with those of a cage added. It must be kept before anything runs in that cage.
#[must_use]
pub struct News {
    path: PathBuf,
    /// The list's text. `None` if the kept list has every place already.
    bytes: Option<Vec<u8>>,
}

impl News {
    /// Writes the list.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep(self) -> Result<(), Failure> {
        let Some(bytes) = self.bytes else { return Ok(()) };
        kept::write(&self.path, &bytes).map_err(|e| Failure::refused(format!("{}: {e}", self.path.display())))
    }
}
