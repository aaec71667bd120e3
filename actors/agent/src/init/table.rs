//! The table of agent processes: running, or ended and not yet forgotten. It outlives supervisors: it is what
//! a new one adopts.

use crate::protocol::{Event, ExitStatus, MAX_PROCESSES, ProcessId, ProcessRecord, ProcessState, Refusal};
use std::os::fd::OwnedFd;

/// One process.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: ProcessRecord,
    /// Kept here so that a supervisor's death doesn't hang the terminal up.
    pub(crate) master: Option<OwnedFd>,
    announced: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    next: u64,
}

impl Table {
    /// Checks that a process of this agent may start, besides the `starting` ones that are not in the table
    /// yet.
    pub(crate) fn admit(&self, agent: &str, starting: usize) -> Result<(), Refusal> {
        let running = self.entries.iter().find(|e| e.record.agent == agent && e.is_running());
        if let Some(entry) = running {
            return Err(Refusal::AlreadyRunning(entry.record.process));
        }
        if self.entries.len() + starting >= MAX_PROCESSES {
            return Err(Refusal::TooMany("processes in the sandbox's table".into()));
        }
        Ok(())
    }

    /// Adds the end of a process that ran in the cage before this one, as long as the table knows nothing of
    /// its agent.
    pub(crate) fn remember(&mut self, agent: &str, status: ExitStatus) -> Result<(), Refusal> {
        if self.entries.iter().any(|e| e.record.agent == agent) {
            return Ok(());
        }
        self.admit(agent, 0)?;
        // No process of this pid namespace ever has pid 0.
        let record = self.add(agent, 0, 0, None);
        if let Some(entry) = self.entries.iter_mut().find(|e| e.record.process == record.process) {
            entry.record.state = ProcessState::Exited(status);
            (entry.record.noted, entry.announced) = (true, true);
        }
        Ok(())
    }

    /// Adds a started process.
    pub(crate) fn add(
        &mut self,
        agent: &str,
        pid: i32,
        start_time: u64,
        master: Option<OwnedFd>,
    ) -> ProcessRecord {
        self.next += 1;
        let record = ProcessRecord {
            process: ProcessId(self.next),
            agent: agent.to_owned(),
            pid,
            start_time,
            pty: master.is_some(),
            state: ProcessState::Running,
            noted: false,
        };
        self.entries.push(Entry { record: record.clone(), master, announced: false });
        record
    }

    pub(crate) fn find(&self, process: ProcessId) -> Result<&Entry, Refusal> {
        self.entries.iter().find(|e| e.record.process == process).ok_or(Refusal::UnknownProcess(process))
    }

    /// Notes a death. False for a pid that isn't in the table (an orphan that init inherited).
    pub(crate) fn ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        match self.entries.iter_mut().find(|e| e.record.pid == pid && e.is_running()) {
            Some(entry) => {
                entry.record.state = ProcessState::Exited(status);
                true
            }
            None => false,
        }
    }

    /// Drops an ended process.
    pub(crate) fn forget(&mut self, process: ProcessId) -> Result<(), Refusal> {
        if self.find(process)?.is_running() {
            return Err(Refusal::StillRunning(process));
        }
        self.entries.retain(|e| e.record.process != process);
        Ok(())
    }

    /// Notes that the supervisor has reported a process's end. Nobody needs its terminal any more.
    pub(crate) fn note_end(&mut self, process: ProcessId) -> Result<(), Refusal> {
        let known = self.entries.iter_mut().find(|e| e.record.process == process);
        let entry = known.ok_or(Refusal::UnknownProcess(process))?;
        if entry.is_running() {
            return Err(Refusal::StillRunning(process));
        }
        entry.record.noted = true;
        entry.master = None;
        Ok(())
    }

    pub(crate) fn records(&self) -> Vec<ProcessRecord> {
        self.entries.iter().map(|e| e.record.clone()).collect()
    }

    /// Whether an agent has a row.
    pub(crate) fn knows(&self, agent: &str) -> bool {
        self.entries.iter().any(|e| e.record.agent == agent)
    }

    /// Whether a process of an agent's runs.
    pub(crate) fn runs(&self, agent: &str) -> bool {
        self.entries.iter().any(|e| e.record.agent == agent && e.is_running())
    }

    /// The pids of what runs.
    pub(crate) fn running(&self) -> Vec<i32> {
        self.entries.iter().filter(|e| e.is_running()).map(|e| e.record.pid).collect()
    }

    /// Returns the next death that was not announced, and the flag to set once it was.
    pub(crate) fn unannounced(&mut self) -> Option<(Event, &mut bool)> {
        self.entries.iter_mut().find_map(|entry| match entry.record.state {
            ProcessState::Exited(status) if !entry.announced => {
                let event = Event::Exited {
                    process: entry.record.process,
                    agent: entry.record.agent.clone(),
                    status,
                };
                Some((event, &mut entry.announced))
            }
            _ => None,
        })
    }
}

impl Entry {
    pub(crate) fn is_running(&self) -> bool {
        self.record.state == ProcessState::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_running_process_an_agent_and_numbers_never_come_back() {
        let mut table = Table::default();
        let first = table.add("a", 10, 1, None);
        assert_eq!(table.admit("a", 0), Err(Refusal::AlreadyRunning(first.process)));
        assert_eq!(table.admit("b", 0), Ok(()));
        assert_eq!(table.forget(first.process), Err(Refusal::StillRunning(first.process)));
        assert!(table.ended(10, ExitStatus::Code(0)));
        assert!(!table.ended(10, ExitStatus::Code(0)), "a pid that came back is another process");
        assert_eq!(table.admit("a", 0), Ok(()));
        table.forget(first.process).unwrap();
        assert_eq!(table.forget(first.process), Err(Refusal::UnknownProcess(first.process)));
        assert_ne!(table.add("a", 10, 2, None).process, first.process);
    }

    #[test]
    fn a_death_is_announced_once_and_kept_until_forgotten() {
        let mut table = Table::default();
        let record = table.add("a", 10, 1, None);
        assert!(table.unannounced().is_none());
        table.ended(10, ExitStatus::Signal(9));
        let (event, told) = table.unannounced().unwrap();
        assert_eq!(
            event,
            Event::Exited { process: record.process, agent: "a".into(), status: ExitStatus::Signal(9) }
        );
        *told = true;
        assert!(table.unannounced().is_none());
        assert_eq!(table.records().len(), 1);
    }

    #[test]
    fn a_noted_end_stays_with_its_code_and_lets_its_terminal_go() {
        let mut table = Table::default();
        let master = std::fs::File::open("/dev/null").unwrap().into();
        let record = table.add("a", 10, 1, Some(master));
        assert_eq!(table.note_end(record.process), Err(Refusal::StillRunning(record.process)));
        table.ended(10, ExitStatus::Code(3));
        assert!(!table.records()[0].noted);
        table.note_end(record.process).unwrap();
        let found = table.records().remove(0);
        assert_eq!((found.state, found.noted), (ProcessState::Exited(ExitStatus::Code(3)), true));
        assert!(table.find(record.process).unwrap().master.is_none());
        table.forget(record.process).unwrap();
        assert_eq!(table.note_end(record.process), Err(Refusal::UnknownProcess(record.process)));
    }

    #[test]
    fn what_ended_in_another_cage_is_over_and_no_news() {
        let mut table = Table::default();
        table.remember("a", ExitStatus::Code(3)).unwrap();
        let found = table.records().remove(0);
        assert_eq!((found.state, found.noted), (ProcessState::Exited(ExitStatus::Code(3)), true));
        assert!(table.unannounced().is_none() && table.running().is_empty());
        // The successor of a supervisor that died over it says it again.
        table.remember("a", ExitStatus::Code(3)).unwrap();
        assert_eq!(table.records().len(), 1);
        table.forget(found.process).unwrap();
        table.add("a", 10, 1, None);
        table.remember("a", ExitStatus::Code(3)).unwrap();
        assert_eq!(table.running(), [10]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::default();
        for n in 0..MAX_PROCESSES {
            table.admit(&n.to_string(), 0).unwrap();
            table.add(&n.to_string(), n as i32 + 2, 0, None);
        }
        assert!(matches!(table.admit("one more", 0), Err(Refusal::TooMany(_))));
    }
}
