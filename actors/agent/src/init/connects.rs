//! Notes who connects: at every connect(2) inside, the caller waits while init notes its socket and its
//! program.
//!
//! ```text
//! connect ─▶ seccomp asks ─▶ RECV ─▶ /proc/TID/fd/N → inode; process, image ─▶ CONTINUE: waited until now? ─▶ noted
//! ```
//! A look at who *holds* a connection comes after it was made, when it may have changed hands: its maker may
//! have executed another program, or a child may hold it while the maker's own copy is in flight. So the
//! holder that is found must also be the process that was noted here, in the same execution of its program.
//!
//! This module notes and never decides, so a race between our look and the kernel's connect can only lose a
//! note, not forge one. Another thread may put another socket at the descriptor's number meanwhile (dup2):
//! the socket that is then connected has no note, or an older one of another process, and is refused. The
//! noted thread itself waits, so its program is the one that connects. A note is valid for [`FRESH`]: no
//! inode number is reused within that time.

use super::image::{Image, Images};
use crate::protocol::{Connector, Holder};
use crate::sys;
use crate::sys::notify::Notification;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long after its connect(2) a connection may be asked about: the proxy accepts within milliseconds, and
/// a supervisor that died is back within a second. Inode numbers wrap around after four thousand million
/// sockets and pipes, which takes many times as long.
const FRESH: Duration = Duration::from_secs(60);
/// Notes kept; beyond it the oldest is dropped, and its connection is refused if it was not asked about yet.
/// To push a note out takes this many calls while its connection is accepted, each with a wait for init.
const MAX_NOTES: usize = 16_384;
/// Listeners at once: one for each process that init started, for as long as anything below it lives.
const MAX_LISTENERS: usize = 512;

/// An agent, or another process that init started: it stands for all processes under its listeners, which
/// none of them can escape. A restarted agent keeps its origin as long as any process from an earlier start
/// lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(u64);

impl Origin {
    /// Unknown: the connect(2) was not seen, or its note was dropped for want of room.
    pub(super) const UNKNOWN: Self = Self(0);

    #[cfg(test)]
    pub(super) const fn of(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number that is reported outside: never used twice by one init; 0: unknown.
    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

struct Listener {
    fd: OwnedFd,
    origin: Origin,
    /// The agent that it belongs to; `None` for the process that proves the cage, until that becomes an
    /// agent.
    agent: Option<String>,
    /// The process that called last: most likely the one that calls next.
    last: Option<i32>,
}

/// Notes, and the listeners that they come from.
#[derive(Default)]
pub(crate) struct Connects {
    listeners: Vec<Listener>,
    origins: u64,
    notes: HashMap<u64, Note>,
    /// Inode and serial number of each note, oldest first; an entry whose serial number isn't its note's any
    /// more is void.
    order: VecDeque<(u64, u64)>,
    serial: u64,
}

/// Who connected a socket last.
#[derive(Debug, Clone, Copy)]
struct Note {
    by: Option<Maker>,
    /// The agent that the connecting process descends from.
    origin: Origin,
    /// The descriptor's number in the connecting process.
    number: Option<i32>,
    at: Instant,
    serial: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Maker {
    pid: i32,
    image: Image,
}

impl Connects {
    /// Whether there is no room for another listener.
    pub(crate) fn is_full(&self) -> bool {
        self.listeners.len() >= MAX_LISTENERS
    }

    /// Serves one more listener from now on: an agent's, or that of the process that proves the cage.
    pub(crate) fn listen(&mut self, listener: OwnedFd, agent: Option<&str>) {
        sys::notify::prefer_quick_answers(listener.as_fd());
        let origin = self.origin_of(agent);
        self.listeners.push(Listener { fd: listener, origin, agent: agent.map(str::to_owned), last: None });
    }

    /// Makes the process that proved the cage this agent's.
    pub(super) fn prover_becomes(&mut self, agent: &str) {
        if let Some(prover) = self.listeners.iter_mut().find(|listener| listener.agent.is_none()) {
            prover.agent = Some(agent.to_owned());
        }
    }

    fn origin_of(&mut self, agent: Option<&str>) -> Origin {
        let same = |listener: &&Listener| agent.is_some() && listener.agent.as_deref() == agent;
        if let Some(same) = self.listeners.iter().find(same) {
            return same.origin;
        }
        self.origins += 1;
        Origin(self.origins)
    }

    /// Returns what to poll for: each listener.
    pub(crate) fn polls(&self) -> impl Iterator<Item = libc::pollfd> + '_ {
        self.listeners.iter().map(|listener| libc::pollfd {
            fd: listener.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
    }

    /// Serves what poll(2) found at [`Connects::polls`]: one call of each listener, since the kernel promises
    /// no more.
    pub(crate) fn serve(&mut self, polled: &[libc::pollfd]) {
        for found in polled.iter().filter(|found| found.revents & libc::POLLIN != 0) {
            let Some(at) = self.listeners.iter().position(|l| l.fd.as_raw_fd() == found.fd) else { continue };
            self.serve_one(at);
        }
        // No process is left under that filter.
        let over = |found: &&libc::pollfd| {
            found.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
                && found.revents & libc::POLLIN == 0
        };
        for found in polled.iter().filter(over) {
            self.listeners.retain(|listener| listener.fd.as_raw_fd() != found.fd);
        }
    }

    fn serve_one(&mut self, at: usize) {
        let Some(Listener { fd, origin, last, .. }) = self.listeners.get_mut(at) else { return };
        let (listener, origin) = (fd.as_fd(), *origin);
        // Fails mostly because the caller was killed since poll(2).
        let Ok(call) = sys::notify::receive(listener) else { return };
        let seen = look(call, *last);
        if let Some((_, Some(maker))) = seen {
            *last = Some(maker.pid);
        }
        // A caller that could not be noted goes on too: its connection is nobody's, and it is up to the proxy
        // to refuse that. If the caller could be let go, it has waited all the while, and its thread id was
        // given to nobody else. The note is there before anybody asks for it: questions are taken when all
        // calls are served.
        let waited = sys::notify::let_go_on(listener, call.id).is_ok();
        if let (Some((inode, by)), true) = (seen, waited) {
            self.note(inode, by, Instant::now());
            if let Some(note) = self.notes.get_mut(&inode) {
                (note.number, note.origin) = (Some(call.first_argument), origin);
            }
        }
    }

    fn note(&mut self, inode: u64, by: Option<Maker>, at: Instant) {
        self.make_room();
        // Two processes have connected one socket while its note was fresh: neither made the connection
        // alone.
        let is_fresh = |old: &&Note| at.saturating_duration_since(old.at) <= FRESH;
        let disputed = self.notes.get(&inode).filter(is_fresh).is_some_and(|old| old.by != by);
        self.serial += 1;
        let by = by.filter(|_| !disputed);
        self.notes.insert(inode, Note { by, origin: Origin::UNKNOWN, number: None, at, serial: self.serial });
        self.order.push_back((inode, self.serial));
    }

    fn make_room(&mut self) {
        while self.order.len() >= MAX_NOTES {
            let Some((inode, serial)) = self.order.pop_front() else { return };
            if self.notes.get(&inode).is_some_and(|note| note.serial == serial) {
                self.notes.remove(&inode);
            }
        }
    }

    /// Returns the process that connected the socket.
    pub(crate) fn process(&self, inode: u64) -> Option<i32> {
        self.maker(inode).map(|maker| maker.pid)
    }

    /// Returns the process and descriptor at which the socket was connected. It is mostly still there; the
    /// caller must check.
    pub(crate) fn place(&self, inode: u64) -> Option<(i32, i32)> {
        let note = self.notes.get(&inode)?;
        Some((note.by?.pid, note.number?))
    }

    /// Returns who connected the socket last. It is known for as long as there is room for the note, not only
    /// while that is fresh.
    pub(super) fn origin(&self, inode: u64) -> Origin {
        self.notes.get(&inode).map_or(Origin::UNKNOWN, |note| note.origin)
    }

    /// The agent that connected the socket last, while anything of it lives.
    pub(super) fn agent(&self, inode: u64) -> Option<&str> {
        let origin = self.notes.get(&inode)?.origin;
        self.listeners.iter().find(|listener| listener.origin == origin)?.agent.as_deref()
    }

    /// Whether processes of several agents live, counting what ended agents have left behind.
    pub(super) fn are_several(&self) -> bool {
        let first = self.listeners.first().map(|listener| listener.origin);
        self.listeners.iter().any(|listener| Some(listener.origin) != first)
    }

    /// Returns which of these holders made the connection. Must be called *after* they were looked at, so
    /// that an exec before or during the look shows.
    pub(crate) fn connector(&self, inode: u64, holders: &[Holder], now: &mut Images) -> Connector {
        let Some(maker) = self.maker(inode) else { return Connector::Unknown };
        let holds = holders.iter().any(|holder| holder.process.pid == maker.pid);
        if holds && now.of(maker.pid) == Some(maker.image) {
            Connector::Holds { pid: maker.pid, origin: self.origin(inode).number() }
        } else {
            Connector::Another { pid: maker.pid }
        }
    }

    fn maker(&self, inode: u64) -> Option<Maker> {
        let note = self.notes.get(&inode).filter(|note| note.at.elapsed() <= FRESH)?;
        note.by
    }
}

/// Returns the inode that the caller is about to connect, and the caller's identity; `None` when it is no
/// socket. A caller that can't be read is noted as nobody, so that no older note of the socket stays.
/// `likely` is the process that the calling thread may belong to.
fn look(call: Notification, likely: Option<i32>) -> Option<(u64, Option<Maker>)> {
    let link = std::fs::read_link(format!("/proc/{}/fd/{}", call.thread, call.first_argument)).ok()?;
    let inode = socket_inode(link.as_os_str().as_encoded_bytes())?;
    Some((inode, maker(call.thread, likely).ok()))
}

/// The inode that a descriptor's link names, if it is a socket's (proc_pid_fd(5)).
pub(crate) fn socket_inode(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

fn maker(thread: i32, likely: Option<i32>) -> io::Result<Maker> {
    Ok(Maker { pid: super::process::process_of(thread, likely)?, image: Image::read(thread)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(pid: i32) -> Option<Maker> {
        Some(Maker { pid, image: Image::read(std::process::id() as i32).unwrap() })
    }

    #[test]
    fn the_last_connect_counts_unless_another_made_one_too() {
        let (mut all, now) = (Connects::default(), Instant::now());
        all.note(7, maker(10), now);
        all.note(7, maker(10), now);
        assert_eq!(all.maker(7), maker(10));
        all.note(7, maker(11), now);
        assert_eq!(all.maker(7), None);
        all.note(7, maker(11), now);
        assert_eq!(all.maker(7), None, "not by asking twice either");
        all.note(8, maker(10), now);
        all.note(8, None, now);
        assert_eq!(all.maker(8), None, "who can't be read is nobody");
    }

    #[test]
    fn notes_grow_old() {
        let mut all = Connects::default();
        let Some(long_ago) = Instant::now().checked_sub(2 * FRESH) else { return };
        all.note(7, maker(10), long_ago);
        assert_eq!(all.maker(7), None);
        all.note(7, maker(11), Instant::now());
        assert_eq!(all.maker(7), maker(11), "an inode that came round is another's");
        assert_eq!(all.notes.len(), 1);
    }

    #[test]
    fn notes_are_bounded_and_the_oldest_goes() {
        let (mut all, now) = (Connects::default(), Instant::now());
        let count = MAX_NOTES as u64 + 10;
        for inode in 0..count {
            all.note(inode, maker(10), now);
        }
        assert_eq!((all.maker(0), all.maker(count - 1)), (None, maker(10)));
        assert!(all.notes.len() <= MAX_NOTES && all.order.len() <= MAX_NOTES);
        for _ in 0..count {
            all.note(1, maker(10), now);
        }
        assert!(all.order.len() <= MAX_NOTES, "one socket connected again and again");
    }

    #[test]
    fn an_agent_is_the_same_one_however_often_it_is_started() {
        let mut all = Connects::default();
        let listener = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        all.listen(listener(), None);
        all.prover_becomes("first");
        for agent in ["other", "first", "other"] {
            all.listen(listener(), Some(agent));
        }
        let origins: Vec<u64> = all.listeners.iter().map(|listener| listener.origin.number()).collect();
        assert_eq!(origins, [1, 2, 1, 2]);
        assert!(all.are_several());
        // Nothing of its first start lives any more, but something of a later one does.
        all.listeners.remove(0);
        all.listen(listener(), Some("first"));
        assert_eq!(all.listeners.last().unwrap().origin, Origin::of(1));
        all.listeners.clear();
        all.listen(listener(), Some("first"));
        assert_eq!(all.listeners[0].origin, Origin::of(3), "no number is used twice");
    }

    #[test]
    fn only_sockets_have_an_inode_here() {
        assert_eq!(socket_inode(b"socket:[12]"), Some(12));
        for other in ["pipe:[12]", "socket:[]", "socket:[-1]", "/tmp/socket:[1]", "socket:[1] "] {
            assert_eq!(socket_inode(other.as_bytes()), None, "{other}");
        }
    }
}
