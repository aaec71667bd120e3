//! Reads a process's mappings one by one, by the PROCMAP_QUERY ioctl of `/proc/PID/maps` (linux/fs.h, Linux
//! 6.11), which finds the executable ones and formats no text.

use super::check_int;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;
const EXECUTABLE: u64 = 1 << 2;
/// The mapping at the address, or the next one behind it.
const COVERING_OR_NEXT: u64 = 1 << 4;

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    mapping_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// Returns the first executable mapping that ends behind an address: its range, and its name as in
/// proc_pid_maps(5), but without escapes. `None` behind the last. The kernel uses no more than 4,096 bytes of
/// `name`.
///
/// # Errors
/// `ENOTTY` if the kernel doesn't know the ioctl, `ENAMETOOLONG` for a name that doesn't fit, `ESRCH` for a
/// process without memory.
pub(crate) fn next_executable<'n>(
    maps: BorrowedFd<'_>,
    from: u64,
    name: &'n mut [u8],
) -> io::Result<Option<(Range<u64>, &'n [u8])>> {
    let mut query = Query {
        size: size_of::<Query>() as u64,
        flags: EXECUTABLE | COVERING_OR_NEXT,
        address: from,
        name_size: u32::try_from(name.len()).unwrap_or(u32::MAX),
        name: name.as_mut_ptr().expose_provenance() as u64,
        ..Query::default()
    };
    // SAFETY: the kernel reads and writes one `Query`, and at most `name_size` bytes at `name`, which is the
    // caller's slice, borrowed for writing until the result is dropped.
    let asked = check_int(unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) });
    match asked {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    }
    // A name's size counts the zero at its end; a mapping without a name has none.
    let length = usize::try_from(query.name_size).unwrap_or(0).saturating_sub(1);
    let name = name.get(..length).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((query.start..query.end, name)))
}

const _: () = assert!(size_of::<Query>() == 0x68);
