//! Tells which agent a process belongs to by what it was born with and can't take off: two resource limits
//! that nothing needs.
//!
//! Each agent has a number. Its processes begin with one limit that much above a base, and another that much
//! below a top (setrlimit(2), hard limits, which children inherit). Both can be lowered, but neither raised
//! again. So a process that changes them can't pass for another agent's: it may then belong to one of several
//! agents, its own always among them.
//! ```text
//! agent 3 of 9:   locks ≤ base + 3   real time ≤ base + 9 − 3      untouched: 3..=3
//! lowered:        locks ≤ base + 1   real time ≤ base + 6          1..=3
//! ```
//! The two are `RLIMIT_LOCKS`, which Linux has ignored since 2.4.25, and `RLIMIT_RTTIME`, which limits only
//! real-time scheduling, and that the filter refuses. Must never say that a process is *not* an agent's when
//! it is.

use super::process::{Opened, gone};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::RangeInclusive;

/// The highest number; once it is reached, all further agents share it.
const LAST: u64 = u32::MAX as u64;
/// The base where init's own limits are unlimited: far above what anybody would choose.
const BASE: u64 = 1 << 62;
/// Agents' names that are remembered with their numbers. Beyond it the oldest name that isn't in use is
/// forgotten, and processes that it has left behind are nobody's.
const MAX_NAMES: usize = 4096;
/// Bytes of proc_pid_limits(5), which has a line of 80 for each of sixteen limits.
const MAX_LIMITS: u64 = 4096;
/// The names of the two limits there.
const LOCKS: &str = "Max file locks";
const REAL_TIME: &str = "Max realtime timeout";

/// The two limits of a process that is about to be born.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Birthmark {
    locks: u64,
    real_time: u64,
}

impl Birthmark {
    /// Sixteen bytes, for the child that is to have it.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&self.locks.to_le_bytes());
        second.copy_from_slice(&self.real_time.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; 16]) -> Self {
        let (first, second) = bytes.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        Self { locks: number(first), real_time: number(second) }
    }

    #[cfg(test)]
    pub(super) fn limits(self) -> [u64; 2] {
        [self.locks, self.real_time]
    }

    /// Sets the limits for this process and all that it will start.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn wear(self) -> io::Result<()> {
        for (resource, limit) in
            [(Resource::RLIMIT_LOCKS, self.locks), (Resource::RLIMIT_RTTIME, self.real_time)]
        {
            setrlimit(resource, limit, limit)?;
        }
        Ok(())
    }
}

/// The agents' numbers.
#[derive(Debug)]
pub(crate) struct Birthmarks {
    /// `None` where init itself was given limits too low for this.
    base: Option<u64>,
    /// Agents and their numbers, the most recently started or searched for last.
    names: VecDeque<(String, u32)>,
    next: u32,
}

impl Birthmarks {
    /// Begins with no agent numbered. The base depends on this process's own limits.
    pub(crate) fn new() -> Self {
        let hard = |resource| getrlimit(resource).map_or(0, |(_, hard)| hard);
        let lowest = hard(Resource::RLIMIT_LOCKS).min(hard(Resource::RLIMIT_RTTIME));
        Self::below(lowest)
    }

    fn below(lowest: u64) -> Self {
        let base = if lowest == RLIM_INFINITY { Some(BASE) } else { lowest.checked_sub(LAST) };
        Self { base: base.filter(|base| *base > 0), names: VecDeque::new(), next: 0 }
    }

    /// Whether processes can be marked at all.
    pub(super) fn are_told(&self) -> bool {
        self.base.is_some()
    }

    /// Returns what processes of this agent are to be born with. No name that `is_used` is forgotten to make
    /// room: each of an operator's sessions has a name of its own, and these must not displace the agents
    /// that the marks are for.
    pub(super) fn of_agent(&mut self, agent: &str, is_used: impl Fn(&str) -> bool) -> Option<Birthmark> {
        let base = self.base?;
        let number = self.renew(agent).unwrap_or_else(|| self.add(agent, is_used));
        let above = u64::from(number);
        Some(Birthmark { locks: base + above, real_time: base + (LAST - above) })
    }

    fn add(&mut self, agent: &str, is_used: impl Fn(&str) -> bool) -> u32 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        if self.names.len() >= MAX_NAMES {
            // As many as are in use: init's table bounds these.
            let oldest = self.names.iter().position(|(name, _)| !is_used(name));
            oldest.and_then(|oldest| self.names.remove(oldest));
        }
        self.names.push_back((agent.to_owned(), number));
        number
    }

    /// Returns the number of an agent that has started anything, and makes its name the last to be forgotten.
    pub(super) fn renew(&mut self, agent: &str) -> Option<u32> {
        let at = self.names.iter().position(|(name, _)| name == agent)?;
        let known = self.names.remove(at)?;
        let number = known.1;
        self.names.push_back(known);
        Some(number)
    }

    /// The number of an agent that has started anything.
    pub(super) fn number(&self, agent: &str) -> Option<u32> {
        self.names.iter().find(|(name, _)| name == agent).map(|(_, number)| *number)
    }

    /// The agent with this number, if it is remembered.
    pub(super) fn name(&self, number: u32) -> Option<&str> {
        self.names.iter().find(|(_, of)| *of == number).map(|(name, _)| name.as_str())
    }

    /// Returns the numbers of the agents that a process may belong to; its own agent's is among them. `None`
    /// if it was born without a mark, is gone or can't be read.
    pub(super) fn of_process(&self, process: &Opened) -> Option<RangeInclusive<u32>> {
        self.look_at(process).ok().flatten()
    }

    /// As [`Birthmarks::of_process`], but reports a failure to read as an error. A dead process can be read
    /// until it is reaped.
    ///
    /// # Errors
    /// Reading failed, though the process may still exist.
    pub(super) fn look_at(&self, process: &Opened) -> io::Result<Option<RangeInclusive<u32>>> {
        let mut text = String::new();
        let read = |file: std::fs::File| file.take(MAX_LIMITS).read_to_string(&mut text);
        let read = gone(process.open_limits().and_then(read))?;
        Ok(read.and_then(|_| self.read(&text)))
    }

    fn read(&self, limits: &str) -> Option<RangeInclusive<u32>> {
        let base = self.base?;
        let locks = hard_limit(limits, LOCKS)?.saturating_sub(base);
        let real_time = hard_limit(limits, REAL_TIME)?.saturating_sub(base);
        // Above all marks: the process was never given one.
        let last = LAST.checked_sub(real_time)?;
        let within = |number: u64| u32::try_from(number).ok();
        let (first, last) = (within(locks)?, within(last)?);
        (first <= last).then_some(first..=last)
    }
}

/// Finds a hard limit in proc_pid_limits(5), whose lines hold a name, the soft limit, the hard one and the
/// unit.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(RLIM_INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    fn text(locks: u64, real_time: u64) -> String {
        let [locks, real_time] = [locks, real_time]
            .map(|n| if n == RLIM_INFINITY { "unlimited".to_owned() } else { n.to_string() });
        format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max file locks            7                    {locks:<20} locks     \n\
             Max pending signals       8                    8                    signals   \n\
             Max realtime timeout      7                    {real_time:<20} us        \n"
        )
    }

    #[test]
    fn whoever_lowers_a_limit_stays_its_own_agents_among_others() {
        let mut all = Birthmarks::below(RLIM_INFINITY);
        let marks: Vec<Birthmark> =
            ["a", "b", "c", "d"].map(|agent| all.of_agent(agent, |_| false).unwrap()).to_vec();
        assert_eq!(all.of_agent("c", |_| false), Some(marks[2]), "the same agent, the same mark");
        for (at, mark) in (0..).zip(&marks) {
            assert_eq!(all.read(&text(mark.locks, mark.real_time)), Some(at..=at));
            for less in [1, 2, 3, LAST, BASE, mark.locks] {
                for (locks, real_time) in [
                    (mark.locks - less, mark.real_time),
                    (mark.locks, mark.real_time.saturating_sub(less)),
                    (mark.locks - less, mark.real_time.saturating_sub(less)),
                ] {
                    let found = all.read(&text(locks, real_time)).unwrap();
                    assert!(found.contains(&at), "{at} is told as {found:?}");
                }
            }
        }
    }

    #[test]
    fn who_was_never_marked_is_nobodys() {
        let mut all = Birthmarks::below(RLIM_INFINITY);
        let mark = all.of_agent("a", |_| false).unwrap();
        for (locks, real_time) in [
            (RLIM_INFINITY, RLIM_INFINITY),
            (mark.locks, RLIM_INFINITY),
            (RLIM_INFINITY, mark.real_time),
            (mark.locks + 1, mark.real_time),
        ] {
            assert_eq!(all.read(&text(locks, real_time)), None);
        }
        assert_eq!(all.read(""), None);
        assert_eq!(all.read("Max file locks 1 2\nMax realtime timeout 1 x"), None);
    }

    #[test]
    fn where_limits_are_low_already_they_are_counted_from_there_or_not_at_all() {
        let mut low = Birthmarks::below(LAST + 5);
        let mark = low.of_agent("a", |_| false).unwrap();
        assert_eq!((mark.locks, mark.real_time), (5, LAST + 5));
        assert_eq!(low.read(&text(mark.locks, mark.real_time)), Some(0..=0));
        for lowest in [0, 64, LAST] {
            let mut none = Birthmarks::below(lowest);
            assert_eq!((none.of_agent("a", |_| false), none.are_told()), (None, false));
        }
    }

    #[test]
    fn names_are_bounded_and_numbers_never_come_back() {
        let mut all = Birthmarks::below(RLIM_INFINITY);
        for n in 0..=MAX_NAMES {
            all.of_agent(&n.to_string(), |_| false);
        }
        assert_eq!((all.number("0"), all.name(0)), (None, None));
        assert_eq!((all.number("1"), all.name(1)), (Some(1), Some("1")));
        all.of_agent("0", |_| false);
        assert_eq!(all.number("0"), Some(MAX_NAMES as u32 + 1));
    }

    #[test]
    fn no_number_of_sessions_has_an_agent_forgotten() {
        let mut all = Birthmarks::below(RLIM_INFINITY);
        for agent in ["runs", "is sought", "is over"] {
            all.of_agent(agent, |_| false);
        }
        for n in 0..MAX_NAMES * 2 {
            // An agent's row is dropped a moment before the agent is started again.
            all.of_agent(&n.to_string(), |name| name == "runs");
            if n % 1000 == 0 {
                assert_eq!(all.renew("is sought"), Some(1));
            }
        }
        assert_eq!((all.number("runs"), all.number("is sought")), (Some(0), Some(1)));
        assert_eq!((all.number("is over"), all.names.len()), (None, MAX_NAMES));
    }

    #[test]
    fn a_child_has_what_its_parent_was_born_with() {
        let mut all = Birthmarks::new();
        let Some(mark) =
            ["first", "second"].map(|agent| all.of_agent(agent, |_| false)).into_iter().next_back().flatten()
        else {
            return eprintln!("SKIPPED: this process's limits are too low");
        };
        assert_eq!(Birthmark::from_bytes(&mark.to_bytes()), mark);
        let [locks, real_time] =
            [("locks", mark.locks), ("rttime", mark.real_time)].map(|(name, n)| format!("--{name}={n}:{n}"));
        let mut command = Command::new("prlimit");
        command.args([&locks, &real_time, "/bin/sh", "-c", "env -i /bin/sh -c 'echo; read -r line'; :"]);
        let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            return eprintln!("SKIPPED: no prlimit(1)");
        };
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let proc = File::open("/proc").unwrap();
        let pid = child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for pid in children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).chain([pid as i32]) {
            let process = Opened::open(proc.as_fd(), pid).unwrap();
            assert_eq!(all.of_process(&process), Some(1..=1), "{pid}");
        }
        let own = Opened::open(proc.as_fd(), std::process::id() as i32).unwrap();
        assert_eq!(all.of_process(&own), None);
        drop(child.stdin.take());
        child.wait().unwrap();
        let gone = Opened::open(proc.as_fd(), pid as i32);
        assert!(gone.is_err() || all.of_process(&gone.unwrap()).is_none());
    }
}
