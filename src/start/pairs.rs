//! Which pairs of dynamic user ids are taken, on the whole machine, by whatever state directory: a lock and records in the usual state directory
//! of root, below which nobody else can make or hold anything.
//!
//! ```text
//! /var/lib/cofferdam/.choosing   locked while a rooted sandbox chooses or confirms its pair
//! /var/lib/cofferdam/.ids/FIRST  the sandbox's directory that has this pair; true as long as that says so too
//! ```
//! Where that place is read-only (a container's root), the lock and the records are those of the state directory in use: then what other ones
//! have chosen is seen by its processes alone. Never takes the word of a place that others may write to.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::kept;
use crate::state::open_lock;

const CHOOSING: &str = ".choosing";
const RECORDS: &str = ".ids";

/// Who has which pair; nobody else changes that as long as this is there.
pub struct Pairs {
    records: PathBuf,
    _choosing: File,
}

/// Who has a pair already.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder {
    /// The sandbox of this directory.
    Sandbox(PathBuf),
    /// Processes that run.
    Processes,
}

impl Pairs {
    /// Waits until nobody else chooses: in the first of these places that can be written to.
    ///
    /// # Errors
    /// When none can, or others may write to one.
    pub fn locked(places: &[&Path]) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            match Self::locked_in(place) {
                Err(e) if matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem) => last = e,
                other => {
                    return other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", place.display())));
                }
            }
        }
        Err(last)
    }

    fn locked_in(place: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(place)?;
        closed_to_others(&File::open(place)?, 0o022, "the directory")?;
        // Open to nobody else: whoever may read a file, or a directory, can hold its lock for ever (flock(2)).
        let choosing = open_lock(&place.join(CHOOSING))?;
        closed_to_others(&choosing, 0o077, CHOOSING)?;
        choosing.lock()?;
        let records = place.join(RECORDS);
        match DirBuilder::new().mode(0o700).create(&records) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        closed_to_others(&File::open(&records)?, 0o077, RECORDS)?;
        Ok(Self { records, _choosing: choosing })
    }

    /// Who else than the sandbox of this directory has the pair that begins with `first`.
    pub fn holder(&self, first: u32, besides: &Path) -> Option<Holder> {
        let recorded = kept::read(&self.records.join(first.to_string())).ok().flatten();
        match recorded.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path))) {
            Some(dir) if dir == besides => None,
            Some(dir) if chosen(&dir) == Some(first) => Some(Holder::Sandbox(dir)),
            // One whose directory is elsewhere by now, or not to be seen from here.
            _ => runs(first).then_some(Holder::Processes),
        }
    }

    /// Puts on record that the sandbox of this directory has the pair.
    pub fn record(&self, first: u32, dir: &Path) -> io::Result<()> {
        let record = self.records.join(first.to_string());
        let bytes = dir.as_os_str().as_bytes();
        match kept::read(&record) {
            Ok(Some(there)) if there == bytes => Ok(()),
            _ => kept::write(&record, bytes),
        }
    }
}

/// The first id of the pair that a sandbox's directory says is its own.
pub fn chosen(dir: &Path) -> Option<u32> {
    let text = kept::read(&dir.join("ids")).ok().flatten()?;
    String::from_utf8(text).ok()?.trim().parse().ok()
}

fn closed_to_others(file: &File, bits: u32, what: &str) -> io::Result<()> {
    let found = file.metadata()?;
    if found.uid() == geteuid().as_raw() && found.mode() & bits == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("{what} is open to others: it must be root's alone")))
}

/// Whether a process of either id of a pair runs (proc_pid_status(5): real, effective, saved and filesystem id).
pub fn runs(first: u32) -> bool {
    let of_pair = |id: &str| id.parse().is_ok_and(|id: u32| id == first || id == first + 1);
    fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let named = entry.file_name();
        let is_process = named.as_bytes().iter().all(u8::is_ascii_digit);
        let status = is_process.then(|| fs::read_to_string(entry.path().join("status")).ok()).flatten();
        let ids = status.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("Uid:")));
        ids.is_some_and(|ids| ids.split_whitespace().any(of_pair))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn who_may_read_the_place_holds_up_no_choice() {
        let root = tempfile::tempdir().unwrap();
        let anybodys = File::open(root.path()).unwrap();
        anybodys.lock().unwrap();
        let one = Pairs::locked(&[root.path()]).unwrap();
        let other = open_lock(&root.path().join(CHOOSING)).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)), "one at a time");
        drop(one);
        for (name, mode) in [(CHOOSING, 0o644), (RECORDS, 0o755), ("", 0o777)] {
            let path = root.path().join(name);
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(Pairs::locked(&[root.path()]).is_err(), "others could hold or make {name:?}");
            fs::set_permissions(&path, before).unwrap();
        }
        assert!(Pairs::locked(&[root.path()]).is_ok());
    }

    #[test]
    fn a_pair_is_its_sandboxs_as_long_as_both_say_so_and_nobodys_whose_processes_run() {
        const FIRST: u32 = 61_184;
        let machine = tempfile::tempdir().unwrap();
        let (one, other) = (machine.path().join("a/one"), machine.path().join("b/one"));
        for dir in [&one, &other] {
            fs::create_dir_all(dir).unwrap();
        }
        let pairs = Pairs::locked(&[machine.path()]).unwrap();
        let us = geteuid().as_raw();
        assert!(runs(us) && us.checked_sub(1).is_none_or(runs), "either of the two");
        assert_eq!(pairs.holder(us, &one), Some(Holder::Processes));
        assert_eq!(pairs.holder(FIRST, &one), None);
        pairs.record(FIRST, &one).unwrap();
        kept::write(&one.join("ids"), b"61184\n").unwrap();
        assert_eq!(pairs.holder(FIRST, &one), None, "its own");
        assert_eq!(pairs.holder(FIRST, &other), Some(Holder::Sandbox(one.clone())));
        fs::remove_file(one.join("ids")).unwrap();
        assert_eq!(pairs.holder(FIRST, &other), None);
    }
}
