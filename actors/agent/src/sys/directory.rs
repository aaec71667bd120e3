//! Directories and links read by descriptor: no path is walked twice, and no name is allocated.

use super::check;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes of entries read at a time.
pub(crate) const ENTRIES: usize = 4096;
/// Where the name stands in `struct linux_dirent64` (getdents64(2)), behind inode, offset, length and type.
const NAME_AT: usize = 19;
const LENGTH_AT: usize = 16;

/// Opens a path below a directory, close-on-exec.
pub(crate) fn open(at: BorrowedFd<'_>, path: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    let path = CString::new(path).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a C string; without O_CREAT there is no third argument.
    let fd = unsafe { libc::openat(at.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) };
    // SAFETY: just made for us.
    super::check_int(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads a link's target into `buffer`; cut off if it doesn't fit.
pub(crate) fn read_link<'a>(at: BorrowedFd<'_>, path: &str, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let path = CString::new(path).map_err(|_| io::ErrorKind::InvalidInput)?;
    link(at, &path, buffer)
}

/// As [`read_link`], of an entry whose name is a number.
pub(crate) fn read_numbered_link<'a>(
    at: BorrowedFd<'_>,
    number: i32,
    buffer: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    let mut name = [0; 16];
    write!(&mut name[..], "{number}\0")?;
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| io::ErrorKind::InvalidInput)?;
    link(at, name, buffer)
}

fn link<'a>(at: BorrowedFd<'_>, path: &CStr, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    // SAFETY: a C string, and the pointer and length of the caller's slice.
    let length =
        unsafe { libc::readlinkat(at.as_raw_fd(), path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Calls `each` for every entry whose name is a number, until it breaks. Starts at the first entry, or where
/// the last call on this descriptor stopped reading; `buffer` holds [`ENTRIES`] bytes or more.
pub(crate) fn numbers(
    directory: BorrowedFd<'_>,
    buffer: &mut [u8],
    mut each: impl FnMut(i32) -> ControlFlow<()>,
) -> io::Result<()> {
    loop {
        // SAFETY: the pointer and length describe the caller's slice.
        let read = check(unsafe {
            libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        })?;
        let mut rest = buffer.get(..usize::try_from(read).unwrap_or(0)).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some((number, after)) = entry(rest) {
            rest = after;
            if number.is_some_and(|number| each(number).is_break()) {
                return Ok(());
            }
        }
    }
}

/// Returns the first entry's name as a number, if it is one, and the bytes behind the entry.
fn entry(bytes: &[u8]) -> Option<(Option<i32>, &[u8])> {
    let length = u16::from_ne_bytes(bytes.get(LENGTH_AT..LENGTH_AT + 2)?.try_into().ok()?);
    let (entry, after) = bytes.split_at_checked(usize::from(length))?;
    let name = CStr::from_bytes_until_nul(entry.get(NAME_AT..)?).ok()?;
    Some((name.to_str().ok().and_then(|name| name.parse().ok()), after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn entries_and_links_are_what_the_library_finds() {
        let files: Vec<_> = (0..300).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let proc = std::fs::File::open("/proc/self").unwrap();
        let directory = open(proc.as_fd(), "fd", libc::O_DIRECTORY).unwrap();
        let (mut buffer, mut found) = (vec![0; 512], Vec::new());
        numbers(directory.as_fd(), &mut buffer, |number| {
            found.push(number);
            ControlFlow::Continue(())
        })
        .unwrap();
        let mut text = [0; 64];
        for file in &files {
            assert!(found.contains(&file.as_raw_fd()));
            let link = read_numbered_link(directory.as_fd(), file.as_raw_fd(), &mut text).unwrap();
            assert_eq!(link, b"/dev/null");
        }
        assert_eq!(
            read_link(proc.as_fd(), "fd/100000", &mut text).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_cut_entry_is_none() {
        assert!(entry(&[]).is_none());
        assert!(entry(&[0; 18]).is_none());
        let mut long = [0; 24];
        long[LENGTH_AT] = 200;
        assert!(entry(&long).is_none());
        long[LENGTH_AT] = 0;
        assert!(entry(&long).is_none(), "an entry of no length would be read for ever");
    }
}
