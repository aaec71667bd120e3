//! Where a sandbox's agents could ever write: kept in its state directory from cage to cage and from start to
//! start, since a link that one of them left there is still theirs when the policy has taken the place away.

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

/// What the cages before have left.
///
/// # Errors
/// When that can't be told.
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

/// Where a path leads, through no link that could be theirs.
///
/// # Errors
/// See [`links::follow`].
pub fn follow(path: &Path, before: &BTreeSet<PathBuf>) -> Result<PathBuf, Astray> {
    let theirs: Vec<PathBuf> = before.iter().cloned().collect();
    links::follow(&std::path::absolute(path)?, &theirs)
}

/// Says that of a new sandbox: its agents could have left links in this directory alone.
///
/// # Errors
/// When that can't be kept.
pub fn begin(dir: &Path, workspace: &Path) -> Result<(), Failure> {
    let path = dir.join(files::PLACES);
    let bytes = [workspace.as_os_str().as_bytes(), &[0]].concat();
    kept::write(&path, &bytes).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))
}

/// Adds those of a cage, before anything runs in it: to what it knows, for the cages after it, and to what is
/// kept.
///
/// # Errors
/// When that can't be kept.
pub fn remember(dir: &Path, cage: &mut CagePlan) -> Result<(), Failure> {
    gather(dir, cage)?.keep()
}

/// As [`remember`], with what is to be kept not written yet: for whoever may still refuse to build the cage.
///
/// # Errors
/// When what the cages before have left can't be told.
pub fn gather(dir: &Path, cage: &mut CagePlan) -> Result<News, Failure> {
    let kept = before(dir)?;
    let places: BTreeSet<PathBuf> = kept.iter().cloned().chain(written(cage)).collect();
    let bytes = (places != kept)
        .then(|| places.iter().flat_map(|place| [place.as_os_str().as_bytes(), &[0]].concat()).collect());
    cage.written_before = places;
    Ok(News { path: dir.join(files::PLACES), bytes })
}

/// Where agents of a cage can write, to be on record before anything runs in it.
#[must_use]
pub struct News {
    path: PathBuf,
    /// None where all of it is.
    bytes: Option<Vec<u8>>,
}

impl News {
    /// Puts it on record.
    ///
    /// # Errors
    /// When that can't be.
    pub fn keep(self) -> Result<(), Failure> {
        let Some(bytes) = self.bytes else { return Ok(()) };
        kept::write(&self.path, &bytes).map_err(|e| Failure::refused(format!("{}: {e}", self.path.display())))
    }
}
