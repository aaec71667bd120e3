//! Our child processes and their ends. Never waits for one without a limit.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use agent::launch::Child;
use agent::protocol::ExitStatus;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::waits::GONE_WITHIN;

/// Kills a child and reaps it. A child that the kernel can't end yet (an init whose agent hangs in a dead
/// file system, or under a debugger) runs no more code. It is waited for no longer than [`GONE_WITHIN`]; the
/// heart reaps it later, or the process that inherits the heart's children.
pub fn end_child(child: &Child) -> Option<ExitStatus> {
    child.kill();
    if has_ended_within(child, GONE_WITHIN) { reap(child) } else { None }
}

/// Whether a child has ended, reaped or not.
pub fn has_ended(child: &Child) -> bool {
    has_ended_within(child, Duration::ZERO)
}

/// As [`has_ended`], after waiting up to `patience`.
pub fn has_ended_within(child: &Child, patience: Duration) -> bool {
    let within = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, within).is_ok_and(|n| n > 0)
}

/// Returns how a child ended, as the rest of a sentence.
pub fn end_in_words(how: Option<ExitStatus>) -> String {
    match how {
        Some(ExitStatus::Code(code)) => format!("ended with exit code {code}"),
        Some(ExitStatus::Signal(signal)) => format!("was killed by signal {signal}"),
        None => "ended in an unknown way".to_owned(),
    }
}

/// Returns what a child's threads do (proc_pid_stat(5)), as the rest of a sentence: a stopped process was
/// stopped by somebody, one that waits for the disk hangs in a file system. `None` if /proc doesn't tell.
pub fn threads_in_words(pid: i32) -> Option<String> {
    const LOOKED_AT: usize = 64;
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().take(LOOKED_AT) {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it may hold anything.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        *states.entry(state_in_words(state?)).or_default() += 1;
    }
    let each = states.iter().map(|(state, count)| format!("{count} {state}"));
    (!states.is_empty()).then(|| format!("of its threads {}", each.collect::<Vec<_>>().join(", ")))
}

fn state_in_words(state: char) -> &'static str {
    match state {
        'R' => "run",
        'S' | 'I' => "wait",
        'D' => "wait for a disk",
        'T' => "were stopped by a signal",
        't' => "are stopped by a debugger",
        _ => "have ended",
    }
}

/// Reaps an ended child.
pub fn reap(child: &Child) -> Option<ExitStatus> {
    match waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL)).ok()? {
        WaitStatus::Exited(_, code) => Some(ExitStatus::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::Signal(signal as i32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn threads_are_told_by_what_they_do() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let told = |wanted: &str| {
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                threads_in_words(pid).as_deref() == Some(wanted)
            })
        };
        assert!(told("of its threads 1 wait"));
        nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::SIGSTOP).unwrap();
        assert!(told("of its threads 1 were stopped by a signal"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(threads_in_words(pid), None);
    }
}
