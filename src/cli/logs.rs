//! `cofferdam logs`: the agents' output as it was logged, redacted, of a running or ended sandbox.

use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use redactor::pump::LogLine;

use crate::cli::args::LogsArgs;
use crate::console::{harmless, print, print_json_line};
use crate::failure::{Failure, Outcome};
use crate::logs::Logs;
use crate::state::{Name, Root, files};

/// How often a followed log is checked for more.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Prints what is there and, with `-f`, what comes until the sandbox ends.
pub fn logs(root: &Root, args: &LogsArgs) -> Outcome {
    let name = Name::parse(&args.name)?;
    let dir = root.enter(&name)?.join(files::LOGS);
    let unreadable = |error: io::Error| {
        Failure::refused(match error.kind() {
            ErrorKind::NotFound => {
                format!("no logs in {}: is '{name}' the sandbox's name?", dir.display())
            }
            _ => format!("can't read {}: {error}", dir.display()),
        })
    };
    let mut logs = Logs::open(&dir, args.agent.clone()).map_err(unreadable)?;
    if let Some(agent) = &args.agent {
        require_agent(&logs, agent)?;
    }
    if let Some(lines) = args.tail {
        logs = Logs::open_last(&dir, args.agent.clone(), lines).map_err(unreadable)?;
    }
    loop {
        // Checked before reading, so that what the sandbox wrote last is still read.
        let running = root.is_running(&name);
        while let Some(line) = logs.next_line()? {
            show(&line, args)?;
        }
        if !args.follow || !running || is_left_within(io::stdout().as_fd(), LOOK_AGAIN)? {
            return Ok(0);
        }
    }
}

/// Waits this long, or until nobody reads this output any more: while the agents are silent nothing is
/// written that would fail. Returns whether it came to that.
fn is_left_within(output: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    // Errors and hang-ups are told without being asked for (poll(2)).
    let mut watched = [PollFd::new(output, PollFlags::empty())];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, time) {
        Ok(found) => Ok(found > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Refuses an agent without a log: it has never written anything, or its name is mistyped.
fn require_agent(logs: &Logs, agent: &str) -> Result<(), Failure> {
    let known = logs.agents()?;
    if known.contains(agent) {
        return Ok(());
    }
    let known: Vec<String> = known.into_iter().collect();
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    Err(Failure::refused(format!(
        "no agent called '{agent}' has written anything: there are logs of {known}"
    )))
}

fn show(line: &LogLine, args: &LogsArgs) -> Result<(), Failure> {
    if args.json {
        print_json_line(line)?;
    } else if args.raw || !io::stdout().is_terminal() {
        print(&line.text)?;
    } else {
        print(&harmless(&line.text))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_is_noticed_though_nothing_is_written() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!is_left_within(writer.as_fd(), Duration::from_millis(1)).unwrap());
        let waiting = std::thread::spawn(move || is_left_within(writer.as_fd(), Duration::from_secs(60)));
        drop(reader);
        assert!(waiting.join().unwrap().unwrap());
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        assert!(!is_left_within(null.as_fd(), Duration::from_millis(1)).unwrap(), "a file has no reader");
    }
}
