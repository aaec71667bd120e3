//! openat2(2) for trees that someone hostile owns: beneath a directory, through no link of any kind.

use super::check;
use super::mount::Attributes;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Through no link of any kind.
const NO_LINKS: u64 = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

fn open(directory: BorrowedFd<'_>, name: &[u8], flags: i32) -> io::Result<OwnedFd> {
    openat2(directory.as_raw_fd(), name, flags, libc::RESOLVE_BENEATH | NO_LINKS)
}

fn openat2(directory: i32, name: &[u8], flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: an all-zero open_how is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    // SAFETY: a C string, and a structure whose true size is given.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens a directory.
pub(crate) fn open_directory(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    open(directory, path.as_os_str().as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW)
}

/// Opens anything that isn't a link, without blocking.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open(directory, name.as_bytes(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
}

/// Opens what a resolved path names now, as a mere reference (`O_PATH`). The path must be absolute, without
/// `..`. Follows no link: one that is there now was put there after the path was resolved.
pub(crate) fn open_real(path: &Path) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    openat2(libc::AT_FDCWD, path.as_os_str().as_bytes(), libc::O_PATH, NO_LINKS)
}

/// As [`open_real`], and returns a detached, recursive copy of the mounts there, with these attributes, and
/// what is known of the place.
pub(crate) fn clone_real(path: &Path, attributes: Attributes) -> io::Result<(OwnedFd, std::fs::Metadata)> {
    let place = std::fs::File::from(open_real(path)?);
    Ok((super::mount::clone_tree_at(place.as_fd(), attributes)?, place.metadata()?))
}

/// Opens anything that isn't a link, as a mere reference (`O_PATH`); `path` may have several components.
pub(crate) fn open_place(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    // Without O_NOFOLLOW, with which O_PATH would open the link itself instead of refusing it.
    open(directory, path.as_os_str().as_bytes(), libc::O_PATH)
}

/// As [`open_place`], but makes what isn't there: a directory or an empty file, and the directories on the
/// way to it.
pub(crate) fn make_place(top: BorrowedFd<'_>, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    match open_place(top, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Inside a read-only mount nothing can be made, and nothing needs to.
        there => return there,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match parent == Path::new("") {
        true => top.try_clone_to_owned()?,
        false => make_place(top, parent, true)?,
    };
    if is_directory {
        is_there(mkdirat(&parent, name, Mode::from_bits_truncate(0o755)))?;
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        is_there(openat(&parent, name, flags, Mode::from_bits_truncate(0o644)).map(drop))?;
    }
    open_place(parent.as_fd(), Path::new(name))
}

fn is_there(made: nix::Result<()>) -> io::Result<()> {
    match made {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_place_is_made_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::File::open(dir.path()).unwrap();
        let at = |name: &str| dir.path().join(name);
        for (path, is_directory) in [("a/b/directory", true), ("a/c/file", false), ("a/b/directory", true)] {
            let place = make_place(top.as_fd(), Path::new(path), is_directory).unwrap();
            assert_eq!(std::fs::File::from(place).metadata().unwrap().is_dir(), is_directory, "{path}");
            assert_eq!(at(path).is_dir(), is_directory, "{path}");
        }
        std::fs::create_dir(at("elsewhere")).unwrap();
        symlink(at("elsewhere"), at("a/link")).unwrap();
        symlink("../elsewhere", at("a/b/link")).unwrap();
        symlink("absent", at("a/dangling")).unwrap();
        for path in ["a/link", "a/link/x", "a/link/x/y", "a/b/link/x", "a/dangling", "a/dangling/x"] {
            for is_directory in [true, false] {
                let error = make_place(top.as_fd(), Path::new(path), is_directory).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path}");
            }
        }
        assert_eq!(std::fs::read_dir(at("elsewhere")).unwrap().count(), 0, "nothing was made there");
        assert!(make_place(top.as_fd(), Path::new("a/c/file/x"), true).is_err());
    }
}
