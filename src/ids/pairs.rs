//! Records which pairs of dynamic user ids are taken on the whole machine, by sandboxes of any state
//! directory. The lock and the records are in root's default state directory, in which only root can make or
//! lock anything.
//!
//! ```text
//! /var/lib/cofferdam/.choosing   locked while a rooted sandbox chooses or confirms its pair
//! /var/lib/cofferdam/.ids/FIRST  the sandbox's directory that has this pair; true as long as that says so too
//! /var/lib/cofferdam/.ids/FIRST.trial   locked while a trial has this pair, which no sandbox is there for
//! ```
//! If that place is read-only (a container's root), the lock and the records are those of the state directory
//! in use: then pairs chosen from other state directories show only by their processes. Never trusts a place
//! that others may write to. Never waits for the first lock without a limit, nor without heeding signals: a
//! stopped process that holds it would stop every start on the machine.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::launch::{pause, user_has_processes};
use nix::sys::stat::{major, minor};
use nix::unistd::geteuid;

use crate::console::{as_word, one_line, say};
use crate::kept;
use crate::state::{files, open_lock};

const CHOOSING: &str = ".choosing";
const RECORDS: &str = ".ids";
/// How long to wait for the lock: a choice takes milliseconds, and all starts at a time wait for each other.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this time a message says what is being waited for.
const SILENT: Duration = Duration::from_secs(2);
/// How often the lock is tried.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// The records of all pairs, locked: no other process changes them as long as this exists.
pub struct Pairs {
    records: PathBuf,
    _choosing: File,
}

/// What a pair is in use by.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder {
    /// The sandbox of this directory.
    Sandbox(PathBuf),
    /// Processes that run.
    Processes,
    /// A trial.
    Trial,
}

/// A pair that no sandbox has, and that none gets as long as this exists.
#[derive(Debug)]
pub struct Tried {
    path: PathBuf,
    _lock: File,
}

impl Drop for Tried {
    fn drop(&mut self) {
        // Removed before the lock is released: afterwards the file may be another trial's.
        let _left = fs::remove_file(&self.path);
    }
}

impl Pairs {
    /// Takes the lock in the first of these places that isn't read-only; waits while another process holds
    /// it.
    ///
    /// # Errors
    /// All places are read-only, or others may write to one; [`io::ErrorKind::TimedOut`] if another process
    /// holds the lock for too long; [`io::ErrorKind::Interrupted`] if this process is asked to end meanwhile.
    pub fn locked(places: &[&Path]) -> io::Result<Self> {
        Self::locked_within(places, PATIENCE)
    }

    fn locked_within(places: &[&Path], patience: Duration) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            match Self::locked_in(place, patience) {
                Err(e) if matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem) => last = e,
                other => {
                    return other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", place.display())));
                }
            }
        }
        Err(last)
    }

    fn locked_in(place: &Path, patience: Duration) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(place)?;
        closed_to_others(&File::open(place)?, 0o022, "the directory", place)?;
        // The lock file must be closed to others: a process that may read a file or directory can hold its
        // lock for ever (flock(2)).
        let path = place.join(CHOOSING);
        let choosing = open_lock(&path)?;
        closed_to_others(&choosing, 0o077, CHOOSING, &path)?;
        lock(&choosing, patience)?;
        let records = place.join(RECORDS);
        match DirBuilder::new().mode(0o700).create(&records) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        closed_to_others(&File::open(&records)?, 0o077, RECORDS, &records)?;
        Ok(Self { records, _choosing: choosing })
    }

    /// Returns what holds the pair that begins with `first`, other than the sandbox of the directory
    /// `besides`.
    pub fn holder(&self, first: u32, besides: &Path) -> Option<Holder> {
        let recorded = kept::read(&self.records.join(first.to_string())).ok().flatten();
        match recorded.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path))) {
            Some(dir) if dir == besides => None,
            Some(dir) if chosen(&dir) == Some(first) => Some(Holder::Sandbox(dir)),
            _ if self.is_tried(first) => Some(Holder::Trial),
            // A sandbox whose directory has moved, or can't be seen from here, shows only by its processes.
            _ => runs(first).then_some(Holder::Processes),
        }
    }

    /// Reserves a free pair for a trial. The reservation outlives this lock on the records.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another trial has it already.
    pub fn try_out(&self, first: u32) -> io::Result<Tried> {
        let path = self.trial(first);
        let lock = open_lock(&path)?;
        lock.try_lock()?;
        // Its last holder may have removed the file between our opening and our locking it.
        match lock.metadata()?.nlink() {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(Tried { path, _lock: lock }),
        }
    }

    fn trial(&self, first: u32) -> PathBuf {
        self.records.join(format!("{first}.trial"))
    }

    /// Whether a trial has the pair. Removes what a killed trial left.
    fn is_tried(&self, first: u32) -> bool {
        let path = self.trial(first);
        path.symlink_metadata().is_ok() && self.try_out(first).is_err()
    }

    /// Records that the sandbox of this directory has the pair.
    pub fn record(&self, first: u32, dir: &Path) -> io::Result<()> {
        let record = self.records.join(first.to_string());
        let bytes = dir.as_os_str().as_bytes();
        match kept::read(&record) {
            Ok(Some(there)) if there == bytes => Ok(()),
            _ => {
                kept::clear_away_in(&self.records, &first.to_string());
                kept::write(&record, bytes)
            }
        }
    }
}

/// Returns the first id of the pair that a sandbox's own directory records.
pub fn chosen(dir: &Path) -> Option<u32> {
    let text = kept::read(&dir.join(files::IDS)).ok().flatten()?;
    String::from_utf8(text).ok()?.trim().parse().ok()
}

/// Takes the lock, waiting up to `patience`.
fn lock(choosing: &File, patience: Duration) -> io::Result<()> {
    let begun = Instant::now();
    let mut is_said = false;
    loop {
        match choosing.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::Error(error)) => return Err(error),
            Err(fs::TryLockError::WouldBlock) => {}
        }
        if begun.elapsed() >= patience {
            let told = format!(
                "{CHOOSING} has been locked for {} s{}: have that process go on or end, and try again",
                patience.as_secs(),
                by_whom(choosing)
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, told));
        }
        if begun.elapsed() >= SILENT && !std::mem::replace(&mut is_said, true) {
            say(&format!("waiting for the lock under which user ids are chosen, held{}", by_whom(choosing)));
        }
        pause(TRY_AGAIN)?;
    }
}

/// Describes the holder of a file's lock, as far as the kernel reports it (proc_locks(5)): the process that
/// took the lock, though it may have passed the descriptor on.
fn by_whom(file: &File) -> String {
    let Ok(meta) = file.metadata() else { return String::new() };
    let it = format!("{:02x}:{:02x}:{}", major(meta.dev()), minor(meta.dev()), meta.ino());
    let holder = fs::read_to_string("/proc/locks").ok().and_then(|locks| holder_of(&it, &locks));
    holder.map_or_else(String::new, |pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!(" by process {pid} ({})", one_line(comm.trim_end()))
    })
}

/// Returns the pid that holds a file's lock. A line reads `1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF`;
/// a waiting process has a `->` after the number.
fn holder_of(it: &str, locks: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, file) = (words.next()?, words.nth(2)?, words.next()?);
        (kind == "FLOCK" && file == it).then(|| pid.parse().ok())?
    })
}

/// # Errors
/// It is another user's, or its mode has one of these bits; says which command closes it.
fn closed_to_others(file: &File, bits: u32, what: &str, path: &Path) -> io::Result<()> {
    let found = file.metadata()?;
    let is_ours = found.uid() == geteuid().as_raw();
    if is_ours && found.mode() & bits == 0 {
        return Ok(());
    }
    let path = as_word(path);
    let owned = if is_ours { String::new() } else { format!("chown root {path} && ") };
    let mode = if bits == 0o022 { "go-w" } else { "go=" };
    Err(io::Error::other(format!(
        "{what} is open to others: it must be root's alone: `{owned}chmod {mode} {path}`"
    )))
}

/// Whether a process runs under either id of a pair. A sandbox's processes have it as their real id.
pub fn runs(first: u32) -> bool {
    [first, first + 1].into_iter().any(user_has_processes)
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
            let Err(refused) = Pairs::locked(&[root.path()]) else {
                panic!("others could hold or make {name:?}")
            };
            let mend = format!("`chmod {} {}`", if name.is_empty() { "go-w" } else { "go=" }, as_word(&path));
            // Join leaves a slash behind an empty name.
            let mend = mend.replace("/`", "`");
            assert!(refused.to_string().ends_with(&mend), "{refused}");
            fs::set_permissions(&path, before).unwrap();
        }
        assert!(Pairs::locked(&[root.path()]).is_ok());
    }

    #[test]
    fn a_lock_that_stays_is_given_up_and_whose_it_is_is_said() {
        let root = tempfile::tempdir().unwrap();
        let held = Pairs::locked(&[root.path()]).unwrap();
        let error = Pairs::locked_within(&[root.path()], Duration::ZERO).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let told = error.to_string();
        assert!(
            told.contains(".choosing has been locked") && told.contains(root.path().to_str().unwrap()),
            "{told}"
        );
        // Where the file system's number is its device's.
        let us = format!("by process {} (", std::process::id());
        assert!(told.contains(&us) || !told.contains("by process"), "{told}");
        drop(held);
        assert!(Pairs::locked_within(&[root.path()], Duration::ZERO).is_ok());
    }

    #[test]
    fn whoever_holds_a_lock_is_found_among_the_kernels() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fd:01:5 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 fd:01:55 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 fd:01:5 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 10 fd:01:5 0 EOF\n\n4:\n";
        assert_eq!(holder_of("fd:01:5", locks), Some(9));
        assert_eq!(holder_of("fd:01:6", locks), None);
    }

    #[test]
    fn a_pair_on_trial_is_nobodys_until_the_trial_is_over_or_dead() {
        const FIRST: u32 = 61_184;
        let machine = tempfile::tempdir().unwrap();
        let pairs = Pairs::locked(&[machine.path()]).unwrap();
        let anybody = Path::new("/nowhere");
        let left = machine.path().join(".ids/61184.trial");
        let tried = pairs.try_out(FIRST).unwrap();
        assert_eq!(pairs.holder(FIRST, anybody), Some(Holder::Trial));
        assert_eq!(pairs.try_out(FIRST).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(pairs.holder(FIRST + 2, anybody), None);
        drop(tried);
        assert!(!left.exists());
        assert_eq!(pairs.holder(FIRST, anybody), None);
        fs::write(&left, "").unwrap();
        assert_eq!(pairs.holder(FIRST, anybody), None, "a killed trial's");
        assert!(!left.exists());
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
        kept::write(&one.join(files::IDS), b"61184\n").unwrap();
        assert_eq!(pairs.holder(FIRST, &one), None, "its own");
        assert_eq!(pairs.holder(FIRST, &other), Some(Holder::Sandbox(one.clone())));
        fs::remove_file(one.join(files::IDS)).unwrap();
        assert_eq!(pairs.holder(FIRST, &other), None);
    }
}
