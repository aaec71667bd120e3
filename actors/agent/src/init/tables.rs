//! Looks through the descriptor tables of processes for some sockets.
//!
//! A table is listed in `/proc` and each descriptor read there, or compared (kcmp(2)) with a place where the
//! socket is known to be. A table that the kernel lets nobody of this user list (proc_pid(5): its process
//! isn't dumpable, and root doesn't exist here) is compared number by number, for which init's rights in the
//! sandbox's namespace suffice ([`super::unlisted`]). Where they don't (the process's program is unreadable,
//! and owned by a user who has no id here), what the table holds is unknown, and sockets of its own agent are
//! refused. Another agent's socket gets there only if that agent sends it, and it could as well send on what
//! comes in by the socket. A table that can't have changed since it was read isn't looked through again
//! ([`super::asleep`]).
//!
//! A process keeps its table as long as any of its threads does: one that was gone at the end of its list is
//! looked for at the other threads ([`super::threads`]). [`super::holders`](mod@super::holders) says who
//! holds what is found here. Must never pass over a table: if one can't be looked through, the sockets that
//! may be in it are refused.

use super::asleep::{Asleep, Table};
use super::connects::socket_inode;
use super::holders::{Lens, Wanted};
use super::identified::{Fault, unreadable};
use super::process::{Stat, is_gone};
use super::tally::{self, Tally};
use super::unlisted::Unlisted;
use crate::protocol::Refusal;
use crate::sys;
use crate::sys::directory::{self, ENTRIES};
use crate::sys::process::Descriptor;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

/// Descriptors looked at in one look. A hostile flood of them costs init a tenth of a second, and
/// [`super::flood`] ends it.
pub(super) const MAX_DESCRIPTORS: usize = 65_536;
/// Sockets that descriptors are compared with; for more at once it is cheaper to read what each descriptor
/// is.
const MAX_ANCHORS: usize = 3;
/// Bytes of a link that are looked at where only `socket:[INODE]` is of interest.
const LINK: usize = 64;

/// What reading a descriptor again costs, in descriptors.
const AGAIN: usize = 8;

/// How the listing of a table ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// Everything that was asked for was found; or the last descriptor was reached, and the table still
    /// existed then.
    Whole,
    /// The thread ended, and its descriptors read as closed from some point on. Another thread may have them.
    Ended,
}

/// A thread whose descriptor table is looked through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// Its process.
    pub(super) pid: i32,
    pub(super) thread: i32,
}

/// A table that is being listed.
struct Listing<'t> {
    of: Task,
    table: &'t OwnedFd,
    /// The first descriptor that was listed.
    first: Option<i32>,
}

/// A place in the descriptor tables of a process where a socket is. `socket` is the index of its inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) socket: usize,
    pid: i32,
    thread: i32,
    number: i32,
}

impl Place {
    pub(super) fn descriptor(self) -> Descriptor {
        Descriptor { task: self.thread, number: self.number }
    }
}

/// A look through the tables of all processes, for some sockets.
pub(super) struct Tables<'a> {
    pub(super) proc: &'a File,
    pub(super) wanted: &'a [Wanted],
    pub(super) lens: Lens<'a>,
    /// For each of `wanted` a place where it was as the look began, or where it was found first.
    pub(super) anchors: Vec<Option<Place>>,
    /// Whether descriptors are compared with the anchors from the beginning: each socket has one, and they
    /// are few.
    pub(super) compared: bool,
    asleep: &'a mut Asleep,
    pub(super) unlisted: Vec<Unlisted>,
    /// Processes that never keep still, so that it can't be told what they hold.
    pub(super) restless: Vec<i32>,
    pub(super) looked_at: usize,
    tally: Tally,
    pub(super) entries: Vec<u8>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(proc: &'a File, wanted: &'a [Wanted], lens: Lens<'a>, asleep: &'a mut Asleep) -> Self {
        asleep.begin();
        let mut tables = Self {
            proc,
            wanted,
            lens,
            anchors: Vec::new(),
            compared: false,
            asleep,
            unlisted: Vec::new(),
            restless: Vec::new(),
            looked_at: 0,
            tally: Tally::default(),
            entries: vec![0; ENTRIES],
        };
        let at = |(socket, wanted): (usize, &Wanted)| {
            let (pid, number) = wanted.likely?;
            Some(Place { socket, pid, thread: pid, number }).filter(|place| tables.is_at(*place))
        };
        tables.anchors = wanted.iter().enumerate().map(at).collect();
        tables.compared = wanted.len() <= MAX_ANCHORS && tables.anchors.iter().all(Option::is_some);
        tables
    }

    /// Returns where a process has any of the sockets, at most one place each. [`Tables::doubts`] tells of
    /// tables that can't be listed.
    pub(super) fn places(&mut self, pid: i32) -> Result<Vec<Place>, Fault> {
        let mut found = self.where_connected(pid);
        if found.len() < self.wanted.len() {
            let sockets = match self.table_of(pid) {
                Table::HoldsNone => return Ok(found),
                Table::Readable => Some(Vec::new()),
                Table::Unknown => None,
            };
            let before = self.looked_at;
            let looked = self.look_through(pid, &mut found, sockets);
            self.count(pid, self.looked_at - before);
            looked?;
        }
        for place in &found {
            if let Some(anchor) = self.anchors.get_mut(place.socket) {
                *anchor = anchor.or(Some(*place));
            }
        }
        Ok(found)
    }

    fn table_of(&mut self, pid: i32) -> Table {
        let inodes = self.wanted.iter().map(|wanted| wanted.inode);
        self.asleep.table_of(self.proc.as_fd(), pid, inodes)
    }

    /// Looks through a process's table; all of it, where `sockets` is there to collect what is in it.
    fn look_through(
        &mut self,
        pid: i32,
        found: &mut Vec<Place>,
        mut sockets: Option<Vec<u64>>,
    ) -> Result<(), Fault> {
        match directory::open(self.proc.as_fd(), &format!("{pid}/fd"), libc::O_DIRECTORY) {
            Ok(table) => {
                let before = self.looked_at;
                let whole =
                    self.find(Task { pid, thread: pid }, &table, found, sockets.as_mut())? == Listed::Whole;
                // A table reads as empty where the first thread ended before the others.
                if whole && !self.lens.threads && self.looked_at > before {
                    sockets.into_iter().for_each(|sockets| self.asleep.remember(pid, sockets));
                    return Ok(());
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(_) if is_ending(pid) => {}
            Err(error) if is_forbidden(&error) => {
                self.unlisted.push(Unlisted { pid, thread: pid });
                if !self.lens.threads {
                    return Ok(());
                }
            }
            Err(error) => return Err(unreadable(pid, &error).into()),
        }
        self.look_through_threads(pid, found)
    }

    /// Looks through the descriptor table of a process's thread; to its end, where all `sockets` in it are
    /// asked for.
    pub(super) fn find(
        &mut self,
        of: Task,
        table: &OwnedFd,
        found: &mut Vec<Place>,
        mut sockets: Option<&mut Vec<u64>>,
    ) -> Result<Listed, Fault> {
        let mut listing = Listing { of, table, first: None };
        loop {
            let before = self.looked_at;
            match self.list(&mut listing, found, sockets.as_deref_mut())? {
                Some(listed) => return Ok(listed),
                None if !has_table(of.thread, listing.first) => return Ok(Listed::Ended),
                // The list is complete: the table was seen to exist still, and a further pass found nothing
                // new. One pass alone proves nothing: the table may have been absent for a moment, while
                // another thread executed a program and took over this thread's id and descriptors.
                None if self.looked_at == before => return Ok(Listed::Whole),
                None => {}
            }
        }
    }

    /// Goes on listing a table. Returns `None` where the list came to its end.
    fn list(
        &mut self,
        Listing { of: Task { pid, thread }, table, first }: &mut Listing<'_>,
        found: &mut Vec<Place>,
        mut sockets: Option<&mut Vec<u64>>,
    ) -> Result<Option<Listed>, Fault> {
        let (pid, thread) = (*pid, *thread);
        let Self { anchors, compared, wanted, looked_at, entries, .. } = self;
        let sought = Sought { wanted, anchors: if *compared { anchors } else { &[] } };
        let reads_all = sockets.is_some();
        let mut which = |number| match sockets.as_deref_mut() {
            None => sought.at(table, Descriptor { task: thread, number }),
            Some(all) => {
                let socket = socket_behind(table, number)?;
                all.extend(socket);
                Ok(socket.and_then(|inode| sought.index_of(inode)))
            }
        };
        let mut answer = Ok(None);
        let listed = directory::numbers(table.as_fd(), entries, |number| {
            first.get_or_insert(number);
            *looked_at += 1;
            if *looked_at > MAX_DESCRIPTORS {
                answer = Err(too_many().into());
                return ControlFlow::Break(());
            }
            let socket = which(number).or_else(|error| {
                if !is_gone(&error) || is_ending(thread) {
                    return Err(error);
                }
                // Closed between listing and reading: a process that closes a socket isn't its holder any
                // more. Or the table was absent for a moment, as above: then it is there again.
                *looked_at += AGAIN;
                which(number).or_else(|error| if is_gone(&error) { Ok(None) } else { Err(error) })
            });
            match socket {
                Ok(socket) => {
                    if let Some(socket) = socket.filter(|at| found.iter().all(|place| place.socket != *at)) {
                        found.push(Place { socket, pid, thread, number });
                    }
                    if found.len() < wanted.len() || reads_all {
                        return ControlFlow::Continue(());
                    }
                    answer = Ok(Some(Listed::Whole));
                }
                Err(error) if is_gone(&error) || is_ending(thread) => answer = Ok(Some(Listed::Ended)),
                Err(error) => answer = Err(unreadable(pid, &error).into()),
            }
            ControlFlow::Break(())
        });
        match listed {
            Ok(()) => answer,
            Err(error) if is_gone(&error) || is_ending(thread) => Ok(Some(Listed::Ended)),
            Err(error) => Err(unreadable(pid, &error).into()),
        }
    }

    /// Returns the places where the process connected the sockets, if they are still there.
    fn where_connected(&self, pid: i32) -> Vec<Place> {
        let mut found = Vec::new();
        for (socket, wanted) in self.wanted.iter().enumerate() {
            let Some((_, number)) = wanted.likely.filter(|(process, _)| *process == pid) else { continue };
            let place = Place { socket, pid, thread: pid, number };
            if self.is_at(place) {
                found.push(place);
            }
        }
        found
    }

    /// Notes what was looked at of a process.
    pub(super) fn count(&mut self, pid: i32, descriptors: usize) {
        self.tally.add(pid, descriptors, (self.proc, self.lens.birthmarks));
    }

    /// After a look that failed on too many descriptors, notes for these processes what it would have gone
    /// through.
    pub(super) fn weigh(&mut self, pids: &[i32]) {
        for pid in pids {
            let needs_none = self.where_connected(*pid).len() == self.wanted.len();
            if needs_none || self.table_of(*pid) == Table::HoldsNone {
                continue;
            }
            let weight = tally::weight(self.proc, *pid).unwrap_or_default();
            self.tally.raise(*pid, weight, (self.proc, self.lens.birthmarks));
        }
    }

    /// Ends the look, and returns what it went through.
    pub(super) fn end(self) -> Tally {
        self.asleep.end();
        self.tally
    }

    /// Whether the socket is at this place, now.
    pub(super) fn is_at(&self, place: Place) -> bool {
        let mut text = [0; LINK];
        let path = format!("{}/task/{}/fd/{}", place.pid, place.thread, place.number);
        let target = directory::read_link(self.proc.as_fd(), &path, &mut text).ok().and_then(socket_inode);
        target.is_some() && target == self.wanted.get(place.socket).map(|wanted| wanted.inode)
    }
}

pub(super) fn too_many() -> Refusal {
    Refusal::Flooded { descriptors: MAX_DESCRIPTORS }
}

/// The sockets that a table is looked through for.
struct Sought<'a> {
    wanted: &'a [Wanted],
    /// Where each is, if descriptors are compared with those.
    anchors: &'a [Option<Place>],
}

impl Sought<'_> {
    /// Returns which of the sockets a descriptor is: by comparing it where there are anchors, else by its
    /// link.
    fn at(&self, table: &OwnedFd, descriptor: Descriptor) -> io::Result<Option<usize>> {
        for anchor in self.anchors.iter().flatten() {
            match sys::process::same_file(anchor.descriptor(), descriptor) {
                Ok(true) => return Ok(Some(anchor.socket)),
                Ok(false) => {}
                // If it is the anchor that isn't open any more, that is noticed at the end, when all anchors
                // are looked at again.
                Err(_) => return self.linked(table, descriptor.number),
            }
        }
        if self.anchors.is_empty() { self.linked(table, descriptor.number) } else { Ok(None) }
    }

    fn linked(&self, table: &OwnedFd, number: i32) -> io::Result<Option<usize>> {
        let socket = socket_behind(table, number)?;
        Ok(socket.and_then(|inode| self.index_of(inode)))
    }

    fn index_of(&self, inode: u64) -> Option<usize> {
        self.wanted.iter().position(|wanted| wanted.inode == inode)
    }
}

/// The inode of the socket that a descriptor is, if it is one.
fn socket_behind(table: &OwnedFd, number: i32) -> io::Result<Option<u64>> {
    let mut text = [0; LINK];
    directory::read_numbered_link(table.as_fd(), number, &mut text).map(socket_inode)
}

pub(super) fn is_forbidden(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EACCES)
}

/// Whether a thread still has its table: its first descriptor is still open, or the thread isn't ending.
fn has_table(thread: i32, first: Option<i32>) -> bool {
    let is_there = |number| {
        let descriptor = Descriptor { task: thread, number };
        sys::process::same_file(descriptor, descriptor).unwrap_or_default()
    };
    first.is_some_and(is_there) || !is_ending(thread)
}

/// Whether a thread is gone or exiting: nothing of its program runs any more.
pub(super) fn is_ending(thread: i32) -> bool {
    Stat::read(thread).map_or(true, |stat| stat.is_ending())
}
