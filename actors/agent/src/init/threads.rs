//! Looks through the descriptor tables of processes thread by thread: where the first thread has none, since
//! it is over and others are not, or where each thread may have its own.
//!
//! Threads may end while they are looked through, after starting others, or execute a program and be the
//! process's first from then on. So they are listed again until a table was looked through to its end, or all
//! in the list have ended. Must never take a process for ended because its threads are hard to catch: it is
//! restless, which only its own agent's sockets suffer for.

use super::identified::{Fault, unreadable};
use super::process::is_gone;
use super::tables::{Listed, Place, Tables, Task, is_ending, is_forbidden};
use super::unlisted::Unlisted;
use crate::sys;
use crate::sys::directory;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

/// How often one process's threads are listed in one look.
const LISTS: usize = 8;

/// What is known of a process's threads.
#[derive(Default)]
struct Seen {
    /// Threads whose table was looked through, or is to be compared.
    whole: Vec<i32>,
    ended: Vec<i32>,
}

impl Seen {
    /// Whether a thread has yet to be looked at: it is new, or another thread has its id now.
    fn lacks(&self, thread: i32) -> bool {
        !self.whole.contains(&thread) && (!self.ended.contains(&thread) || !is_ending(thread))
    }
}

impl Tables<'_> {
    /// Looks through the tables of a process's threads, each once.
    pub(super) fn look_through_threads(&mut self, pid: i32, found: &mut Vec<Place>) -> Result<(), Fault> {
        let mut seen = Seen::default();
        for _ in 0..LISTS {
            let Some((tasks, threads)) = self.threads(pid)? else { return Ok(()) };
            let new: Vec<i32> = threads.into_iter().filter(|thread| seen.lacks(*thread)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                self.look_through_thread(Task { pid, thread }, &tasks, found, &mut seen)?;
                // The other threads have the same table.
                if !self.lens.threads && !seen.whole.is_empty() {
                    return Ok(());
                }
            }
        }
        self.restless.push(pid);
        Ok(())
    }

    fn look_through_thread(
        &mut self,
        task: Task,
        tasks: &OwnedFd,
        found: &mut Vec<Place>,
        seen: &mut Seen,
    ) -> Result<(), Fault> {
        let Task { pid, thread } = task;
        let same = |first: &i32| sys::process::same_descriptors(*first, thread);
        // The same descriptor table needs no second look.
        let listed = if seen.whole.first().is_some_and(same) {
            Listed::Whole
        } else {
            match directory::open(tasks.as_fd(), &format!("{thread}/fd"), libc::O_DIRECTORY) {
                Ok(table) => self.find(task, &table, found, None)?,
                Err(error) if is_gone(&error) || is_ending(thread) => Listed::Ended,
                Err(error) if is_forbidden(&error) => {
                    self.unlisted.push(Unlisted { pid, thread });
                    Listed::Whole
                }
                Err(error) => return Err(unreadable(pid, &error).into()),
            }
        };
        match listed {
            Listed::Whole => seen.whole.push(thread),
            Listed::Ended => seen.ended.push(thread),
        }
        Ok(())
    }

    /// Returns the directory of a process's threads, and their ids; `None` if the process is gone.
    fn threads(&mut self, pid: i32) -> Result<Option<(OwnedFd, Vec<i32>)>, Fault> {
        let tasks = match directory::open(self.proc.as_fd(), &format!("{pid}/task"), libc::O_DIRECTORY) {
            Ok(tasks) => tasks,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(unreadable(pid, &error).into()),
        };
        let mut threads = Vec::new();
        let listed = directory::numbers(tasks.as_fd(), &mut self.entries, |thread| {
            threads.push(thread);
            ControlFlow::Continue(())
        });
        match listed {
            Ok(()) => Ok(Some((tasks, threads))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(unreadable(pid, &error).into()),
        }
    }
}
