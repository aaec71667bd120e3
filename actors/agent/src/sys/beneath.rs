//! openat2(2) for trees that someone hostile owns: beneath a directory, through no link of any kind.

use super::check;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn open(directory: BorrowedFd<'_>, name: &[u8], flags: i32) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: an all-zero open_how is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a C string, and a structure whose true size is given.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A directory.
pub(crate) fn open_directory(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    open(directory, path.as_os_str().as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW)
}

/// Anything that isn't a link, without ever waiting for it.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open(directory, name.as_bytes(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
}

/// What a real path leads to now, as a detached, recursive copy of what is mounted there, and what it is: through no link, since one that
/// stands there by now was put there since the path was resolved.
pub(crate) fn clone_real(path: &Path) -> io::Result<(OwnedFd, std::fs::Metadata)> {
    let root = std::fs::File::open("/")?;
    let place = std::fs::File::from(open_place(root.as_fd(), path.strip_prefix("/").unwrap_or(path))?);
    Ok((super::mount::clone_tree_at(place.as_fd())?, place.metadata()?))
}

/// Anything that isn't a link, only to say where it is (`O_PATH`); `path` may have several components.
pub(crate) fn open_place(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    // Without O_NOFOLLOW, with which O_PATH would open the link itself instead of refusing it.
    open(directory, path.as_os_str().as_bytes(), libc::O_PATH)
}
