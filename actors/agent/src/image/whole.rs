//! Tells at every start, without a walk through it, whether an unpacked image is still complete.
//!
//! `rm -r` of an image, or of anything that it lies in, removes the deepest first, and in each directory what
//! is listed first. So the first thing to go lies at the end of the *first way*, which leads from the root to
//! the first name in it, to the first in that, and so on. Its removal changes the time of the directory that
//! it lay in. The seal is made of the names and times along that way.
//!
//! The seal detects a removal that was broken off. It must never be taken for proof against somebody who may
//! write here: it doesn't notice a piece that is taken out of the middle.

use super::tree::{self, Found};
use nix::sys::stat::fstat;
use sha2::{Digest as _, Sha256};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Computes the seal of what is there now.
pub(super) fn seal(root: BorrowedFd<'_>) -> nix::Result<String> {
    let mut seal = Sha256::new();
    let mut dir = tree::beneath(root, Path::new("."))?;
    loop {
        let found = fstat(&dir)?;
        seal.update(found.st_mtime.to_le_bytes());
        seal.update(found.st_mtime_nsec.to_le_bytes());
        let Some(name) = first(dir.as_fd())? else { break };
        seal.update(name.len().to_le_bytes());
        seal.update(name.as_bytes());
        if tree::find(dir.as_fd(), &name)? != Found::Directory {
            break;
        }
        dir = tree::beneath(dir.as_fd(), Path::new(&name))?;
    }
    Ok(hex::encode(seal.finalize()))
}

fn first(dir: BorrowedFd<'_>) -> nix::Result<Option<OsString>> {
    let mut listing = nix::dir::Dir::from_fd(tree::beneath(dir, Path::new("."))?)?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn sealed(root: &Path) -> String {
        seal(fs::File::open(root).unwrap().as_fd()).unwrap()
    }

    /// Removes as `rm -r` does, until this many are gone.
    fn remove(dir: &Path, left: &mut usize) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let is_dir = entry.file_type().unwrap().is_dir();
            if is_dir {
                remove(&entry.path(), left);
            }
            if *left == 0 {
                return;
            }
            *left -= 1;
            let gone = if is_dir { fs::remove_dir(entry.path()) } else { fs::remove_file(entry.path()) };
            gone.unwrap();
        }
    }

    #[test]
    fn a_removal_breaks_the_seal_however_early_it_is_broken_off() {
        let full = |root: &Path| {
            for dir in ["usr/bin", "usr/share/doc/a", "etc/ssl/certs", "var", "opt/x/y/z"] {
                fs::create_dir_all(root.join(dir)).unwrap();
                for n in 0..3 {
                    fs::write(root.join(dir).join(format!("file-{n}")), "x").unwrap();
                }
            }
            std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        };
        for many in 1..20 {
            let root = tempfile::tempdir().unwrap();
            full(root.path());
            let whole = sealed(root.path());
            assert_eq!(sealed(root.path()), whole, "to look changes nothing");
            remove(root.path(), &mut many.clone());
            assert_ne!(sealed(root.path()), whole, "{many} removed");
        }
    }

    /// The way leads through no link; in an empty root it ends at once.
    #[test]
    fn a_link_is_the_end_of_the_way() {
        let root = tempfile::tempdir().unwrap();
        let empty = sealed(root.path());
        std::os::unix::fs::symlink(".", root.path().join("loop")).unwrap();
        assert_ne!(sealed(root.path()), empty);
    }
}
