//! Who holds a socket: every process with a descriptor of it, each with its opened executable and its ancestors.
//!
//! This is what identity stands on, so every doubt is a refusal: a process that can't be read, one that changed
//! while it was looked at, more of anything than the bounds. Names are never identity; only the opened executable is.
//! ```text
//! every process's descriptors ─▶ holders ─▶ each and its ancestors: opened, executable, mappings ─▶ all still so?
//! ```
//! The whole of /proc is walked, so a process costs one directory and each of its descriptors one call: everything is
//! read by descriptor. Threads without their process's descriptor table can't exist under the seccomp list; they are
//! looked at where that is not in force, and where the first thread has no table (any more).

use super::connects::socket_inode;
use super::foreign_code;
use super::process::{Opened, Stat, pids};
use crate::protocol::{Holder, Identity, MAX_ANCESTORS, MAX_HOLDERS, Refusal};
use crate::sys;
use crate::sys::directory::{self, ENTRIES};
use crate::sys::process::Descriptor;
use crate::wire::MAX_FDS;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Processes looked at for one question.
const MAX_PIDS: usize = 4096;
/// Descriptors looked at for one question: a hostile flood of them costs init a tenth of a second, and a denial.
const MAX_DESCRIPTORS: usize = 65_536;
/// For how long the whole look is redone when processes change under it: programs start and end in less.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a look at what one process has mapped may take; checked between two questions to the kernel.
const MAPPINGS_PATIENCE: Duration = Duration::from_millis(50);
/// Sockets that descriptors are compared with; for more at once it is cheaper to read what each descriptor is.
const MAX_ANCHORS: usize = 3;
/// Bytes of a link that are looked at where only `socket:[INODE]` is of interest.
const LINK: usize = 64;

/// What holders are looked for with.
#[derive(Clone, Copy)]
pub(crate) struct Lens<'a> {
    /// Look through their memory maps too.
    pub(crate) mappings: bool,
    /// Where the agent can write: an executable mapping from there is foreign code.
    pub(crate) writable: &'a [PathBuf],
    /// Every thread may have a descriptor table of its own.
    pub(crate) threads: bool,
    /// Processes that have yet to execute their program: our own code, which holds nobody's sockets.
    pub(crate) starting: &'a [i32],
}

/// A socket whose holders are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) inode: u64,
    /// A process and a descriptor of it where it may be: looked at first, since a process with thousands of them costs
    /// milliseconds to look through.
    pub(crate) likely: Option<(i32, i32)>,
}

/// What came of a look for one socket.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) result: Result<Found, Refusal>,
    /// How long the memory maps of its holders took.
    pub(crate) took: Duration,
}

/// An answer: every holder of one socket, and the opened executables that they refer to.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) holders: Vec<Holder>,
    pub(crate) executables: Vec<OwnedFd>,
}

/// What is under way for some questions.
struct Search<'a> {
    lens: Lens<'a>,
    wanted: &'a [Wanted],
    /// Where each of `wanted` was as the look began: what other descriptors are compared with. None unless there is one for
    /// each, and few enough.
    anchors: Vec<Descriptor>,
    looked_at: usize,
    entries: Vec<u8>,
    executables: Executables,
    seen: Vec<Seen>,
    /// For each of `wanted`, over all rounds.
    took: &'a mut [Duration],
}

/// A process as it was found, to be found the same at the end.
struct Seen {
    process: Opened,
    before: Stat,
    executable: (u64, u64),
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

/// A place in the descriptor tables of a process where a socket is: the index of its inode, and where.
#[derive(Clone, Copy)]
struct Place {
    socket: usize,
    thread: i32,
    number: i32,
}

/// Every holder of each socket. One walk answers all: it begins after all were asked.
pub(crate) fn holders(wanted: &[Wanted], lens: Lens<'_>) -> Vec<Looked> {
    let mut took = vec![Duration::ZERO; wanted.len()];
    let found = found(wanted, lens, &mut took);
    found.into_iter().zip(took).map(|(result, took)| Looked { result, took }).collect()
}

fn found(wanted: &[Wanted], lens: Lens<'_>, took: &mut [Duration]) -> Vec<Result<Found, Refusal>> {
    let started = Instant::now();
    let refuse = |refusal: Refusal| wanted.iter().map(|_| Err(refusal.clone())).collect();
    while started.elapsed() < PATIENCE {
        let mut search = Search {
            lens,
            wanted,
            anchors: Vec::new(),
            looked_at: 0,
            entries: vec![0; ENTRIES],
            executables: Executables::default(),
            seen: Vec::new(),
            took,
        };
        match search.run() {
            // A socket that is asked about twice was found once.
            Ok(found) => {
                let first = |one: &Wanted| wanted.iter().position(|other| other.inode == one.inode);
                let of =
                    |one: &Wanted| first(one).and_then(|at| found.get(at)).cloned().unwrap_or(Ok(Vec::new()));
                return wanted.iter().map(|one| search.answer(of(one)?)).collect();
            }
            Err(Fault::Changed) => std::thread::yield_now(),
            Err(Fault::Refused(refusal)) => return refuse(refusal),
        }
    }
    refuse(Refusal::Unreadable { pid: 0, why: "processes change faster than they can be identified".into() })
}

/// Which of the sockets a descriptor is, by comparing it with them where `anchors` say that they are; else by its link.
fn socket_at(
    (anchors, wanted): (&[Descriptor], &[Wanted]),
    table: &OwnedFd,
    descriptor: Descriptor,
) -> io::Result<Option<usize>> {
    for (socket, anchor) in anchors.iter().enumerate() {
        match sys::process::same_file(*anchor, descriptor) {
            Ok(true) => return Ok(Some(socket)),
            Ok(false) => {}
            // Of the one or of the other: at the end it is looked whether the sockets were where they were.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
            Err(_) => return linked(wanted, table, descriptor.number),
        }
    }
    if anchors.is_empty() { linked(wanted, table, descriptor.number) } else { Ok(None) }
}

fn linked(wanted: &[Wanted], table: &OwnedFd, number: i32) -> io::Result<Option<usize>> {
    let mut text = [0; LINK];
    let target = match directory::read_numbered_link(table.as_fd(), number, &mut text) {
        Ok(target) => target,
        // Closed between listing and reading; a process that closes it isn't its holder any more.
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(socket_inode(target).and_then(|inode| wanted.iter().position(|wanted| wanted.inode == inode)))
}

fn unreadable(pid: i32, error: &io::Error) -> Refusal {
    Refusal::Unreadable { pid, why: error.to_string() }
}

/// What an error means of a process that was there a moment ago.
fn gone_or_unreadable(pid: i32, error: &io::Error) -> Fault {
    if is_gone(error) { Fault::Changed } else { unreadable(pid, error).into() }
}

impl Search<'_> {
    /// For each socket its holders, whose executables are numbered by [`Search::executables`].
    fn run(&mut self) -> Result<Vec<Result<Vec<Holder>, Refusal>>, Fault> {
        let proc = File::open("/proc").map_err(|error| unreadable(0, &error))?;
        let all = pids(proc.as_fd(), &mut self.entries, MAX_PIDS)
            .map_err(|error| unreadable(0, &error))?
            .ok_or_else(|| Refusal::TooMany("processes to look through".into()))?;
        self.anchors = self.anchors(&proc);
        let mut found: Vec<Result<Vec<Holder>, Refusal>> =
            self.wanted.iter().map(|_| Ok(Vec::new())).collect();
        // Init itself holds sockets only to give them away.
        let starting = self.lens.starting;
        for pid in all.into_iter().filter(|pid| *pid != 1 && !starting.contains(pid)) {
            let places = self.places(&proc, pid)?;
            if places.is_empty() {
                continue;
            }
            let holder = match self.holder(&proc, pid, &places) {
                Ok(holder) => holder,
                // Its sockets', and nobody else's who asks at the same time.
                Err(Fault::Refused(refusal)) => {
                    for place in places {
                        found.get_mut(place.socket).into_iter().for_each(|of| *of = Err(refusal.clone()));
                    }
                    continue;
                }
                Err(changed) => return Err(changed),
            };
            for place in places {
                match found.get_mut(place.socket) {
                    Some(Ok(holders)) if holders.len() < MAX_HOLDERS => holders.push(holder.clone()),
                    Some(full) => *full = Err(Refusal::TooMany("processes that hold one socket".into())),
                    None => {}
                }
            }
        }
        // What was compared with was the socket: as it began and now. Whoever made the connection could put another there
        // meanwhile, so as to hide who else holds it; but whoever may speak needs nobody hidden to speak for him.
        if self.anchors(&proc).len() < self.anchors.len() {
            return Err(Fault::Changed);
        }
        self.confirm()?;
        Ok(found)
    }

    /// The answer by itself, with descriptors of its own.
    fn answer(&self, mut holders: Vec<Holder>) -> Result<Found, Refusal> {
        let mut own = Executables::default();
        for identity in
            holders.iter_mut().flat_map(|h| std::iter::once(&mut h.process).chain(&mut h.ancestors))
        {
            let at = usize::from(identity.exe);
            let (Some(key), Some(fd)) = (self.executables.keys.get(at), self.executables.fds.get(at)) else {
                return Err(Refusal::Invalid("an executable that was not opened".into()));
            };
            identity.exe = own.add(*key, MAX_FDS, || fd.try_clone()).map_err(|fault| match fault {
                Fault::Refused(refusal) => refusal,
                Fault::Changed => Refusal::TooMany("open files".into()),
            })?;
        }
        Ok(Found { holders, executables: own.fds })
    }

    /// Where a process has any of the sockets, at most one place each.
    fn places(&mut self, proc: &File, pid: i32) -> Result<Vec<Place>, Fault> {
        let mut found = self.where_connected(proc, pid);
        if found.len() == self.wanted.len() {
            return Ok(found);
        }
        match directory::open(proc.as_fd(), &format!("{pid}/fd"), libc::O_DIRECTORY) {
            Ok(table) => {
                let before = self.looked_at;
                self.find(pid, pid, &table, &mut found)?;
                // An empty table is one that the first thread took down as it ended before the others.
                if !self.lens.threads && self.looked_at > before {
                    return Ok(found);
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(_) if is_ending(pid) => {}
            Err(error) => return Err(unreadable(pid, &error).into()),
        }
        self.places_of_threads(proc, pid, &mut found)?;
        Ok(found)
    }

    /// The places where the sockets were connected, if all of them are there still and are few.
    fn anchors(&self, proc: &File) -> Vec<Descriptor> {
        let at = |(socket, wanted): (usize, &Wanted)| {
            let (pid, number) = wanted.likely?;
            self.is_at(proc, pid, Place { socket, thread: pid, number })
                .then_some(Descriptor { task: pid, number })
        };
        let anchors: Option<Vec<Descriptor>> = self.wanted.iter().enumerate().map(at).collect();
        anchors.filter(|anchors| anchors.len() <= MAX_ANCHORS).unwrap_or_default()
    }

    /// The places where the process connected the sockets, as far as they are there still.
    fn where_connected(&self, proc: &File, pid: i32) -> Vec<Place> {
        let mut found = Vec::new();
        for (socket, wanted) in self.wanted.iter().enumerate() {
            let Some((_, number)) = wanted.likely.filter(|(process, _)| *process == pid) else { continue };
            let place = Place { socket, thread: pid, number };
            if self.is_at(proc, pid, place) {
                found.push(place);
            }
        }
        found
    }

    /// Whether a process has the socket at this place, now.
    fn is_at(&self, proc: &File, pid: i32, place: Place) -> bool {
        let mut text = [0; LINK];
        let path = format!("{pid}/task/{}/fd/{}", place.thread, place.number);
        let target = directory::read_link(proc.as_fd(), &path, &mut text).ok().and_then(socket_inode);
        target.is_some() && target == self.wanted.get(place.socket).map(|wanted| wanted.inode)
    }

    fn places_of_threads(&mut self, proc: &File, pid: i32, found: &mut Vec<Place>) -> Result<(), Fault> {
        let tasks = match directory::open(proc.as_fd(), &format!("{pid}/task"), libc::O_DIRECTORY) {
            Ok(tasks) => tasks,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(unreadable(pid, &error).into()),
        };
        let mut threads = Vec::new();
        directory::numbers(tasks.as_fd(), &mut self.entries, |thread| {
            threads.push(thread);
            ControlFlow::Continue(())
        })
        .or_else(|error| if is_gone(&error) { Ok(()) } else { Err(unreadable(pid, &error)) })?;
        let mut first = None;
        for thread in threads {
            // The same descriptor table needs no second look.
            if first.is_some_and(|first| sys::process::same_descriptors(first, thread)) {
                continue;
            }
            let table = match directory::open(tasks.as_fd(), &format!("{thread}/fd"), libc::O_DIRECTORY) {
                Ok(table) => table,
                Err(error) if is_gone(&error) || is_ending(thread) => continue,
                Err(error) => return Err(unreadable(pid, &error).into()),
            };
            self.find(pid, thread, &table, found)?;
            first = first.or(Some(thread));
        }
        Ok(())
    }

    /// Looks through one descriptor table.
    fn find(&mut self, pid: i32, thread: i32, table: &OwnedFd, found: &mut Vec<Place>) -> Result<(), Fault> {
        let Self { anchors, wanted, looked_at, entries, .. } = self;
        let mut fault = None;
        let listed = directory::numbers(table.as_fd(), entries, |number| {
            *looked_at += 1;
            if *looked_at > MAX_DESCRIPTORS {
                fault = Some(Refusal::TooMany("descriptors to look through".into()));
                return ControlFlow::Break(());
            }
            match socket_at((anchors, wanted), table, Descriptor { task: thread, number }) {
                Ok(socket) => {
                    if let Some(socket) = socket.filter(|at| found.iter().all(|place| place.socket != *at)) {
                        found.push(Place { socket, thread, number });
                    }
                    let all = found.len() == wanted.len();
                    return if all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                }
                Err(_) if is_ending(thread) => {}
                Err(error) => fault = Some(unreadable(pid, &error)),
            }
            ControlFlow::Break(())
        });
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        match listed {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) || is_ending(thread) => Ok(()),
            Err(error) => Err(unreadable(pid, &error).into()),
        }
    }

    fn holder(&mut self, proc: &File, pid: i32, places: &[Place]) -> Result<Holder, Fault> {
        let (process, mut parent) = self.identity(proc, pid)?;
        let begun = Instant::now();
        let foreign_code =
            if self.lens.mappings { self.has_foreign_code(&process, begun) } else { Ok(false) };
        let spent = begun.elapsed();
        for place in places {
            self.took.get_mut(place.socket).into_iter().for_each(|took| *took += spent);
        }
        let foreign_code = foreign_code?;
        // Still the one that holds them: an exec in between may have closed one, and then it was another program's.
        if !places.iter().all(|place| self.is_at(proc, pid, *place)) {
            return Err(Fault::Changed);
        }
        let mut ancestors = Vec::new();
        while parent > 1 {
            if ancestors.len() >= MAX_ANCESTORS {
                return Err(Refusal::TooMany("ancestors of one process".into()).into());
            }
            let (ancestor, above) = self.identity(proc, parent)?;
            ancestors.push(ancestor);
            parent = above;
        }
        Ok(Holder { process, foreign_code, ancestors })
    }

    /// Who a process is, and its parent. What is read here is compared by [`Search::confirm`].
    fn identity(&mut self, proc: &File, pid: i32) -> Result<(Identity, i32), Fault> {
        let process = Opened::open(proc.as_fd(), pid).map_err(|_| Fault::Changed)?;
        let before = process.stat().map_err(|_| Fault::Changed)?;
        if before.is_ending() {
            // A holder on its way out is none in a moment; an ancestor's children get another parent.
            return Err(Fault::Changed);
        }
        let read = |error: io::Error| gone_or_unreadable(pid, &error);
        let target = process.executable_path().map_err(read)?;
        let file = process.open_executable().map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        let Ok(exe_path) = String::from_utf8(target) else {
            return Err(Refusal::Unreadable { pid, why: "the path of its program isn't UTF-8".into() }.into());
        };
        let executable = (meta.dev(), meta.ino());
        let exe = self.executables.add(executable, usize::from(u8::MAX), || Ok(file.into()))?;
        let identity = Identity {
            pid,
            start_time: before.start_time,
            exe,
            deleted: meta.nlink() == 0 || exe_path.ends_with(" (deleted)"),
            memory: exe_path.starts_with("/memfd:"),
            exe_path,
        };
        self.seen.push(Seen { process, before, executable });
        Ok((identity, before.parent))
    }

    /// Everyone is still who they were, and has the parent that they had: nothing moved while we looked.
    fn confirm(&self) -> Result<(), Fault> {
        for seen in &self.seen {
            let same = || -> io::Result<bool> {
                let now = seen.process.stat()?;
                let still = now.start_time == seen.before.start_time && now.parent == seen.before.parent;
                Ok(still && !now.is_ending() && seen.process.executable()? == seen.executable)
            };
            if !same().is_ok_and(|same| same) {
                return Err(Fault::Changed);
            }
        }
        Ok(())
    }

    fn has_foreign_code(&self, process: &Identity, begun: Instant) -> Result<bool, Fault> {
        let Some(seen) = self.seen.last() else { return Err(Fault::Changed) };
        let unreadable = |why: &str| Refusal::Unreadable { pid: process.pid, why: why.into() }.into();
        let until = begun + MAPPINGS_PATIENCE;
        let program = process.exe_path.as_bytes();
        foreign_code::is_in(&seen.process, program, self.lens.writable, until).map_err(|fault| match fault {
            foreign_code::Fault::TooMany => unreadable("it has too many executable mappings"),
            foreign_code::Fault::TooLong => unreadable("what it has mapped takes too long to look through"),
            foreign_code::Fault::Io(error) => gone_or_unreadable(process.pid, &error),
        })
    }
}

impl Executables {
    /// The index of an opened file, which is kept once; at most `limit` of them.
    fn add(
        &mut self,
        key: (u64, u64),
        limit: usize,
        open: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> Result<u8, Fault> {
        let index = match self.keys.iter().position(|known| *known == key) {
            Some(index) => index,
            None if self.keys.len() >= limit => {
                return Err(Refusal::TooMany("different programs around one socket".into()).into());
            }
            None => {
                self.fds.push(open().map_err(|_| Fault::Changed)?);
                self.keys.push(key);
                self.keys.len() - 1
            }
        };
        Ok(u8::try_from(index).unwrap_or(u8::MAX))
    }
}

/// Gone, or on its way out: nothing of its program runs any more.
fn is_ending(thread: i32) -> bool {
    Stat::read(thread).map_or(true, |stat| stat.is_ending())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}
