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
use super::identified::{Fault, Identified, gone_or_unreadable, is_gone, unreadable};
use super::process::{Stat, pids};
use crate::protocol::{Holder, Identity, MAX_ANCESTORS, MAX_HOLDERS, Refusal};
use crate::sys;
use crate::sys::directory::{self, ENTRIES};
use crate::sys::process::Descriptor;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
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
    identified: Identified,
    /// For each of `wanted`, over all rounds.
    took: &'a mut [Duration],
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
            identified: Identified::default(),
            took,
        };
        match search.run() {
            // A socket that is asked about twice was found once.
            Ok(found) => {
                let first = |one: &Wanted| wanted.iter().position(|other| other.inode == one.inode);
                let of =
                    |one: &Wanted| first(one).and_then(|at| found.get(at)).cloned().unwrap_or(Ok(Vec::new()));
                return wanted.iter().map(|one| search.identified.answer(of(one)?)).collect();
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

impl Search<'_> {
    /// For each socket its holders, whose executables are numbered by [`Identified`].
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
        self.identified.confirm()?;
        Ok(found)
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
        let (process, mut parent) = self.identified.identity(proc, pid)?;
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
            let (ancestor, above) = self.identified.identity(proc, parent)?;
            ancestors.push(ancestor);
            parent = above;
        }
        Ok(Holder { process, foreign_code, ancestors })
    }

    fn has_foreign_code(&self, process: &Identity, begun: Instant) -> Result<bool, Fault> {
        let Some(opened) = self.identified.latest() else { return Err(Fault::Changed) };
        let unreadable = |why: &str| Refusal::Unreadable { pid: process.pid, why: why.into() }.into();
        let until = begun + MAPPINGS_PATIENCE;
        let program = process.exe_path.as_bytes();
        foreign_code::is_in(opened, program, self.lens.writable, until).map_err(|fault| match fault {
            foreign_code::Fault::TooMany => unreadable("it has too many executable mappings"),
            foreign_code::Fault::TooLong => unreadable("what it has mapped takes too long to look through"),
            foreign_code::Fault::Io(error) => gone_or_unreadable(process.pid, &error),
        })
    }
}

/// Gone, or on its way out: nothing of its program runs any more.
fn is_ending(thread: i32) -> bool {
    Stat::read(thread).map_or(true, |stat| stat.is_ending())
}
