//! Counts what one look went through in each process. It is charged to the process's agent where it keeps the
//! others from the network.
//!
//! It is counted as the look goes on, not measured afterwards; what is measured after a flood only raises it.
//! Else a process that shows few descriptors when they are counted and many to a look (its first thread is
//! over, it hides its table, it has closed them since) would get away, and another seem to have most. What a
//! look passed over is no cost: a sleeping process has no row. Must never charge a process for how much
//! others ask: numbers that are compared with ten sockets count as with one.

use super::birthmark::Birthmarks;
use super::process::{Opened, table_size};
use super::tables::is_forbidden;
use crate::sys::directory::{self, ENTRIES};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// From so many descriptors on, it is noted at once which agent a process belongs to: the process may be gone
/// when that is asked.
const MANY: usize = 512;

/// What a process costs a look besides its descriptors, counted in descriptors.
const PROCESS: usize = 16;

/// What one look went through, by pid.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<i32, Row>);

#[derive(Debug, Default)]
struct Row {
    descriptors: usize,
    whose: Option<RangeInclusive<u32>>,
}

impl Tally {
    /// Notes that so many more of a process's descriptors were looked at.
    pub(super) fn add(&mut self, pid: i32, descriptors: usize, (proc, birthmarks): (&File, &Birthmarks)) {
        let row = self.0.entry(pid).or_default();
        row.descriptors += descriptors;
        row.note(pid, (proc, birthmarks));
    }

    /// Notes that a look would go through so many of a process's descriptors, if it got that far.
    pub(super) fn raise(&mut self, pid: i32, descriptors: usize, (proc, birthmarks): (&File, &Birthmarks)) {
        let row = self.0.entry(pid).or_default();
        row.descriptors = row.descriptors.max(descriptors);
        row.note(pid, (proc, birthmarks));
    }

    pub(super) fn descriptors(&self, pid: i32) -> usize {
        self.0.get(&pid).map_or(0, |row| row.descriptors)
    }

    /// Returns how much of what was gone through was certainly this agent's, and how much it was in all.
    pub(super) fn part(&self, agent: u32, at: (&File, &Birthmarks)) -> (u32, u32) {
        let own = |pid: i32, row: &Row| match &row.whose {
            Some(whose) => *whose == (agent..=agent),
            None => whose(pid, at).is_some_and(|whose| whose == (agent..=agent)),
        };
        let cost = |row: &Row| u32::try_from(row.descriptors + PROCESS).unwrap_or(u32::MAX);
        let all = self.0.values().map(cost).fold(0, u32::saturating_add);
        let own = self.0.iter().filter(|(pid, row)| own(**pid, row)).map(|(_, row)| cost(row));
        (own.fold(0, u32::saturating_add), all)
    }

    /// Returns every process that was looked through, its descriptors, and its agent where that was noted.
    pub(super) fn rows(&self) -> impl Iterator<Item = (i32, usize, Option<&RangeInclusive<u32>>)> {
        self.0.iter().map(|(pid, row)| (*pid, row.descriptors, row.whose.as_ref()))
    }
}

impl Row {
    fn note(&mut self, pid: i32, (proc, birthmarks): (&File, &Birthmarks)) {
        if self.whose.is_none() && self.descriptors >= MANY {
            self.whose = whose(pid, (proc, birthmarks));
        }
    }
}

fn whose(pid: i32, (proc, birthmarks): (&File, &Birthmarks)) -> Option<RangeInclusive<u32>> {
    Opened::open(proc.as_fd(), pid).ok().and_then(|process| birthmarks.of_process(&process))
}

/// How many descriptors a look goes through in a process that has one table.
pub(super) fn weight(proc: &File, pid: i32) -> io::Result<usize> {
    let first = weight_of(proc, &format!("{pid}/fd"), pid).unwrap_or_default();
    if first > 0 {
        return Ok(first);
    }
    // The first thread may be over, and another have the table.
    let tasks = directory::open(proc.as_fd(), &format!("{pid}/task"), libc::O_DIRECTORY)?;
    let mut weight = 0;
    directory::numbers(tasks.as_fd(), &mut vec![0; ENTRIES], |thread| {
        weight = weight_of(proc, &format!("{pid}/task/{thread}/fd"), thread).unwrap_or_default();
        if weight > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(weight)
}

/// As [`weight`], for a thread: where its table can't be listed, the numbers that are compared; else the size
/// of the directory, which Linux tells since 6.2, and before that a count of what is in it.
fn weight_of(proc: &File, path: &str, thread: i32) -> io::Result<usize> {
    let table = match directory::open(proc.as_fd(), path, libc::O_DIRECTORY) {
        Ok(table) => File::from(table),
        Err(error) if is_forbidden(&error) => {
            return Ok(usize::try_from(table_size(thread)?).unwrap_or_default());
        }
        Err(error) => return Err(error),
    };
    let size = usize::try_from(table.metadata()?.size()).unwrap_or_default();
    if size > 0 {
        return Ok(size);
    }
    let mut count = 0;
    directory::numbers(table.as_fd(), &mut vec![0; ENTRIES], |_| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_counted_by_process_and_weighed_as_a_look_goes_through_them() {
        let (proc, none) = (File::open("/proc").unwrap(), Birthmarks::new());
        let mut tally = Tally::default();
        for descriptors in [3, MANY, 4] {
            tally.add(7, descriptors, (&proc, &none));
        }
        tally.raise(7, 1, (&proc, &none));
        tally.raise(8, 9, (&proc, &none));
        let rows: Vec<_> = tally.rows().map(|(pid, descriptors, _)| (pid, descriptors)).collect();
        assert_eq!(rows, [(7, MANY + 7), (8, 9)]);
        assert_eq!((tally.descriptors(7), tally.descriptors(6)), (MANY + 7, 0));
        tally.0.get_mut(&7).unwrap().whose = Some(3..=3);
        let at = (&proc, &none);
        let (part, all) = tally.part(3, at);
        assert_eq!((part as usize, all as usize), (MANY + 7 + PROCESS, MANY + 7 + 9 + 2 * PROCESS));
        tally.0.get_mut(&7).unwrap().whose = Some(3..=4);
        assert_eq!((tally.part(3, at).0, tally.part(4, at).0), (0, 0), "it may be another's");
        assert_eq!(Tally::default().part(3, at), (0, 0));
        let own = std::process::id() as i32;
        let before = weight(&proc, own).unwrap();
        let more: Vec<File> = (0..1000).map(|_| proc.try_clone().unwrap()).collect();
        // Other tests of this process open and close descriptors as well.
        assert!(weight(&proc, own).unwrap() > before.max(more.len()) - 100);
        assert!(weight(&proc, -1).is_err());
    }
}
