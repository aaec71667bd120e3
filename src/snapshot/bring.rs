//! Makes a sandbox from a file. Everything is made in a directory beside the sandboxes, under a name that no
//! sandbox can have, and is moved into place by one rename. A restore that is interrupted or killed before
//! that leaves nothing that is used, and the next restore removes its leftovers.
//!
//! ```text
//! STATE/.restoring/.lock    held by the one restore that is at work; gone after it, as the directory is, if nothing else is left there
//! STATE/.restoring/NAME/    what it makes: the sandbox's directory to be, claimed like one; NAME-2 where something of before won't go
//! ```
//! A file may come from anyone, so nothing in it is believed that would allow something: approvals are put in
//! force only if the operator says so, and the earlier audit log and agents' output are put aside as
//! `earlier/`, never taken for this sandbox's own.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use agent::confine::{self, Reach};
use agent::plan::Id;
use agent::snapshot::container::Container;
use agent::snapshot::{MAX_FILE, MAX_MEMORY, Select, SnapshotError, fill, take_away};

use super::manifest::{Manifest, Member};
use super::{MEMBERS, Meter, STATE, WORKSPACE, everything, failure, is_in_force, keeper, owner, records};
use crate::console::warn;
use crate::failure::Failure;
use crate::ids;
use crate::kept;
use crate::site::places;
use crate::state::{Claim, Name, Root, files, is_still_at, open_lock};

/// The directory beside the sandboxes. No sandbox's name begins with a dot.
const RESTORING: &str = ".restoring";
/// The lock in [`RESTORING`]. No sandbox can have this name.
const LOCK: &str = ".lock";
/// How many names are tried for the directory that is filled.
const MAX_TRIED: u32 = 100;
/// The directory with the earlier record, in a restored sandbox's directory.
pub const EARLIER: &str = "earlier";

/// The sandbox that was made.
pub struct Brought {
    /// The sandbox's directory.
    pub dir: PathBuf,
    /// Whether approvals are in force in it.
    pub approvals: bool,
}

/// Makes the sandbox `name` from a file that was checked by [`super::look()`]. `approvals`: whether the
/// approvals in the file are put in force.
///
/// # Errors
/// A sandbox of that name exists, the file changed since it was checked, or there is no space: then nothing
/// is left behind. One error comes after success: the sandbox exists, but could not be synced to disk and may
/// not survive a power failure.
pub fn bring(
    root: &Root,
    name: &Name,
    (file, manifest): (&File, &Manifest),
    approvals: bool,
    meter: Meter,
) -> Result<Brought, Failure> {
    let dir = root.instance(name);
    is_free(&dir, name)?;
    let at_work = AtWork::begin(root)?;
    let coming = at_work.root.claim(&at_work.free(name)?, "--name")?;
    let ids = ids::choose_in(&coming, root.dir())?;
    let told_io = |e: io::Error| Failure::refused(format!("can't restore to {}: {e}", coming.dir.display()));
    let from = |what| Source { file, what, meter };
    let earlier = made(&coming, EARLIER, keeper(ids)).map_err(told_io)?;
    from((STATE, &manifest.state, records())).unpack(keeper(ids), &earlier)?;
    if let Some(workspace) = &manifest.workspace {
        let files = made(&coming, files::WORKSPACE, owner(ids)).map_err(told_io)?;
        from((WORKSPACE, workspace, everything())).unpack(owner(ids), &files)?;
    }
    let approvals = sort(&coming.dir.join(EARLIER), &coming.dir, approvals).map_err(told_io)?;
    fchown(&earlier, Some(nix::unistd::geteuid().as_raw()), Some(nix::unistd::getegid().as_raw()))
        .map_err(told_io)?;
    let state = fs::canonicalize(root.dir()).map_err(told_io)?;
    // The list of places is a new one, whatever links are in the workspace: an agent made them.
    places::begin(&coming.dir, &state.join(name.as_str()).join(files::WORKSPACE))?;
    ids::own(&coming, ids)?;
    nix::unistd::syncfs(&coming.handle).map_err(|e| told_io(e.into()))?;
    ids::moved(&coming, ids, root.dir(), &dir).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => taken(&dir, name),
        _ => Failure::refused(format!("can't put the sandbox at {}: {e}", dir.display())),
    })?;
    let (lock, made) = coming.hand_over();
    made.keep();
    // From here on it is a sandbox. The lock keeps it from being started before it is synced.
    kept::settle(&dir).map_err(|e| {
        Failure::refused(format!(
            "'{name}' was restored completely, but may not survive a power failure: {e}"
        ))
    })?;
    drop(lock);
    Ok(Brought { dir, approvals })
}

/// Refuses a name that is taken, even by an empty directory.
fn is_free(dir: &Path, name: &Name) -> Result<(), Failure> {
    match fs::symlink_metadata(dir) {
        Ok(_) => Err(taken(dir, name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::refused(format!("{}: {e}", dir.display()))),
    }
}

fn taken(dir: &Path, name: &Name) -> Failure {
    Failure::refused(format!(
        "a sandbox named '{name}' is there already: choose another --name, or remove {} once it is stopped (`cofferdam rm {name}`)",
        dir.display()
    ))
}

/// The one restore that may run in a state directory at a time.
struct AtWork {
    /// The directory in which it makes the sandbox.
    root: Root,
    _lock: File,
}

impl AtWork {
    /// Takes the lock, and removes what a killed restore left.
    fn begin(root: &Root) -> Result<Self, Failure> {
        let dir = root.dir().join(RESTORING);
        let told = |e: io::Error| {
            Failure::refused(format!(
                "can't use {}: {e}; name another state directory with --state DIR",
                dir.display()
            ))
        };
        DirBuilder::new().recursive(true).mode(0o755).create(root.dir()).map_err(told)?;
        let lock = loop {
            match Self::locked(&dir) {
                Ok(Some(lock)) => break lock,
                // Another restore has just ended, and removed the lock.
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Failure::refused(format!(
                        "another restore is at work in {}: try again when it is done",
                        root.dir().display()
                    )));
                }
                Err(e) => return Err(told(e)),
            }
        };
        let at_work = Self { root: Root::locate(Some(&dir))?, _lock: lock };
        at_work.clear().into_iter().for_each(|text| warn(&text));
        Ok(at_work)
    }

    /// Makes the directory, if it isn't there, and takes its lock. `None` if the lock file was removed
    /// meanwhile.
    fn locked(dir: &Path) -> io::Result<Option<File>> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let path = dir.join(LOCK);
        let opened = fs::symlink_metadata(dir).and_then(|found| {
            let us = nix::unistd::geteuid().as_raw();
            match found.is_dir() && found.uid() == us && found.mode() & 0o077 == 0 {
                true => open_lock(&path),
                false => Err(io::Error::other("it is not a directory that is yours alone: remove it")),
            }
        });
        let lock = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        lock.try_lock()?;
        Ok(is_still_at(&lock, &path).then_some(lock))
    }

    /// Returns a name that isn't taken in this directory.
    fn free(&self, name: &Name) -> Result<Name, Failure> {
        let is_free = |name: &Name| fs::symlink_metadata(self.root.instance(name)).is_err();
        (1..=MAX_TRIED).map(|n| name.numbered(n)).find(is_free).ok_or_else(|| {
            Failure::refused(format!(
                "{} has too many leftovers of failed restores: remove it",
                self.root.dir().display()
            ))
        })
    }

    /// Removes everything but the lock. Returns a message for each thing that can't be removed.
    fn clear(&self) -> Vec<String> {
        let dir = self.root.dir();
        let told = |path: &Path, e: io::Error| {
            format!("what an earlier restore left can't be removed: {}: {e}; remove it", path.display())
        };
        let read = || Ok::<_, io::Error>((File::open(dir)?, fs::read_dir(dir)?));
        let (handle, entries) = match read() {
            Ok(read) => read,
            Err(e) => return vec![told(dir, e)],
        };
        let left = entries.flatten().map(|entry| entry.file_name()).filter(|name| name != LOCK);
        left.filter_map(|name| {
            take_away(handle.as_fd(), &name).err().map(|e| told(&dir.join(&name), e.into()))
        })
        .collect()
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // A sandbox that was moved into place is no longer here. The next restore reports what can't be
        // removed.
        if self.clear().is_empty() {
            // The lock is still held. A restore that has opened this lock file notices that it was removed;
            // one that makes a new lock file keeps the directory from being removed.
            let dir = self.root.dir();
            let _left = fs::remove_file(dir.join(LOCK)).and_then(|()| fs::remove_dir(dir));
        }
    }
}

/// Makes a directory to fill, owned by `user`.
fn made(coming: &Claim, name: &str, user: Id) -> io::Result<File> {
    let path = coming.dir.join(name);
    DirBuilder::new().mode(0o700).create(&path)?;
    let dir = File::open(path)?;
    fchown(&dir, Some(user.uid), Some(user.gid))?;
    Ok(dir)
}

/// A member of the file.
struct Source<'a> {
    file: &'a File,
    what: (&'a str, &'a Member, Select<'a>),
    meter: Meter,
}

impl Source<'_> {
    /// Unpacks the member into an empty directory, in a confined process of this user's.
    fn unpack(self, user: Id, into: &File) -> Result<(), Failure> {
        let Self { file, what: (name, member, select), meter } = self;
        let reach = Reach {
            source: file,
            into: Some(into.as_fd()),
            out: None,
            reads_all: false,
            largest: MAX_FILE,
            memory: MAX_MEMORY,
        };
        let said = confine::run(user, reach, || {
            let container = Container::open(file, MEMBERS)?;
            let filled = container.read(name, &member.stored, |bytes| {
                fill(bytes, Some(into.as_fd()), select, member.holds, &[], &mut |bytes| meter(bytes))
            });
            filled.map(|_| String::new())
        });
        said.map(drop).map_err(|e| failure(SnapshotError::from(e)))
    }
}

/// Moves the files that the sandbox goes on with out of its earlier record. Returns whether approvals are
/// among them.
fn sort(earlier: &Path, dir: &Path, approvals: bool) -> io::Result<bool> {
    let mut are_there = false;
    for entry in fs::read_dir(earlier)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| is_in_force(name)) else { continue };
        let is_approvals = name == crate::state::APPROVALS;
        match is_approvals && !approvals {
            true => fs::remove_file(earlier.join(name))?,
            false => {
                fs::rename(earlier.join(name), dir.join(name))?;
                // Whatever mode the archive says: the user who goes on with the file must be able to use it,
                // and nobody else.
                fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))?;
            }
        }
        are_there |= is_approvals && approvals;
    }
    Ok(are_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_restore_left_goes_with_the_next_and_only_one_is_at_work() {
        let state = tempfile::tempdir().unwrap();
        let root = Root::locate(Some(state.path())).unwrap();
        let left = state.path().join(".restoring/one");
        {
            let first = AtWork::begin(&root).unwrap();
            assert!(AtWork::begin(&root).is_err());
            drop(first.root.claim(&Name::parse("other").unwrap(), "--name").unwrap());
        }
        // As a killed restore leaves it.
        DirBuilder::new().mode(0o700).create(state.path().join(RESTORING)).unwrap();
        fs::create_dir_all(left.join("workspace/shut/below")).unwrap();
        fs::set_permissions(left.join("workspace/shut"), fs::Permissions::from_mode(0o000)).unwrap();
        std::os::unix::fs::symlink("/", left.join("workspace/link")).unwrap();
        let _second = AtWork::begin(&root).unwrap();
        assert!(!left.exists());
        fs::remove_dir(state.path().join(".restoring")).unwrap_err();
        assert!(Path::new("/usr").exists());
    }

    #[test]
    fn nothing_is_left_of_a_restore_and_whoever_comes_as_it_ends_is_the_only_one() {
        let state = tempfile::tempdir().unwrap();
        let root = Root::locate(Some(state.path())).unwrap();
        let dir = state.path().join(RESTORING);
        drop(AtWork::begin(&root).unwrap());
        assert!(!dir.exists());
        let at_work = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        use std::sync::atomic::Ordering::SeqCst;
                        let Ok(one) = AtWork::begin(&root) else { continue };
                        assert_eq!(at_work.fetch_add(1, SeqCst), 0);
                        assert!(dir.join(LOCK).exists());
                        at_work.fetch_sub(1, SeqCst);
                        drop(one);
                    }
                });
            }
        });
        assert!(!dir.exists());
    }

    #[test]
    fn what_is_made_has_a_name_of_its_own_and_a_sandbox_may_be_called_lock() {
        let state = tempfile::tempdir().unwrap();
        let at_work = AtWork::begin(&Root::locate(Some(state.path())).unwrap()).unwrap();
        let lock = Name::parse("lock").unwrap();
        assert_eq!(at_work.free(&lock).unwrap(), lock);
        // A leftover that can't be removed.
        fs::create_dir(at_work.root.instance(&lock)).unwrap();
        let free = at_work.free(&lock).unwrap();
        assert_eq!(free, lock.numbered(2));
        drop(at_work.root.claim(&free, "--name").unwrap());
    }
}
