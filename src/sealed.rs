//! Sealed memory files: the command hands its decisions in them to processes that must not read them from
//! disk.
//!
//! A sealed memfd (memfd_create(2), F_ADD_SEALS in fcntl(2)) can't be changed by any process. So several
//! processes may hold it, a restarted supervisor reads exactly what the first one did, and a secret never
//! touches a filesystem.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Bytes of a sealed file at most, written or read: a plan or a set of secrets is far smaller.
const READ_MAX: u64 = 16 << 20;

/// Makes an empty memory file that stays writable, for data that changes while it is kept.
pub fn open_file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// Writes bytes into a new sealed memory file. `name` shows in `/proc/PID/fd` only.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = open_sealable(name)?;
    write_and_seal(&file, bytes)?;
    Ok(file.into())
}

/// Makes an empty memory file for [`seal_json_into`].
pub fn open_sealable(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?))
}

fn write_and_seal(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() as u64 > READ_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    file.write_all(bytes)?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// Writes a value as JSON into a new sealed memory file; the intermediate text is wiped.
pub fn seal_json(name: &str, value: &impl Serialize) -> io::Result<OwnedFd> {
    let file = open_sealable(name)?;
    seal_json_into(&file, value)?;
    Ok(file.into())
}

/// As [`seal_json`], into a file of [`open_sealable`] that is shared with another process.
pub fn seal_json_into(file: &File, value: &impl Serialize) -> io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec(value)?);
    write_and_seal(file, &text)
}

/// Reads a sealed file whole. By offset, since all holders share the file's position.
pub fn read(fd: BorrowedFd<'_>) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::from(fd.try_clone_to_owned()?);
    let size = file.metadata()?.len();
    if size > READ_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a sealed file larger than any that we write",
        ));
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(size).unwrap_or_default()]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads a value that [`seal_json`] wrote.
pub fn read_json<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<T> {
    Ok(serde_json::from_slice(&read(fd.as_fd())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_read_again_and_again_and_never_changed() {
        let fd = seal_json("test", &vec![1, 2, 3]).unwrap();
        for _ in 0..2 {
            assert_eq!(read_json::<Vec<i32>>(&fd).unwrap(), [1, 2, 3]);
        }
        assert!(File::from(fd).write_all(b"x").is_err());
    }
}
