//! Sealed memory files: how large or secret things travel between our processes without touching a disk.

use super::{check, check_int};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

const SEALS: i32 = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Makes a memory file of these bytes that nobody can change any more; not executable where the kernel knows
/// how.
pub(crate) fn sealed(name: &std::ffi::CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; nothing else is touched.
    let made =
        check(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags | libc::MFD_NOEXEC_SEAL) })
            // Kernels before 6.3 don't know MFD_NOEXEC_SEAL.
            // SAFETY: as above.
            .or_else(|_| check(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) }))?;
    // SAFETY: just made for us; descriptor numbers fit an int.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(made as i32) });
    file.write_all(bytes)?;
    file.rewind()?;
    // SAFETY: integers only.
    check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
    Ok(file.into())
}

/// Returns the length of a sealed memory file of at most `limit` bytes. A file that could still change is
/// refused.
pub(crate) fn sealed_length(fd: BorrowedFd<'_>, limit: u64) -> io::Result<u64> {
    // SAFETY: integers only.
    let seals = check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })?;
    let needed = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    if seals & needed != needed {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory file isn't sealed"));
    }
    let length = u64::try_from(nix::sys::stat::fstat(fd)?.st_size).unwrap_or(u64::MAX);
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory file is over its limit"));
    }
    Ok(length)
}

/// Reads a sealed memory file, see [`sealed_length`].
pub(crate) fn read_sealed(fd: BorrowedFd<'_>, limit: u64) -> io::Result<Vec<u8>> {
    let length = sealed_length(fd, limit)?;
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    // By position: the offset is shared with every duplicate in other processes.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_back_and_cannot_be_written() {
        let fd = sealed(c"test", b"content").unwrap();
        assert_eq!(read_sealed(fd.as_fd(), 100).unwrap(), b"content");
        assert_eq!(read_sealed(fd.as_fd(), 100).unwrap(), b"content", "reading leaves it at its beginning");
        assert!(read_sealed(fd.as_fd(), 3).is_err());
        assert!(File::from(fd).write_all(b"x").is_err());
    }

    #[test]
    fn what_is_not_sealed_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_sealed(file.as_fd(), 100).is_err());
    }
}
