//! Where a sandbox's agents could ever write: kept in its state directory from cage to cage and from start to start, since a link that one
//! of them left there is still theirs when the policy has taken the place away.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use agent::isolation::shown::written;
use agent::plan::CagePlan;

use crate::cli::kept;
use crate::cli::out::Failure;

/// In the state directory of a sandbox: real paths, each with a NUL at its end, which no path has in it.
const FILE: &str = "places";

/// What the sandboxes before have left.
///
/// # Errors
/// When that can't be told.
pub fn before(dir: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let path = dir.join(FILE);
    let bytes = kept::read(&path).map_err(|e| {
        Failure::refused(format!(
            "{}: {e}: it says where agents of '{}' could have left links; remove it once you have looked there",
            path.display(),
            dir.file_name().unwrap_or_default().display()
        ))
    })?;
    let places = bytes.unwrap_or_default();
    let places =
        places.split(|byte| *byte == 0).map(|place| PathBuf::from(OsString::from_vec(place.to_vec())));
    Ok(places.filter(|place| place.is_absolute()).collect())
}

/// Adds those of a cage, before anything runs in it.
///
/// # Errors
/// When that can't be kept.
pub fn remember(dir: &Path, cage: &CagePlan) -> Result<(), Failure> {
    let places = written(cage);
    if places == cage.written_before {
        return Ok(());
    }
    let path = dir.join(FILE);
    let bytes: Vec<u8> =
        places.iter().flat_map(|place| [place.as_os_str().as_bytes(), &[0]].concat()).collect();
    kept::write(&path, &bytes).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))
}
