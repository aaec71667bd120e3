//! Handles descriptor tables that nobody may list, and says which answers are in doubt, because of them or
//! otherwise, once all other tables were looked through.
//!
//! Their descriptor numbers are compared, one by one, with the places where other processes have the sockets.
//! A socket that only such a table holds can't be found, which is its own agent's loss: another agent's
//! socket gets there only if that agent's own program sends it. Must never pass over a table; must never
//! doubt a socket for what another socket's holders do.

use super::identified::{Fault, unreadable};
use super::process::{Opened, table_size};
use super::tables::{MAX_DESCRIPTORS, Tables, is_ending, too_many};
use crate::protocol::Refusal;
use crate::sys;
use crate::sys::process::Descriptor;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

/// A thread whose table nobody may list, and its process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unlisted {
    pub(super) pid: i32,
    pub(super) thread: i32,
}

impl Tables<'_> {
    /// Returns, once every process was looked through, for each of `wanted` why the places found may not be
    /// all, if so. Never doubts a socket for what another socket's holders do.
    pub(super) fn doubts(&mut self) -> Result<Vec<Option<Fault>>, Fault> {
        let mut doubts: Vec<Option<Fault>> = self.wanted.iter().map(|_| None).collect();
        let compared = self.compared || !self.unlisted.is_empty();
        while let Some(table) = self.unlisted.pop() {
            self.compare(table, &mut doubts)?;
        }
        for pid in std::mem::take(&mut self.restless) {
            self.doubt(pid, &Fault::Changed, true, &mut doubts);
        }
        // Check that what was compared with is the socket now, as it was at the beginning. In between, the
        // maker of the connection could put another there, to hide who else holds it; but a process that may
        // speak itself gains nothing by a hidden one that speaks for it.
        for (doubt, anchor) in doubts.iter_mut().zip(&self.anchors).filter(|_| compared) {
            if anchor.is_some_and(|anchor| !self.is_at(anchor)) {
                *doubt = Some(Fault::Changed);
            }
        }
        Ok(doubts)
    }

    /// Doubts the sockets that may have come to this process without another agent's sending them: those
    /// without a place, and with `and_placed` the others too.
    fn doubt(&self, pid: i32, why: &Fault, and_placed: bool, doubts: &mut [Option<Fault>]) {
        let process = Opened::open(self.proc.as_fd(), pid);
        let whose = process.ok().and_then(|process| self.lens.birthmarks.of_process(&process));
        for ((doubt, anchor), wanted) in doubts.iter_mut().zip(&self.anchors).zip(self.wanted) {
            if (and_placed || anchor.is_none()) && may_be_of(whose.as_ref(), wanted.agent) {
                *doubt = Some(why.clone());
            }
        }
    }

    fn hide(&self, pid: i32, why: &str, and_placed: bool, doubts: &mut [Option<Fault>]) {
        let why = Refusal::Unreadable { pid, why: why.into() }.into();
        self.doubt(pid, &why, and_placed, doubts);
    }

    /// Compares a table that can't be listed. Twice: while another thread executes a program and takes over
    /// this one's id, there is no table for a moment, and what is compared in that moment reads as closed.
    fn compare(&mut self, table: Unlisted, doubts: &mut [Option<Fault>]) -> Result<(), Fault> {
        let Unlisted { pid, thread } = table;
        if self.anchors.iter().any(Option::is_none) {
            self.hide(pid, "it hides what it holds, and nobody else holds the socket", false, doubts);
        }
        if self.compare_once(table, doubts)? && self.compare_once(table, doubts)? {
            return Ok(());
        }
        // Its table may live on in its other threads.
        if thread != pid {
            self.restless.push(pid);
            return Ok(());
        }
        let mut listed = Vec::new();
        self.look_through_threads(pid, &mut listed)?;
        for place in listed {
            doubts.get_mut(place.socket).into_iter().for_each(|doubt| *doubt = Some(Fault::Changed));
        }
        Ok(())
    }

    /// Compares each descriptor of such a table with each socket, at the places where others have them.
    /// Returns whether its thread still has the table.
    fn compare_once(&mut self, table: Unlisted, doubts: &mut [Option<Fault>]) -> Result<bool, Fault> {
        let Unlisted { pid, thread } = table;
        let mut from = 0;
        loop {
            let size = match table_size(thread) {
                Ok(size) => size,
                Err(_) if is_ending(thread) => break,
                Err(error) => return Err(unreadable(pid, &error).into()),
            };
            // It may have grown meanwhile.
            if size <= from {
                break;
            }
            if self.anchors.iter().any(Option::is_some) {
                self.count(pid, usize::try_from(size - from).unwrap_or_default());
            }
            for number in from..size {
                for anchor in self.anchors.iter().flatten() {
                    self.looked_at += 1;
                    if self.looked_at > MAX_DESCRIPTORS {
                        return Err(too_many().into());
                    }
                    match sys::process::same_file(anchor.descriptor(), Descriptor { task: thread, number }) {
                        Ok(true) => {
                            doubts.get_mut(anchor.socket).into_iter().for_each(|doubt| {
                                let why = "it holds the socket and hides what it holds".into();
                                *doubt = Some(Refusal::Unreadable { pid, why }.into());
                            });
                        }
                        Ok(false) => {}
                        // The descriptor isn't open, or one of the two processes is gone: the anchors are
                        // looked at again later, and this process below.
                        Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => {}
                        // It is the anchor's process that nobody may look into any more: it counts as gone.
                        Err(error) if error.raw_os_error() == Some(libc::EPERM) && !self.is_at(*anchor) => {}
                        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                            self.hide(pid, "nobody in the sandbox may look into it", true, doubts);
                            return Ok(true);
                        }
                        Err(error) => return Err(unreadable(pid, &error).into()),
                    }
                }
            }
            from = size;
        }
        Ok(!is_ending(thread))
    }
}

/// Whether a process may be this agent's. One that is unknown may be anybody's.
fn may_be_of(whose: Option<&RangeInclusive<u32>>, agent: Option<u32>) -> bool {
    whose.zip(agent).is_none_or(|(whose, agent)| whose.contains(&agent))
}
