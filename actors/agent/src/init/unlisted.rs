//! Descriptor tables that nobody may list, and what is doubtful for them or otherwise, once all others were
//! looked through.
//!
//! Their numbers are compared, one by one, with the places where others have the sockets. What such a table
//! holds that nobody else has can't be told, and is its own agent's loss: another's socket gets to it only if
//! that one's own program sends it. Must never pass over a table; must never doubt a socket for what another
//! one's holders do.

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
    /// Once every process was looked through: for each of `wanted` why its places are not all of them, if
    /// that is so. Says it of no socket for what another one's holders do.
    pub(super) fn doubts(&mut self) -> Result<Vec<Option<Fault>>, Fault> {
        let mut doubts: Vec<Option<Fault>> = self.wanted.iter().map(|_| None).collect();
        let compared = self.compared || !self.unlisted.is_empty();
        while let Some(table) = self.unlisted.pop() {
            self.compare(table, &mut doubts)?;
        }
        for pid in std::mem::take(&mut self.restless) {
            self.doubt(pid, &Fault::Changed, true, &mut doubts);
        }
        // What was compared with was the socket: as it began and now. Whoever made the connection could put
        // another there meanwhile, so as to hide who else holds it; but whoever may speak needs nobody hidden
        // to speak for him.
        for (doubt, anchor) in doubts.iter_mut().zip(&self.anchors).filter(|_| compared) {
            if anchor.is_some_and(|anchor| !self.is_at(anchor)) {
                *doubt = Some(Fault::Changed);
            }
        }
        Ok(doubts)
    }

    /// Doubts those sockets that may have come to this process without another agent's sending them; where
    /// they have a place, if that is asked.
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

    /// Compares a table that can't be listed. Twice: there is none for a moment where another thread executes
    /// a program and takes over the number of this one, and what is compared in that moment reads as closed.
    fn compare(&mut self, table: Unlisted, doubts: &mut [Option<Fault>]) -> Result<(), Fault> {
        let Unlisted { pid, thread } = table;
        if self.anchors.iter().any(Option::is_none) {
            self.hide(pid, "it hides what it holds, and nobody else holds the socket", false, doubts);
        }
        if self.compare_once(table, doubts)? && self.compare_once(table, doubts)? {
            return Ok(());
        }
        // Its table may go on under its other threads.
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
    /// Whether its thread has it still.
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
                        // It isn't open, or one of the two is gone: the anchors are looked at again, and this
                        // one is below.
                        Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => {}
                        // Of the two it is the other that nobody may look into any more: it is as one that is
                        // gone.
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

/// Whether a process may be of this agent's. Who can't be told may be anybody.
fn may_be_of(whose: Option<&RangeInclusive<u32>>, agent: Option<u32>) -> bool {
    whose.zip(agent).is_none_or(|(whose, agent)| whose.contains(&agent))
}
