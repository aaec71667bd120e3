//! Opens files for reading in directories that an attacker may write to: logs, in directories of gateways
//! that may be under foreign control. The reader, root for one, may be allowed to read more than those who
//! write there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file, and nothing else: a link is not followed, and a pipe not waited for.
///
/// # Errors
/// When there is none, or something else stands there; when it can't be opened.
pub fn open_unlinked(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(nix::libc::ELOOP) => io::Error::other("it is a link, which nobody follows there"),
            _ => error,
        }
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}
