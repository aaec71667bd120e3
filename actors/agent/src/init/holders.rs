//! Who holds a socket: every process with a descriptor of it, each with its opened executable and its ancestors.
//!
//! This is what identity stands on, so every doubt is a refusal: a process that can't be read, one that changed
//! between two looks, more of anything than the bounds. Names are never identity; only the opened executable is.
//! Threads without their process's descriptor table can't exist under the seccomp list; they are looked at all the
//! same where they do (best effort).

use super::process::{Stat, pids};
use crate::protocol::{Holder, Identity, MAX_ANCESTORS, MAX_HOLDERS, Refusal};
use crate::sys;
use crate::wire::MAX_FDS;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes looked at for one question.
const MAX_PIDS: usize = 4096;
/// Descriptors looked at for one question: a hostile flood of them costs init a tenth of a second, and a denial.
const MAX_DESCRIPTORS: usize = 65_536;
/// Bytes of one process's memory map read.
const MAX_MAPS: u64 = 4 << 20;
/// For how long the whole look is redone when processes change under it: programs start and end in less.
const PATIENCE: Duration = Duration::from_millis(20);

/// What is under way for one question.
struct Search<'a> {
    writable: &'a [PathBuf],
    mappings: bool,
    looked_at: usize,
    executables: Executables,
}

/// The opened executables, one a file.
#[derive(Default)]
struct Executables {
    keys: Vec<(u64, u64)>,
    fds: Vec<OwnedFd>,
}

/// Why a look came to nothing.
enum Fault {
    /// A process ended or executed another program meanwhile.
    Changed,
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Every holder of the socket with this inode, and the opened executables they refer to.
///
/// `writable` are the places where the agent can write: an executable mapping from there is foreign code.
pub(crate) fn holders(
    inode: u64,
    mappings: bool,
    writable: &[PathBuf],
) -> Result<(Vec<Holder>, Vec<OwnedFd>), Refusal> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let mut search = Search { writable, mappings, looked_at: 0, executables: Executables::default() };
        match search.run(inode) {
            Ok(holders) => return Ok((holders, search.executables.fds)),
            Err(Fault::Changed) => std::thread::yield_now(),
            Err(Fault::Refused(refusal)) => return Err(refusal),
        }
    }
    Err(Refusal::Unreadable { pid: 0, why: "processes change faster than they can be identified".into() })
}

fn unreadable(pid: i32, error: &io::Error) -> Refusal {
    Refusal::Unreadable { pid, why: error.to_string() }
}

impl Search<'_> {
    fn run(&mut self, inode: u64) -> Result<Vec<Holder>, Fault> {
        let link = format!("socket:[{inode}]");
        let all = pids(MAX_PIDS)
            .map_err(|error| unreadable(0, &error))?
            .ok_or_else(|| Refusal::TooMany("processes to look through".into()))?;
        let mut holders = Vec::new();
        // Init itself holds sockets only to give them away.
        for pid in all.into_iter().filter(|pid| *pid != 1) {
            if self.holds(pid, &link)? {
                if holders.len() >= MAX_HOLDERS {
                    return Err(Refusal::TooMany("processes that hold one socket".into()).into());
                }
                holders.push(self.holder(pid)?);
            }
        }
        Ok(holders)
    }

    /// Whether any thread of a process has the socket.
    fn holds(&mut self, pid: i32, link: &str) -> Result<bool, Fault> {
        let tasks = match std::fs::read_dir(format!("/proc/{pid}/task")) {
            Ok(tasks) => tasks,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(unreadable(pid, &error).into()),
        };
        let mut first: Option<i32> = None;
        for task in tasks.flatten() {
            let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // The same descriptor table needs no second look.
            if first.is_some_and(|first| sys::process::same_descriptors(first, tid)) {
                continue;
            }
            match self.table_has(&task.path(), link) {
                Ok(true) => return Ok(true),
                Ok(false) => first = first.or(Some(tid)),
                Err(Fault::Refused(Refusal::Unreadable { why, .. })) => {
                    return Err(Refusal::Unreadable { pid, why }.into());
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(false)
    }

    fn table_has(&mut self, task: &Path, link: &str) -> Result<bool, Fault> {
        let entries = match std::fs::read_dir(task.join("fd")) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) || is_ending(task) => return Ok(false),
            Err(error) => return Err(unreadable(0, &error).into()),
        };
        for entry in entries {
            self.looked_at += 1;
            if self.looked_at > MAX_DESCRIPTORS {
                return Err(Refusal::TooMany("descriptors to look through".into()).into());
            }
            let target = match entry.and_then(|entry| std::fs::read_link(entry.path())) {
                Ok(target) => target,
                // Closed between listing and reading; a process that closes it isn't its holder any more.
                Err(error) if is_gone(&error) => continue,
                Err(_) if is_ending(task) => return Ok(false),
                Err(error) => return Err(unreadable(0, &error).into()),
            };
            if target.as_os_str() == OsStr::new(link) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holder(&mut self, pid: i32) -> Result<Holder, Fault> {
        let (process, mut parent) = self.identity(pid)?;
        let foreign_code = self.mappings && self.has_foreign_code(pid, &process)?;
        let mut ancestors = Vec::new();
        while parent > 1 {
            if ancestors.len() >= MAX_ANCESTORS {
                return Err(Refusal::TooMany("ancestors of one process".into()).into());
            }
            let (ancestor, above) = self.identity(parent)?;
            ancestors.push(ancestor);
            parent = above;
        }
        // The chain must not have moved while we climbed it.
        let again = Stat::read(pid).map_err(|_| Fault::Changed)?;
        let direct = ancestors.first().map_or(1, |ancestor| ancestor.pid);
        if again.start_time != process.start_time || again.parent.max(1) != direct {
            return Err(Fault::Changed);
        }
        Ok(Holder { process, foreign_code, ancestors })
    }

    /// Who a process is, looked at twice, and its parent.
    fn identity(&mut self, pid: i32) -> Result<(Identity, i32), Fault> {
        let before = Stat::read(pid).map_err(|_| Fault::Changed)?;
        if before.is_ending() {
            // A holder on its way out is none in a moment; an ancestor's children get another parent.
            return Err(Fault::Changed);
        }
        let link = format!("/proc/{pid}/exe");
        let read =
            |error: io::Error| if is_gone(&error) { Fault::Changed } else { unreadable(pid, &error).into() };
        let target = std::fs::read_link(&link).map_err(read)?;
        let file = std::fs::File::open(&link).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        let same_again = std::fs::metadata(&link).map_err(read)?;
        let after = Stat::read(pid).map_err(|_| Fault::Changed)?;
        if (same_again.dev(), same_again.ino()) != (meta.dev(), meta.ino())
            || after.start_time != before.start_time
        {
            return Err(Fault::Changed);
        }
        let Some(exe_path) = target.to_str().map(str::to_owned) else {
            return Err(Refusal::Unreadable { pid, why: "the path of its program isn't UTF-8".into() }.into());
        };
        let exe = self.executables.add((meta.dev(), meta.ino()), file.into())?;
        let identity = Identity {
            pid,
            start_time: before.start_time,
            exe,
            deleted: meta.nlink() == 0 || exe_path.ends_with(" (deleted)"),
            memory: exe_path.starts_with("/memfd:"),
            exe_path,
        };
        Ok((identity, after.parent))
    }

    /// Whether an executable mapping, the program itself aside, comes from where the agent writes, or from nowhere.
    fn has_foreign_code(&self, pid: i32, process: &Identity) -> Result<bool, Fault> {
        use io::Read;
        let read =
            |error: io::Error| if is_gone(&error) { Fault::Changed } else { unreadable(pid, &error).into() };
        let mut maps = Vec::new();
        let file = std::fs::File::open(format!("/proc/{pid}/maps")).map_err(read)?;
        file.take(MAX_MAPS + 1).read_to_end(&mut maps).map_err(read)?;
        if maps.len() as u64 > MAX_MAPS {
            return Err(Refusal::TooMany("memory mappings of one process".into()).into());
        }
        Ok(maps
            .split(|byte| *byte == b'\n')
            .any(|line| is_foreign(line, process.exe_path.as_bytes(), self.writable)))
    }
}

/// One line of proc_pid_maps(5): `from-to perms offset dev inode   path`.
fn is_foreign(line: &[u8], program: &[u8], writable: &[PathBuf]) -> bool {
    let mut rest = line;
    let mut executable = false;
    for field in 0..5 {
        let Some(end) = rest.iter().position(|byte| *byte == b' ') else { return false };
        let (word, after) = rest.split_at(end);
        if field == 1 {
            executable = word.get(2) == Some(&b'x');
        }
        rest = after.trim_ascii_start();
    }
    if !executable || rest == program {
        return false;
    }
    if !rest.starts_with(b"/") {
        // Code that was written at run time: a just-in-time compiler's, or an intruder's that took its file away again.
        // The kernel's own two pages are no such thing.
        return rest != b"[vdso]" && rest != b"[vsyscall]";
    }
    let path = Path::new(OsStr::from_bytes(rest));
    rest.ends_with(b" (deleted)")
        || rest.starts_with(b"/memfd:")
        || writable.iter().any(|dir| path.starts_with(dir))
}

impl Executables {
    /// The index of an opened file, which is kept once.
    fn add(&mut self, key: (u64, u64), fd: OwnedFd) -> Result<u8, Refusal> {
        let index = match self.keys.iter().position(|known| *known == key) {
            Some(index) => index,
            None if self.keys.len() >= MAX_FDS => {
                return Err(Refusal::TooMany("different programs around one socket".into()));
            }
            None => {
                self.keys.push(key);
                self.fds.push(fd);
                self.keys.len() - 1
            }
        };
        Ok(u8::try_from(index).unwrap_or(u8::MAX))
    }
}

/// Gone, or on its way out: nothing of its program runs any more.
fn is_ending(task: &Path) -> bool {
    Stat::read_below(task).map_or(true, |stat| stat.is_ending())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
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
            is_foreign(line.as_bytes(), b"/sandbox/agent", &writable)
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
}
