//! Who holds a socket: every process with a descriptor of it, each with its opened executable and its
//! ancestors.
//!
//! Identity rests on this, so every doubt is a refusal: a process that can't be read, one that changed while
//! it was looked at, more of anything than its bound. Names are never identity; only the opened executable
//! is.
//! ```text
//! every process's descriptors ─▶ holders ─▶ each and its ancestors: opened, executable, mappings ─▶ nobody born since? ─▶ all still so?
//! ```
//! The whole of /proc is walked, so everything is read relative to open directories: a process costs one
//! directory, and each of its descriptors one call. Threads with a descriptor table other than their
//! process's can't exist under the seccomp list. Threads are looked at where that is not in force, and where
//! the first thread has no table (any more).

use super::asleep::Asleep;
use super::birthmark::Birthmarks;
use super::births::{Births, came_late};
use super::foreign_code;
use super::identified::{Fault, Identified, gone_or_unreadable, unreadable};
use super::patience::{Stopwatch, Waits};
use super::process::pids;
use super::tables::{Place, Tables};
use super::tally::Tally;
use crate::protocol::{Holder, Identity, MAX_ANCESTORS, MAX_HOLDERS, Refusal};
use crate::sys::directory::{self, ENTRIES};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Processes looked at for one question.
const MAX_PIDS: usize = 4096;
/// How long a look is repeated for sockets whose holders change during it: programs start and end in less.
/// Here and in the next, time that init waits for a processor doesn't count.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a look at what one process has mapped may take; checked between two questions to the kernel.
const MAPPINGS_PATIENCE: Duration = Duration::from_millis(50);

/// How a look for holders is made.
#[derive(Clone, Copy)]
pub(crate) struct Lens<'a> {
    /// Whether to look through the holders' memory maps too.
    pub(crate) mappings: bool,
    /// Where the agent can write: an executable mapping from there is foreign code.
    pub(crate) writable: &'a [PathBuf],
    /// Every thread may have a descriptor table of its own.
    pub(crate) threads: bool,
    /// Processes that have yet to execute their program: our own code, which holds nobody's sockets.
    pub(crate) starting: &'a [i32],
    /// Tells how much of a look's time init waited for a processor.
    pub(crate) waits: &'a Waits,
    /// Tells which agent a process belongs to.
    pub(crate) birthmarks: &'a Birthmarks,
}

/// A socket whose holders are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) inode: u64,
    /// A process and a descriptor of it where the socket may be. It is looked at first, since a process with
    /// thousands of descriptors takes milliseconds to look through.
    pub(crate) likely: Option<(i32, i32)>,
    /// The number of the agent that connected it ([`Birthmarks`]), if that is known.
    pub(crate) agent: Option<u32>,
}

/// The result of a look for one socket.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) result: Result<Found, Refusal>,
    /// How long looking through the memory maps of its holders took.
    pub(crate) took: Duration,
}

/// What a look for all sockets cost.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    /// What the look went through; of a repeated look, the last time.
    pub(crate) tally: Tally,
    /// How long it took.
    pub(crate) took: Duration,
}

/// An answer: every holder of one socket, and the opened executables that they refer to.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) holders: Vec<Holder>,
    pub(crate) executables: Vec<OwnedFd>,
}

/// One attempt at a look, for some sockets.
struct Search<'a> {
    lens: Lens<'a>,
    wanted: &'a [Wanted],
    identified: Identified,
    /// For each of `wanted`, how long looking through memory maps took.
    took: Vec<Duration>,
}

/// Returns every holder of each socket, and what the look cost. One walk answers all questions, since it
/// begins after all were asked.
pub(crate) fn holders(wanted: &[Wanted], lens: Lens<'_>, asleep: &mut Asleep) -> (Vec<Looked>, Cost) {
    let mut tally = Tally::default();
    let started = lens.waits.stopwatch();
    let mut open: Vec<Open> =
        wanted.iter().map(|wanted| Open { wanted: *wanted, answer: None, took: Duration::ZERO }).collect();
    while open.iter().any(|one| one.answer.is_none()) && !started.is_past(PATIENCE) {
        // Sockets that have an answer keep it: processes that never keep still must not undo the answers
        // about others.
        let mut unsettled: Vec<&mut Open> = open.iter_mut().filter(|one| one.answer.is_none()).collect();
        let wanted: Vec<Wanted> = unsettled.iter().map(|one| one.wanted).collect();
        let took = vec![Duration::ZERO; wanted.len()];
        let mut search = Search { lens, wanted: &wanted, identified: Identified::default(), took };
        let found = search.run(asleep, &mut tally);
        for (one, spent) in unsettled.iter_mut().zip(&search.took) {
            one.took += *spent;
            one.answer = search.answer(one.wanted.inode, &found);
        }
        if unsettled.iter().any(|one| one.answer.is_none()) {
            std::thread::yield_now();
        }
    }
    let cost = Cost { tally, took: started.elapsed() };
    (open.into_iter().map(Open::close).collect(), cost)
}

/// A question that is being answered.
struct Open {
    wanted: Wanted,
    answer: Option<Result<Found, Refusal>>,
    took: Duration,
}

impl Open {
    fn close(self) -> Looked {
        let why = "processes change faster than they can be identified".to_owned();
        let result = self.answer.unwrap_or(Err(Refusal::Unreadable { pid: 0, why }));
        Looked { result, took: self.took }
    }
}

/// For each socket its holders, whose executables are numbered by [`Identified`], or why it has no answer; or
/// why none has.
type Holders = Result<Vec<Result<Vec<Holder>, Fault>>, Fault>;

/// What a walk has found so far.
struct Walked {
    /// For each of the sockets.
    found: Vec<Result<Vec<Holder>, Fault>>,
    /// For each holder the processes identified for it, as numbered by [`Identified`], and its places.
    holders: Vec<(Range<usize>, Vec<Place>)>,
}

impl Walked {
    fn of(sockets: usize) -> Self {
        Self { found: (0..sockets).map(|_| Ok(Vec::new())).collect(), holders: Vec::new() }
    }
}

impl Search<'_> {
    /// Returns what was found for one socket; `None` if that changed meanwhile.
    fn answer(&self, inode: u64, found: &Holders) -> Option<Result<Found, Refusal>> {
        // A socket that is asked about twice was found once.
        let first = self.wanted.iter().position(|wanted| wanted.inode == inode);
        let one = match found {
            Ok(found) => first.and_then(|at| found.get(at))?.as_ref(),
            Err(fault) => Err(fault),
        };
        match one {
            Ok(holders) => Some(self.identified.answer(holders.clone())),
            Err(Fault::Refused(refusal)) => Some(Err(refusal.clone())),
            Err(Fault::Changed) => None,
        }
    }

    /// Looks once, and notes what was gone through.
    fn run(&mut self, asleep: &mut Asleep, tally: &mut Tally) -> Holders {
        let proc = File::open("/proc").map_err(|error| unreadable(0, &error))?;
        let births = Births::told_in(&proc);
        let last = births.last();
        let mut all = self.processes(&proc)?;
        let mut tables = Tables::new(&proc, self.wanted, self.lens, asleep);
        let found = self.walk_all((&proc, &births), last, &mut all, &mut tables);
        if matches!(found, Err(Fault::Refused(Refusal::Flooded { .. }))) {
            tables.weigh(&all);
        }
        *tally = tables.end();
        found
    }

    /// Looks at these processes, then at those born since their list began, and so on until none was: a
    /// holder may have a child and be gone before its turn.
    fn walk_all(
        &mut self,
        (proc, births): (&File, &Births),
        mut last: Option<u64>,
        all: &mut Vec<i32>,
        tables: &mut Tables<'_>,
    ) -> Holders {
        let mut walked = Walked::of(self.wanted.len());
        self.walk(proc, all, tables, &mut walked)?;
        let begun = self.lens.waits.stopwatch();
        loop {
            all.sort_unstable();
            let now = births.last();
            if now.is_some_and(|now| Some(now) == last && !came_late(now, all)) {
                break;
            }
            last = now;
            let mut new = self.processes(proc)?;
            new.retain(|pid| all.binary_search(pid).is_err());
            if new.is_empty() {
                break;
            }
            if begun.is_past(PATIENCE) {
                tables.restless.extend(new);
                break;
            }
            self.walk(proc, &new, tables, &mut walked)?;
            all.extend(new);
        }
        for (of, doubt) in walked.found.iter_mut().zip(tables.doubts()?) {
            if let Some(doubt) = doubt {
                *of = Err(doubt);
            }
        }
        Ok(self.still(walked))
    }

    /// Returns all processes that may hold a socket, without init, which holds one only to give it away.
    fn processes(&self, proc: &File) -> Result<Vec<i32>, Fault> {
        // Opened anew: reading a directory goes on where it stopped before.
        let mut all = directory::open(proc.as_fd(), ".", libc::O_DIRECTORY)
            .and_then(|list| pids(list.as_fd(), &mut vec![0; ENTRIES], MAX_PIDS))
            .map_err(|error| unreadable(0, &error))?
            .ok_or_else(|| Refusal::TooMany("processes to look through".into()))?;
        all.retain(|pid| *pid != 1 && !self.lens.starting.contains(pid));
        Ok(all)
    }

    fn walk(
        &mut self,
        proc: &File,
        pids: &[i32],
        tables: &mut Tables<'_>,
        walked: &mut Walked,
    ) -> Result<(), Fault> {
        for pid in pids.iter().copied() {
            let places = tables.places(pid)?;
            if places.is_empty() {
                continue;
            }
            let before = self.identified.count();
            let holder = self.holder(proc, pid, tables, &places);
            for place in &places {
                walked.found.get_mut(place.socket).into_iter().for_each(|of| add(of, &holder));
            }
            walked.holders.push((before..self.identified.count(), places));
        }
        Ok(())
    }

    /// Returns what was found, and [`Fault::Changed`] for the sockets of holders for which not all identified
    /// processes are still the same.
    fn still(&self, Walked { mut found, holders }: Walked) -> Vec<Result<Vec<Holder>, Fault>> {
        for (who, places) in holders {
            if !self.identified.are_still(who) {
                for place in places {
                    found.get_mut(place.socket).into_iter().for_each(|of| *of = Err(Fault::Changed));
                }
            }
        }
        found
    }

    fn holder(
        &mut self,
        proc: &File,
        pid: i32,
        tables: &Tables<'_>,
        places: &[Place],
    ) -> Result<Holder, Fault> {
        let (process, mut parent) = self.identified.identity(proc, pid)?;
        let begun = self.lens.waits.stopwatch();
        let foreign_code =
            if self.lens.mappings { self.has_foreign_code(&process, &begun) } else { Ok(false) };
        let spent = begun.elapsed();
        for place in places {
            self.took.get_mut(place.socket).into_iter().for_each(|took| *took += spent);
        }
        let foreign_code = foreign_code?;
        // Check that the process still holds the sockets: an exec since then may have closed one, and then
        // another program held it.
        if !places.iter().all(|place| tables.is_at(*place)) {
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

    fn has_foreign_code(&self, process: &Identity, begun: &Stopwatch<'_>) -> Result<bool, Fault> {
        let Some(opened) = self.identified.latest() else { return Err(Fault::Changed) };
        let unreadable = |why: &str| Refusal::Unreadable { pid: process.pid, why: why.into() }.into();
        let is_over = || begun.is_past(MAPPINGS_PATIENCE);
        let program = process.exe_path.as_bytes();
        foreign_code::is_in(opened, program, self.lens.writable, &is_over).map_err(|fault| match fault {
            foreign_code::Fault::TooMany => unreadable("it has too many executable mappings"),
            foreign_code::Fault::TooLong => unreadable("what it has mapped takes too long to look through"),
            foreign_code::Fault::Io(error) => gone_or_unreadable(process.pid, &error),
        })
    }
}

/// Adds a holder to those of one socket, or records why that socket has no answer: a fault of its own holders
/// must not affect the other sockets that are asked about.
fn add(of: &mut Result<Vec<Holder>, Fault>, holder: &Result<Holder, Fault>) {
    match (&mut *of, holder) {
        (Ok(holders), Ok(holder)) if holders.len() < MAX_HOLDERS => holders.push(holder.clone()),
        (Ok(_), Ok(_)) => *of = Err(Refusal::TooMany("processes that hold one socket".into()).into()),
        (Ok(_), Err(fault)) => *of = Err(fault.clone()),
        (Err(_), _) => {}
    }
}
