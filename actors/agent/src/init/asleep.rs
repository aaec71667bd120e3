//! Remembers the descriptor tables of processes that have not run since the table was read: what was in it
//! then is in it now.
//!
//! Only calls of the process that owns a table change it: no process can put a descriptor into another's
//! table (ptrace(2), pidfd_getfd(2) and a second seccomp listener are not available inside), and only the
//! threads of one process share a table (the seccomp list's `CLONE`). So a table that was read whole while
//! its only thread was off the processor stays valid as long as the kernel has given that thread no turn. A
//! look at a hundred sleeping processes is then a hundred reads of their scheduler counts, instead of a
//! comparison of every descriptor.
//! ```text
//! counts the same as at the look before? ─▶ blocked now? one thread? ─▶ table read whole ─▶ counts still the same? ─▶ remembered
//! ```
//! An equal number of turns alone proves nothing: a thread that executes a program takes over its process's
//! pid, and may have had fewer turns than the thread that was read. But no thread can arrange to have run,
//! and to have waited for a processor, exactly as long as another to the nanosecond. Must never take a
//! process for asleep that may have run: where the kernel doesn't tell, or doesn't guarantee what it tells,
//! the process counts as awake.

use super::process::Stat;
use super::schedstat::{Counts, Schedstat};
use crate::sys::directory;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

/// Processes that are remembered; each costs init a descriptor, and the kernel a page.
const MAX_KNOWN: usize = 1024;
/// Sockets in all remembered tables together: half a mebibyte. A table that would exceed it is looked through
/// each time.
const MAX_SOCKETS: usize = 65_536;
/// Tables read whole in one look: each costs more than looking it through.
const READ_AT_ONCE: usize = 16;
/// The first kernel version whose proc_pid_wchan(5) tells of a thread only if it is blocked "and we can keep
/// it that way" (kernel/sched/core.c, get_wchan).
const TELLS_WHO_IS_BLOCKED: (u32, u32) = (5, 16);

/// What is known of tables, from one look to the next.
#[derive(Debug)]
pub(crate) struct Asleep {
    known: HashMap<i32, Known>,
    /// Number of sockets remembered in all tables.
    sockets: usize,
    look: u64,
    /// Tables that may still be read whole in this look.
    reads: usize,
    /// Whether anything can be remembered: no table is shared, and this kernel tells which threads are
    /// blocked.
    told: bool,
}

#[derive(Debug)]
struct Known {
    schedstat: Schedstat,
    /// The scheduler's counts as read last; `sockets` was read under the same ones.
    counts: Counts,
    /// The inodes of all sockets in its table, sorted, if that was read.
    sockets: Option<Box<[u64]>>,
    /// Number of the last look that asked about it.
    look: u64,
}

impl Known {
    fn is_asleep_still(&self) -> bool {
        self.schedstat.read().is_ok_and(|counts| counts == self.counts)
    }
}

/// What is known of a process's table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// It has to be looked through.
    Unknown,
    /// It has to be looked through, and may be read whole in doing so, since its process is asleep: see
    /// [`Asleep::remember`].
    Readable,
    /// None of the wanted sockets is in it.
    HoldsNone,
}

impl Asleep {
    /// Begins with nothing known. `shared` says that threads may have tables of their own, and processes may
    /// share tables: then nothing is ever remembered.
    pub(crate) fn new(shared: bool) -> Self {
        Self { known: HashMap::new(), sockets: 0, look: 0, reads: 0, told: !shared && kernel_tells() }
    }

    /// Begins a look.
    pub(super) fn begin(&mut self) {
        self.look += 1;
        self.reads = READ_AT_ONCE;
    }

    /// Ends a look, however it went: processes that it didn't ask about are forgotten.
    pub(super) fn end(&mut self) {
        let look = self.look;
        self.known.retain(|_, known| known.look == look);
        self.sockets =
            self.known.values().filter_map(|known| known.sockets.as_deref()).map(<[u64]>::len).sum();
    }

    /// Returns what is known of a process's table with regard to the sockets with the `wanted` inodes.
    pub(super) fn table_of(
        &mut self,
        proc: BorrowedFd<'_>,
        pid: i32,
        mut wanted: impl Iterator<Item = u64>,
    ) -> Table {
        if !self.told {
            return Table::Unknown;
        }
        let Some(known) = self.known.get_mut(&pid) else {
            self.meet(proc, pid);
            return Table::Unknown;
        };
        let Ok(counts) = known.schedstat.read() else {
            // The process has ended; its pid may be another's by now.
            self.known.remove(&pid);
            self.meet(proc, pid);
            return Table::Unknown;
        };
        known.look = self.look;
        if counts != known.counts {
            (known.counts, known.sockets) = (counts, None);
            return Table::Unknown;
        }
        match &known.sockets {
            Some(sockets) if wanted.all(|inode| sockets.binary_search(&inode).is_err()) => Table::HoldsNone,
            Some(_) => Table::Unknown,
            None if self.reads > 0 && is_blocked(proc, pid) && has_one_thread(pid) => {
                self.reads -= 1;
                Table::Readable
            }
            None => Table::Unknown,
        }
    }

    /// Remembers the sockets of a table that was [`Table::Readable`] and has been read whole, if its process
    /// is still asleep.
    pub(super) fn remember(&mut self, pid: i32, mut sockets: Vec<u64>) {
        let Some(known) = self.known.get_mut(&pid) else { return };
        if sockets.len() > MAX_SOCKETS.saturating_sub(self.sockets) {
            return;
        }
        if known.is_asleep_still() {
            sockets.sort_unstable();
            self.sockets += sockets.len();
            known.sockets = Some(sockets.into());
        }
    }

    fn meet(&mut self, proc: BorrowedFd<'_>, pid: i32) {
        if self.known.len() >= MAX_KNOWN {
            return;
        }
        let Ok(schedstat) = Schedstat::open(proc, pid) else { return };
        // No turns so far means that the kernel doesn't count them: every process that is asked about has had
        // one.
        let counted = schedstat.read().ok().filter(|counts| counts.turns > 0);
        if let Some(counts) = counted {
            self.known.insert(pid, Known { schedstat, counts, sockets: None, look: self.look });
        }
    }
}

/// Whether the first thread of a process is off the processor and waits for something: the place where it
/// waits then has a name.
fn is_blocked(proc: BorrowedFd<'_>, pid: i32) -> bool {
    let mut text = [0; 64];
    let place = directory::open(proc, &format!("{pid}/wchan"), libc::O_RDONLY)
        .map(File::from)
        .and_then(|file| file.read_at(&mut text, 0));
    place.is_ok_and(|length| text.get(..length).is_some_and(names_a_place))
}

fn names_a_place(text: &[u8]) -> bool {
    text.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
}

fn has_one_thread(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|stat| stat.threads == 1 && !stat.is_ending())
}

fn kernel_tells() -> bool {
    let release = |name: nix::sys::utsname::UtsName| version(name.release().to_str()?);
    nix::sys::utsname::uname().ok().and_then(release).is_some_and(|version| version >= TELLS_WHO_IS_BLOCKED)
}

/// Parses a kernel's release: `6.18.1-name`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// Starts a process that answers each line with a line, and waits for the next.
    fn listener() -> Child {
        let script = "while read -r line; do echo \"$line\"; done";
        Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn wake(child: &mut Child) {
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    fn proc() -> File {
        File::open("/proc").unwrap()
    }

    fn ask(all: &mut Asleep, pid: i32, inode: u64) -> Table {
        all.begin();
        let table = all.table_of(proc().as_fd(), pid, std::iter::once(inode));
        all.end();
        table
    }

    /// Tries until these sockets are remembered for a process, which takes a while to come to rest.
    fn remembered(all: &mut Asleep, pid: i32, sockets: &[u64]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while ask(all, pid, u64::MAX) != Table::HoldsNone {
            if ask(all, pid, u64::MAX) == Table::Readable {
                all.remember(pid, sockets.to_vec());
            }
            assert!(Instant::now() < deadline, "it never rests");
        }
    }

    /// Returns `None`, and says so, where this kernel doesn't tell.
    fn told() -> Option<Asleep> {
        let all = Asleep::new(false);
        let counted = Schedstat::open(proc().as_fd(), std::process::id() as i32).and_then(|own| own.read());
        let child = Command::new("/bin/sleep").arg("1000").spawn();
        let place = child.and_then(|mut child| {
            std::thread::sleep(Duration::from_millis(200));
            let blocked = is_blocked(proc().as_fd(), child.id() as i32);
            child.kill()?;
            child.wait()?;
            Ok(blocked)
        });
        if all.told && counted.is_ok_and(|counts| counts.turns > 0) && place.unwrap() {
            return Some(all);
        }
        eprintln!("SKIPPED: this kernel doesn't tell who has run");
        None
    }

    #[test]
    fn what_was_read_holds_until_its_process_runs() {
        let Some(mut all) = told() else { return };
        let mut child = listener();
        let pid = child.id() as i32;
        assert_eq!(ask(&mut all, pid, 7), Table::Unknown, "nobody knows it yet");
        wake(&mut child);
        remembered(&mut all, pid, &[9, 7, 8]);
        for (inode, expected) in
            [(6, Table::HoldsNone), (7, Table::Unknown), (8, Table::Unknown), (10, Table::HoldsNone)]
        {
            assert_eq!(ask(&mut all, pid, inode), expected, "{inode}");
        }
        wake(&mut child);
        assert_ne!(ask(&mut all, pid, 6), Table::HoldsNone, "it has run");
        // A process that runs while its table is read is not remembered.
        let deadline = Instant::now() + Duration::from_secs(60);
        while ask(&mut all, pid, 6) != Table::Readable {
            assert!(Instant::now() < deadline, "it never rests");
        }
        wake(&mut child);
        all.remember(pid, vec![]);
        assert_ne!(ask(&mut all, pid, 6), Table::HoldsNone);
        remembered(&mut all, pid, &[]);
        child.kill().and_then(|()| child.wait()).unwrap();
        assert_eq!(ask(&mut all, pid, 6), Table::Unknown, "it is gone");
        assert!(all.known.is_empty());
    }

    #[test]
    fn who_has_threads_or_is_at_work_is_awake() {
        let Some(mut all) = told() else { return };
        let (_hold, rest) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || rest.recv());
        let own = std::process::id() as i32;
        for _ in 0..100 {
            assert_eq!(ask(&mut all, own, 7), Table::Unknown);
        }
        drop(_hold);
        assert!(thread.join().unwrap().is_err());
        let mut busy = Command::new("/bin/sh");
        busy.args(["-c", "echo; while :; do :; done"]).stdout(Stdio::piped());
        let mut busy = busy.spawn().unwrap();
        busy.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        for _ in 0..1000 {
            assert_eq!(ask(&mut all, busy.id() as i32, 7), Table::Unknown);
        }
        busy.kill().and_then(|()| busy.wait()).unwrap();
    }

    /// The case of a thread that has executed a program, and has had as many turns by then as the thread
    /// whose pid it took over.
    #[test]
    fn as_many_turns_are_not_the_same_ones() {
        let Some(mut all) = told() else { return };
        let own = std::process::id() as i32;
        assert_eq!(ask(&mut all, own, 7), Table::Unknown, "it is met");
        let account = tempfile::NamedTempFile::new().unwrap();
        for (counts, same) in
            [("10 20 30", false), ("10 20 30", true), ("11 20 30", false), ("11 21 30", false)]
        {
            std::fs::write(account.path(), counts).unwrap();
            let known = all.known.get_mut(&own).unwrap();
            known.schedstat = Schedstat::told_by(account.reopen().unwrap());
            known.sockets = Some([7].into());
            assert_eq!(ask(&mut all, own, 6) == Table::HoldsNone, same, "{counts}");
        }
    }

    #[test]
    fn where_tables_may_be_shared_nothing_is_remembered() {
        let mut all = Asleep::new(true);
        let mut child = listener();
        wake(&mut child);
        for _ in 0..100 {
            assert_eq!(ask(&mut all, child.id() as i32, 7), Table::Unknown);
        }
        assert!(all.known.is_empty());
        child.kill().and_then(|()| child.wait()).unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded_in_sum_and_given_back() {
        let Some(mut all) = told() else { return };
        let mut children: Vec<Child> = (0..3).map(|_| listener()).collect();
        let pids: Vec<i32> = children.iter().map(|child| child.id() as i32).collect();
        let many = || (0..MAX_SOCKETS as u64 / 2).collect::<Vec<u64>>();
        let rest = |all: &mut Asleep| {
            all.begin();
            let table = pids.iter().map(|pid| all.table_of(proc().as_fd(), *pid, std::iter::once(u64::MAX)));
            let tables: Vec<Table> = table.collect();
            all.end();
            tables
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let known = |tables: &[Table]| tables.iter().filter(|table| **table == Table::HoldsNone).count();
        // There is room for the sockets of two.
        let tables = loop {
            let tables = rest(&mut all);
            assert!(known(&tables) <= 2, "{tables:?}");
            if known(&tables) == 2 && tables.contains(&Table::Readable) {
                break tables;
            }
            for (pid, _) in pids.iter().zip(&tables).filter(|(_, table)| **table == Table::Readable) {
                all.remember(*pid, many());
            }
            assert!(Instant::now() < deadline, "{tables:?}");
        };
        let at = |wanted: Table| tables.iter().position(|table| *table == wanted).unwrap();
        let (known, other) = (at(Table::HoldsNone), at(Table::Readable));
        all.remember(pids[other], many());
        assert_ne!(rest(&mut all)[other], Table::HoldsNone, "there is no room");
        wake(&mut children[known]);
        while rest(&mut all)[other] != Table::HoldsNone {
            all.remember(pids[other], many());
            assert!(Instant::now() < deadline, "there is room again");
        }
        for mut child in children {
            child.kill().and_then(|()| child.wait()).unwrap();
        }
    }

    #[test]
    fn a_look_reads_few_tables() {
        let Some(mut all) = told() else { return };
        let mut children: Vec<Child> = (0..READ_AT_ONCE + 4).map(|_| listener()).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            all.begin();
            let table = |child: &Child| all.table_of(proc().as_fd(), child.id() as i32, std::iter::once(7));
            let tables: Vec<Table> = children.iter().map(table).collect();
            let read = tables.iter().filter(|table| **table == Table::Readable).count();
            assert!(read <= READ_AT_ONCE, "{read}");
            all.end();
            if read == READ_AT_ONCE {
                break;
            }
            assert!(Instant::now() < deadline);
        }
        for child in &mut children {
            child.kill().and_then(|()| child.wait()).unwrap();
        }
    }

    #[test]
    fn what_the_kernel_says_is_taken_strictly() {
        assert!(names_a_place(b"hrtimer_nanosleep") && names_a_place(b"__x64_sys_pause"));
        assert!(!names_a_place(b"0") && !names_a_place(b""));
        assert_eq!(version("6.18.44-x"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("next"), None);
    }
}
