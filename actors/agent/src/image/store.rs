//! Unpacked images, each once, shared by all sandboxes of a state directory.
//!
//! ```text
//! STATE/.images/DIGEST            verified; its name is the digest that was pinned
//! STATE/.images/DIGEST.partial    being unpacked; left by a killed command, it goes at the next start that wants any image
//! STATE/.images/DIGEST.lock       held while unpacking; it has the seal of what was unpacked ([`whole`])
//! ```
//! A directory counts as an image only if its seal matches, which is written after everything has been
//! verified and is on disk. So what a killed command or a broken-off removal leaves is never used. Nobody but
//! the command's user may enter `.images`; sandboxes get mounts of what is in it.

use super::bounds::{MAX_FILE, MAX_MEMORY};
use super::layout::{self, Layout};
use super::unpack;
use super::whole;
use super::{Digest, ImageError, Reference};
use crate::confine::{self, Reach};
use crate::plan::{Id, Ids};
use crate::sys;
use nix::poll::PollTimeout;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Milliseconds between two looks whether another process is done with unpacking an image.
const LOOK_AGAIN: u16 = 100;

/// Suffix of an image's name while it is unpacked.
const PARTIAL: &str = ".partial";

/// A store of unpacked images; see the module.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// An image to be shown.
#[derive(Debug)]
pub struct Unpacked {
    /// Its root.
    pub path: PathBuf,
    /// What was left out, where something was.
    pub left_out: Option<String>,
}

impl Store {
    /// The store of a state directory.
    #[must_use]
    pub fn below(state: &Path) -> Self {
        // No sandbox's name begins with a dot.
        Self { dir: state.join(".images") }
    }

    /// Returns the image's root, and unpacks the image first if it isn't there. `begin` is called before
    /// unpacking. The caller must be single-threaded.
    ///
    /// # Errors
    /// See [`ImageError`]. Nothing half-made is left where it could be used.
    pub fn fetch(&self, image: &Reference, ids: Ids, begin: impl FnOnce()) -> Result<Unpacked, ImageError> {
        let told = |source: io::Error| ImageError::Store { path: self.dir.clone(), source };
        let path = self.dir.join(image.digest.hex());
        if self.is_ours().map_err(told)? {
            self.clear_left();
            if self.is_whole(image.digest).map_err(told)? {
                return Ok(Unpacked { path, left_out: None });
            }
        }
        let source = layout::open(&image.path).map_err(|source| match path.is_dir() {
            true => ImageError::Partial { path: path.clone(), source: Box::new(source) },
            false => source,
        })?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(told)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700)).map_err(told)?;
        self.is_ours().map_err(told)?;
        let lock = self.lock(image).map_err(told)?;
        // Somebody else may have been unpacking it.
        if self.is_whole(image.digest).map_err(told)? {
            return Ok(Unpacked { path, left_out: None });
        }
        begin();
        let partial = self.dir.join(image.digest.hex() + PARTIAL);
        lock.set_len(0).and_then(|()| remove(&path)).and_then(|()| remove(&partial)).map_err(told)?;
        DirBuilder::new().mode(0o755).create(&partial).map_err(told)?;
        let done = fill(&partial, source, image, ids)
            .and_then(|left_out| fs::rename(&partial, &path).map(|()| left_out).map_err(told))
            .and_then(|left_out| self.seal(&path, &lock).map(|()| left_out).map_err(told));
        if done.is_err() {
            let _ = remove(&partial);
        }
        drop(lock);
        let left_out = done?;
        Ok(Unpacked { path, left_out: (!left_out.is_empty()).then_some(left_out) })
    }

    /// Seals what is on disk, by which it becomes an image.
    fn seal(&self, path: &Path, mut lock: &File) -> io::Result<()> {
        lock.write_all(whole::seal(File::open(path)?.as_fd())?.as_bytes())?;
        lock.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    /// Whether an image is there and complete.
    fn is_whole(&self, digest: Digest) -> io::Result<bool> {
        let is_sealed = || -> io::Result<bool> {
            let seal = fs::read(self.lock_at(digest))?;
            let root = File::open(self.dir.join(digest.hex()))?;
            Ok(seal == whole::seal(root.as_fd())?.as_bytes())
        };
        match is_sealed() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            told => told,
        }
    }

    /// Removes what killed commands were unpacking, which may be much. What is being unpacked is locked, and
    /// stays. If something can't be removed, whole images can still be used.
    fn clear_left(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(PARTIAL));
            let Some(digest) = digest.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()) else {
                continue;
            };
            if let Ok(lock) = self.lock_of(digest)
                && lock.try_lock().is_ok()
            {
                let _left_for_the_next = remove(&entry.path());
            }
        }
    }

    /// Whether the store exists. Fails if it isn't this user's: images in it are trusted by name, so nobody
    /// else may have made it.
    fn is_ours(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.dir) {
            Ok(meta) if meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() => Ok(true),
            Ok(_) => Err(io::Error::other("it isn't a directory of yours: remove it")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the image's lock: waits while another process unpacks it, unless this one is asked to end.
    fn lock(&self, image: &Reference) -> io::Result<File> {
        let file = self.lock_of(image.digest)?;
        let requests = sys::signals::Requests::of_blocked()?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => drop(requests.or(None, PollTimeout::from(LOOK_AGAIN))?),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn lock_of(&self, digest: Digest) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.lock_at(digest))
    }

    fn lock_at(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{}.lock", digest.hex()))
    }

    /// Why a name without a digest is refused, with what to say instead.
    #[must_use]
    pub fn refuse_mutable(path: &Path, tag: Option<&str>, ids: Ids) -> ImageError {
        let listed = layout::open(path).and_then(|source| {
            let shown = path.display().to_string();
            let said = confine::run(user(ids), reach(&source, None), || {
                unpack::candidates(
                    &Layout::of(source.try_clone().map_err(super::system("the image"))?)?,
                    &shown,
                    tag,
                )
            })?;
            Ok(said)
        });
        match listed {
            Ok(text) => ImageError::Mutable(text),
            Err(error) => ImageError::Mutable(format!(
                "{} is no directory to use as a root, and as an image it needs @sha256:DIGEST behind it; {error}",
                path.display()
            )),
        }
    }
}

/// The user that an image is read as.
fn user(ids: Ids) -> Id {
    match ids {
        Ids::Rootless { operator } => operator,
        Ids::Rooted { gateway, .. } => gateway,
    }
}

fn reach<'a>(source: &'a File, into: Option<BorrowedFd<'a>>) -> Reach<'a> {
    Reach { source, into, out: None, reads_all: false, largest: MAX_FILE, memory: MAX_MEMORY }
}

fn fill(partial: &Path, source: File, image: &Reference, ids: Ids) -> Result<String, ImageError> {
    let told = |source: io::Error| ImageError::Store { path: partial.to_owned(), source };
    let into = File::open(partial).map_err(told)?;
    let user = user(ids);
    std::os::unix::fs::fchown(&into, Some(user.uid), Some(user.gid)).map_err(told)?;
    let digest = image.digest;
    let said = confine::run(user, reach(&source, Some(into.as_fd())), || {
        let layout = Layout::of(source.try_clone().map_err(super::system("the image"))?)?;
        unpack::unpack(&layout, digest, into.as_fd())
    })?;
    // A name that survives a power cut must be that of a whole image.
    nix::unistd::syncfs(&into).map_err(|error| told(error.into()))?;
    Ok(said)
}

/// Removes a whole tree if there is one; never through a link (std's promise).
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It must not wait until the same digest is wanted again, which may never be.
    #[test]
    fn what_a_killed_command_was_unpacking_goes_when_any_image_is_wanted() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::below(state.path());
        let place = |name: String| state.path().join(".images").join(name);
        let digest = |n: u8| Digest([n; 32]);
        let partial = |n: u8| place(digest(n).hex() + PARTIAL);
        DirBuilder::new().mode(0o700).create(state.path().join(".images")).unwrap();
        for whole in [digest(0).hex(), "notes.partial".into()] {
            fs::create_dir(place(whole)).unwrap();
        }
        store.seal(&place(digest(0).hex()), &store.lock_of(digest(0)).unwrap()).unwrap();
        for n in 1..=3 {
            fs::create_dir_all(partial(n).join("usr/bin")).unwrap();
        }
        let theirs = store.lock_of(digest(2)).unwrap();
        theirs.lock().unwrap();
        let id = Id { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let fetched = |n: u8| {
            let image = Reference { path: "/none".into(), digest: digest(n) };
            store.fetch(&image, Ids::Rootless { operator: id }, || unreachable!())
        };
        assert_eq!(fetched(0).unwrap().path, place(digest(0).hex()));
        let left = [1, 2, 3].map(|n| partial(n).exists());
        assert_eq!(left, [false, true, false], "one is being unpacked");
        assert!(place("notes.partial".into()).exists(), "no image's");
        drop(theirs);
        assert!(fetched(9).is_err());
        assert!(!partial(2).exists());
    }
}
