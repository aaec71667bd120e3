//! Finds code that was mapped from a file and changed since: a process that writes to a page of a program or
//! library gets a private copy of the page, which executes as before.
//!
//! proc_pid_maps(5) still names the file for such a page, so the map alone makes an intruder's code look like
//! the library's. Only the pages themselves give it away: PAGEMAP_SCAN asks for just the private ones (Linux
//! 6.7); on older kernels proc_pid_smaps(5) reports on every mapping, which costs twenty times as much.

use super::foreign_code::{Fault, in_time};
use super::mapping::Mapping;
use super::process::Opened;
use crate::sys::pagemap;
use std::io::{self, BufRead};
use std::ops::Range;
use std::os::fd::AsFd;

/// Bytes of one process's report that are read: some twenty thousand mappings.
const MAX_REPORT: u64 = 16 << 20;

/// Whether executable mappings of files and of the kernel, at the addresses in `code`, have pages private to
/// the process.
///
/// # Errors
/// Reading the page map or the report failed; `InvalidData` where the report is longer than is read;
/// [`Fault::TooLong`] once the time `is_over`.
pub(super) fn is_in(
    process: &Opened,
    code: &[Range<u64>],
    is_over: &dyn Fn() -> bool,
) -> Result<bool, Fault> {
    match scan(process, code, is_over) {
        // This kernel has no PAGEMAP_SCAN.
        Err(Fault::Io(error)) if error.raw_os_error() == Some(libc::ENOTTY) => {
            Ok(report(process.open_page_report()?)?)
        }
        answer => answer,
    }
}

fn scan(process: &Opened, code: &[Range<u64>], is_over: &dyn Fn() -> bool) -> Result<bool, Fault> {
    let pages = process.open_page_map()?;
    for range in code {
        in_time(is_over)?;
        if pagemap::has_own_page(pages.as_fd(), range)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Answers the same from the long report, proc_pid_smaps(5).
fn report(report: impl io::Read) -> io::Result<bool> {
    let mut lines = io::BufReader::with_capacity(32 << 10, report.take(MAX_REPORT));
    let (mut line, mut executable, mut read) = (Vec::new(), false, 0);
    loop {
        line.clear();
        read += lines.read_until(b'\n', &mut line)? as u64;
        if line.is_empty() {
            return if read < MAX_REPORT { Ok(false) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
        if let Some(value) = line.strip_prefix(b"Anonymous:").or_else(|| line.strip_prefix(b"Swap:")) {
            if executable && value.trim_ascii() != b"0 kB" {
                return Ok(true);
            }
        } else if let Some(mapping) = Mapping::read(line.strip_suffix(b"\n").unwrap_or(&line)) {
            // The other lines begin with a word and a colon.
            executable = mapping.executable && mapping.is_of_others();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(anonymous_code: u32, anonymous_data: u32) -> String {
        let mapping = |permissions: &str, path: &str, anonymous: u32| {
            format!(
                "7f00-7f01 {permissions} 00001000 08:01 42                 {path}\nSize: 4 kB\nAnonymous:             {anonymous} \
                 kB\nVmFlags: rd ex mr\n"
            )
        };
        [
            mapping("r-xp", "/usr/lib/libc.so.6", anonymous_code),
            mapping("rw-p", "/usr/lib/libc.so.6", anonymous_data),
            mapping("rw-p", "[heap]", 128),
            mapping("r-xp", "[vdso]", 0),
            mapping("rwxp", "", 8),
        ]
        .concat()
    }

    #[test]
    fn pages_of_its_own_in_code_of_a_file_tell() {
        assert!(!report(of(0, 8).as_bytes()).unwrap());
        assert!(report(of(4, 8).as_bytes()).unwrap());
        assert!(!report(&b""[..]).unwrap());
    }

    #[test]
    fn our_own_code_is_as_its_files_have_it() {
        assert!(!report(std::fs::File::open("/proc/self/smaps").unwrap()).unwrap());
    }

    #[test]
    fn a_report_without_end_is_an_error() {
        let endless = io::repeat(b'x');
        assert!(report(endless).is_err());
    }
}
