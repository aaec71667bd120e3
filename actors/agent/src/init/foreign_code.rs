//! Finds code in a process that comes neither from its program nor from the system: mapped from where the
//! agent can write, from no file, or written over a page of a file.
//!
//! Looks at the executable mappings, which the kernel is asked for directly where it can be (Linux 6.11), and
//! which are else found in proc_pid_maps(5). Only where these show nothing, it looks whether their pages were
//! changed ([`changed_code`](super::changed_code)). Decides nothing: the policy says which programs may have
//! such code in them.

use super::changed_code;
use super::mapping::Mapping;
use super::process::Opened;
use crate::sys::procmap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of one process's memory map read.
const MAX_MAPS: u64 = 4 << 20;
/// Executable mappings of one process that are asked for, one by one: some thirty milliseconds of init's
/// time. A program with a thousand libraries has a thousand.
const MAX_EXECUTABLE: usize = 32_768;
/// Bytes of a mapping's name: the kernel gives no longer one.
const MAX_NAME: usize = 4096;

/// Why a look failed.
pub(crate) enum Fault {
    /// The map is longer than is read.
    TooMany,
    /// The look was not through when its time was up.
    TooLong,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether a process has foreign code. `program` is the path of the process's own program, which is judged by
/// its hash instead. The kernel is asked no more once the time `is_over`.
pub(crate) fn is_in(
    process: &Opened,
    program: &[u8],
    writable: &[PathBuf],
    is_over: &dyn Fn() -> bool,
) -> Result<bool, Fault> {
    let mut code = Vec::new();
    let foreign = executable_mappings(&process.open_maps()?, is_over, |mapping| {
        if mapping.is_of_others() {
            code.push(mapping.range.clone());
        }
        is_foreign(mapping, program, writable)
    })?;
    Ok(foreign || changed_code::is_in(process, &code, is_over)?)
}

/// Shows the executable mappings to `is_wanted` until it accepts one, and returns whether it did.
fn executable_mappings(
    maps: &File,
    is_over: &dyn Fn() -> bool,
    mut is_wanted: impl FnMut(&Mapping<'_>) -> bool,
) -> Result<bool, Fault> {
    match asked(maps, is_over, &mut is_wanted) {
        // This kernel has no PROCMAP_QUERY.
        Err(Fault::Io(error)) if error.raw_os_error() == Some(libc::ENOTTY) => read(maps, &mut is_wanted),
        answer => answer,
    }
}

/// # Errors
/// Time is up.
pub(super) fn in_time(is_over: &dyn Fn() -> bool) -> Result<(), Fault> {
    if is_over() { Err(Fault::TooLong) } else { Ok(()) }
}

fn asked(
    maps: &File,
    is_over: &dyn Fn() -> bool,
    is_wanted: &mut impl FnMut(&Mapping<'_>) -> bool,
) -> Result<bool, Fault> {
    let (mut from, mut name) = (0, [0; MAX_NAME]);
    for _ in 0..MAX_EXECUTABLE {
        in_time(is_over)?;
        let Some((range, path)) = procmap::next_executable(maps.as_fd(), from, &mut name)? else {
            return Ok(false);
        };
        from = range.end;
        if is_wanted(&Mapping { range, executable: true, path }) {
            return Ok(true);
        }
    }
    Err(Fault::TooMany)
}

fn read(maps: &File, is_wanted: &mut impl FnMut(&Mapping<'_>) -> bool) -> Result<bool, Fault> {
    let mut text = Vec::with_capacity(16 * 1024);
    maps.take(MAX_MAPS + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_MAPS {
        return Err(Fault::TooMany);
    }
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mapping = Mapping::read(line)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable memory map"))?;
        if mapping.executable && is_wanted(&mapping) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a mapping is foreign code. `program` is the path of the process's own program.
fn is_foreign(mapping: &Mapping<'_>, program: &[u8], writable: &[PathBuf]) -> bool {
    if mapping.path == program {
        return false;
    }
    if !mapping.is_of_a_file() {
        // Code that was written at run time: a just-in-time compiler's, or an intruder's that took its file
        // away again. The kernel's own two pages are exempt.
        return !mapping.is_of_others() && mapping.path != b"[vsyscall]";
    }
    let path = Path::new(OsStr::from_bytes(mapping.path));
    mapping.path.ends_with(b" (deleted)")
        || mapping.path.starts_with(b"/memfd:")
        || writable.iter().any(|dir| path.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_code_is_told_from_the_systems() {
        let writable = [PathBuf::from("/sandbox"), PathBuf::from("/tmp")];
        let foreign = |perms: &str, path: &str| {
            let line = format!(
                "7f00-7f10 {perms} 00000000 fe:00 12 {}{path}",
                if path.is_empty() { "" } else { "    " }
            );
            let mapping = Mapping::read(line.as_bytes()).unwrap();
            assert_eq!(mapping.range, 0x7f00..0x7f10);
            mapping.executable && is_foreign(&mapping, b"/sandbox/agent", &writable)
        };
        assert!(!foreign("r-xp", "/usr/lib/libc.so.6"));
        assert!(!foreign("r-xp", "/sandbox/agent"), "the program itself is judged by its hash");
        assert!(!foreign("r--p", "/sandbox/data.so"));
        assert!(foreign("rwxp", ""), "written at run time, by whomever");
        assert!(foreign("r-xp", "[heap]"));
        assert!(!foreign("rw-p", ""));
        assert!(!foreign("r-xp", "[vdso]"));
        assert!(!foreign("--xp", "[vsyscall]"));
        assert!(foreign("r-xp", "/sandbox/evil.so"));
        assert!(foreign("r-xp", "/tmp/x y.so"));
        assert!(foreign("r-xs", "/memfd:x (deleted)"));
        assert!(foreign("r-xp", "/usr/lib/old.so (deleted)"));
        assert!(!foreign("r-xp", "/tmpfs/x.so"), "a prefix of a name isn't a parent directory");
    }

    #[test]
    fn the_kernel_names_the_mappings_that_it_prints() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Its libraries are mapped once it runs.
        other.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let maps = || File::open(format!("/proc/{}/maps", other.id())).unwrap();
        let (mut named, mut printed) = (Vec::new(), Vec::new());
        let of = |mapping: &Mapping<'_>| (mapping.range.clone(), mapping.path.to_vec());
        let answer = asked(&maps(), &|| false, &mut |mapping| {
            named.push(of(mapping));
            false
        });
        let text = read(&maps(), &mut |mapping| {
            // Not a mapping of the process's own: only the printed list has it.
            if mapping.path != b"[vsyscall]" {
                printed.push(of(mapping));
            }
            false
        });
        let first = asked(&maps(), &|| false, &mut |_| true);
        let late = asked(&maps(), &|| true, &mut |_| true);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(text.is_ok_and(|wanted| !wanted) && printed.len() > 1);
        assert!(matches!(late, Err(Fault::TooLong)));
        match answer {
            Err(Fault::Io(error)) if error.raw_os_error() == Some(libc::ENOTTY) => {
                eprintln!("SKIPPED: this kernel has no PROCMAP_QUERY (Linux 6.11)");
            }
            answer => {
                assert!(answer.is_ok_and(|wanted| !wanted) && first.is_ok_and(|wanted| wanted));
                assert_eq!(named, printed);
            }
        }
    }
}
