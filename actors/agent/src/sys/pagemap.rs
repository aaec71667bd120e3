//! Finds the pages of a process that are its own, by the PAGEMAP_SCAN ioctl of `/proc/PID/pagemap`
//! (Documentation/admin-guide/mm/pagemap.rst, Linux 6.7), which walks page tables and formats no text.

use super::check_int;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// linux/fs.h: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// Marks a file's page in memory; a page that is present without it is the process's own.
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// `struct page_region`.
#[repr(C)]
#[derive(Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// Whether a range of addresses (of whole pages) has a page, in memory or swapped out, that isn't a file's.
/// Stops at the first.
///
/// # Errors
/// `ENOTTY` if the kernel doesn't know the ioctl.
pub(crate) fn has_own_page(pagemap: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<bool> {
    let mut found = Region::default();
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start: range.start,
        end: range.end,
        regions: (&raw mut found).expose_provenance() as u64,
        regions_length: 1,
        max_pages: 1,
        inverted: PAGE_IS_FILE,
        all_of: PAGE_IS_FILE,
        any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        returned: PAGE_IS_PRESENT,
        ..Scan::default()
    };
    // SAFETY: the kernel reads and writes one `Scan`, and at most one `Region` at the address in it; both
    // live through the call.
    let regions = check_int(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) })?;
    Ok(regions > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// A private mapping of our own program's first two pages, the second written to if asked.
    fn mapped(written: bool) -> (std::ptr::NonNull<libc::c_void>, u64) {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64;
        let program = std::fs::File::open("/proc/self/exe").unwrap();
        let length = std::num::NonZeroUsize::new(2 * page as usize).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, somewhere free; nobody else knows of it.
        let at = unsafe { mmap(None, length, protection, MapFlags::MAP_PRIVATE, &program, 0) }.unwrap();
        let bytes = at.as_ptr().cast::<u8>();
        // SAFETY: both pages are mapped, readable and writable, and reached by this pointer alone.
        unsafe {
            std::hint::black_box(bytes.read_volatile());
            let second = bytes.add(page as usize);
            std::hint::black_box(second.read_volatile());
            if written {
                second.write_volatile(1);
            }
        }
        (at, page)
    }

    #[test]
    fn a_page_that_was_written_to_is_told_from_its_files() {
        let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
        for written in [false, true] {
            let (at, page) = mapped(written);
            let start = at.as_ptr().addr() as u64;
            let first = has_own_page(pagemap.as_fd(), &(start..start + page));
            if first.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOTTY)) {
                eprintln!("SKIPPED: this kernel has no PAGEMAP_SCAN (Linux 6.7)");
                return;
            }
            assert!(!first.unwrap(), "the first page is the file's");
            assert_eq!(has_own_page(pagemap.as_fd(), &(start..start + 2 * page)).unwrap(), written);
            // SAFETY: the mapping made above, which nobody uses any more.
            unsafe { nix::sys::mman::munmap(at, 2 * page as usize) }.unwrap();
        }
    }
}
