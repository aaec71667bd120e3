//! Has a new process begin on another processor than its parent's.
//!
//! The kernel wakes a child on the processor of its parent, and looks for an idle one only at its next tick,
//! milliseconds later: until then two processes that could run side by side wait for each other. Must leave
//! nothing behind: whatever may change where processes run later (a cpuset, a new processor, the operator)
//! must reach the child and all that it starts.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps a child off the processor that this process runs on, until this is dropped.
#[derive(Debug)]
pub(super) struct Elsewhere(Pid);

impl Elsewhere {
    /// Returns `None`, and changes nothing, if the child may not run on every processor or if there is only
    /// one. (What restricts it can't be told apart, so it could not be restored: a cpuset that grows later
    /// must reach the child, the operator's taskset(1) must not be lifted.)
    pub(super) fn keep(child: i32) -> Option<Self> {
        let child = Pid::from_raw(child);
        let mut others = sched_getaffinity(child).ok()?;
        if count(&others) != online()? {
            return None;
        }
        others.unset(sched_getcpu().ok()?).ok()?;
        // Refused where none is left.
        sched_setaffinity(child, &others).ok()?;
        Some(Self(child))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Also processors that aren't there yet. It fails only if the child is gone.
        let _ = sched_setaffinity(self.0, &all());
    }
}

fn count(set: &CpuSet) -> usize {
    (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).count()
}

/// How many processors are on. (Not by sysconf(3): some C libraries count those that the caller may run on.)
fn online() -> Option<usize> {
    counted(&std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?)
}

/// How many numbers a list like `0-3,6` has.
fn counted(list: &str) -> Option<usize> {
    let of_range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').map(of_range).sum()
}

fn all() -> CpuSet {
    let mut all = CpuSet::new();
    for number in 0..CpuSet::count() {
        let _ = all.set(number);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Sleeper(Child);

    impl Sleeper {
        fn begin() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }

        fn processors(&self) -> CpuSet {
            sched_getaffinity(Pid::from_raw(self.pid())).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn processors_are_counted() {
        assert_eq!([counted("0\n"), counted("0-3,6\n"), counted("0-1,4-7")], [Some(1), Some(5), Some(6)]);
        assert_eq!([counted(""), counted("3-1"), counted("x")], [None; 3]);
    }

    #[test]
    fn a_child_is_kept_off_one_processor_and_then_allowed_all_again() {
        let child = Sleeper::begin();
        let before = child.processors();
        let elsewhere = Elsewhere::keep(child.pid());
        let free = count(&before) == online().unwrap();
        assert_eq!(elsewhere.is_some(), free && count(&before) > 1, "{} processors", count(&before));
        let kept = count(&before) - usize::from(elsewhere.is_some());
        assert_eq!(count(&child.processors()), kept);
        drop(elsewhere);
        assert_eq!(child.processors(), before);
    }

    #[test]
    fn what_restricts_a_child_already_stays() {
        let child = Sleeper::begin();
        let mut first = CpuSet::new();
        first.set((0..CpuSet::count()).find(|n| child.processors().is_set(*n).unwrap()).unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(child.pid()), &first).unwrap();
        drop(Elsewhere::keep(child.pid()));
        assert_eq!(child.processors(), first);
    }
}
