//! Processes of the sandbox as `/proc` shows them to init (proc_pid_stat(5)).

use std::io;
use std::path::Path;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    pub(crate) parent: i32,
    /// The kernel's `PF_` flags.
    flags: u64,
    /// Clock ticks after boot.
    pub(crate) start_time: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        Self::read_below(Path::new(&format!("/proc/{pid}")))
    }

    /// Of a process or of one task of it, by its directory.
    pub(crate) fn read_below(directory: &Path) -> io::Result<Self> {
        Self::parse(&std::fs::read(directory.join("stat"))?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable stat"))
    }

    /// The command's name may hold anything, so fields are counted from the last parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let after = text.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> =
            std::str::from_utf8(text.get(after + 1..)?).ok()?.split_ascii_whitespace().collect();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            flags: fields.get(6)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// It runs no instruction of its program any more: on its way out, or a zombie. The kernel lets nobody look
    /// into such a process, whatever their rights.
    pub(crate) fn is_ending(&self) -> bool {
        /// linux/sched.h
        const PF_EXITING: u64 = 0x4;
        matches!(self.state, b'Z' | b'X') || self.flags & PF_EXITING != 0
    }
}

/// The process that a thread belongs to (proc_pid_status(5)).
pub(crate) fn process_of(thread: i32) -> io::Result<i32> {
    let status = std::fs::read(format!("/proc/{thread}/status"))?;
    // The name, on the first line, is escaped: a line that begins so is the kernel's.
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"));
    line.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable status"))
}

/// Every process of the pid namespace, at most `limit`; `None` when there are more.
pub(crate) fn pids(limit: usize) -> io::Result<Option<Vec<i32>>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            if pids.len() >= limit {
                return Ok(None);
            }
            pids.push(pid);
        }
    }
    Ok(Some(pids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_moves_no_field() {
        let fields = "S 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        for name in ["sh", ") R 99 9 (", "a b\nc", "))))"] {
            let stat = Stat::parse(format!("12 ({name}) {fields}").as_bytes()).unwrap();
            assert_eq!(stat, Stat { state: b'S', parent: 7, flags: 4_194_560, start_time: 4242 });
        }
        assert!(Stat::parse(b"12 (sh").is_none());
        assert!(Stat::parse(b"").is_none());
    }

    #[test]
    fn a_thread_is_its_processs() {
        let thread = std::thread::spawn(|| nix::unistd::gettid().as_raw()).join().unwrap();
        let own = nix::unistd::gettid().as_raw();
        assert_eq!(process_of(own).unwrap(), std::process::id() as i32);
        assert!(process_of(thread).is_err() || thread != own);
    }

    #[test]
    fn our_own_is_readable() {
        let own = Stat::read(std::process::id() as i32).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id() as i32);
        assert!(!own.is_ending());
    }
}
