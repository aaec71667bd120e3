//! `cofferdam exec`: another process in a running sandbox, under the same controls.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use nix::libc::{SIGCONT, SIGHUP, SIGTERM, SIGTSTP, SIGWINCH};
use nix::sys::signal::{Signal as Signo, raise};
use operator::client::{RawTerminal, Stdio, window_of};
use operator::control::ExecControl;
use operator::types::{ExecRequest, Exit, Window};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::cli::args::ExecArgs;
use crate::cli::keys::Keys;
use crate::cli::live::{client, failure};
use crate::cli::signals::{self, Signals};
use crate::cli::wait_for;
use crate::failure::{Failure, Outcome};
use crate::start::environment;
use crate::state::Root;

/// The size assumed for a terminal that reports none.
const USUAL: Window = Window { rows: 24, cols: 80 };
/// Signals and resizes that may wait for the connection.
const CONTROLS: usize = 16;
/// A second SIGTERM within this time ends this command.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs the process and returns its exit code.
pub fn exec(root: &Root, args: ExecArgs) -> Outcome {
    if args.tty && !io::stdin().is_terminal() {
        return Err(Failure::refused("-t needs a terminal on standard input: leave it out"));
    }
    let client = client(root, &args.name)?;
    let command = args
        .command
        .into_iter()
        .map(|word| word.into_string().map_err(|_| Failure::refused("exec takes arguments in UTF-8 only")))
        .collect::<Result<Vec<_>, _>>()?;
    let request = ExecRequest {
        command,
        env: environment::pairs(&args.env)?.into_iter().collect(),
        cwd: None,
        tty: args.tty.then(|| window_of(io::stdin()).unwrap_or(USUAL)),
        stdin: args.interactive || args.tty,
    };
    let exit = wait_for(async {
        let session = client.exec(&request).await.map_err(|error| refused_start(&error))?;
        let (controls, queue) = mpsc::channel(CONTROLS);
        let signals = heard(args.tty)?;
        // The terminal becomes raw only here. Earlier, while the sandbox may not answer, Ctrl-C must still
        // end this command. And signals must be caught first: any other signal would end us and leave the
        // terminal raw.
        let raw = args.tty.then(|| RawTerminal::enter(io::stdin()).ok()).flatten();
        let stdio = Stdio {
            stdin: request.stdin.then(|| input(args.tty)),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        };
        tokio::select! {
            exit = session.drive(stdio, queue) => exit.map_err(failure),
            // The dropped session hangs up the process, as our terminal was hung up.
            signo = pass(signals, controls, raw.as_ref()) => Ok(Exit { code: None, signal: Some(signo) }),
        }
    });
    Ok(u8::try_from(exit?.shell_code()).unwrap_or(crate::failure::REFUSED))
}

fn input(is_terminal: bool) -> Box<dyn AsyncRead + Send + Unpin> {
    if is_terminal { Box::new(Keys::of_terminal()) } else { Box::new(tokio::io::stdin()) }
}

/// Returns the failure of a refused start: 127 if the program isn't there, 126 if it can't be run.
fn refused_start(error: &operator::client::ClientError) -> Failure {
    use operator::fault::Code;
    let code = match error {
        operator::client::ClientError::Fault(fault) => match fault.code {
            Code::CommandNotFound => 127,
            Code::NotExecutable => 126,
            _ => crate::failure::REFUSED,
        },
        _ => crate::failure::REFUSED,
    };
    Failure { code, message: error.to_string() }
}

/// Catches the signals that would end us and, with a terminal, those of job control.
fn heard(tty: bool) -> io::Result<Signals> {
    let of_terminal = [SIGTSTP, SIGCONT].into_iter().filter(|_| tty);
    Signals::heard([SIGWINCH].into_iter().chain(signals::ENDING).chain(of_terminal))
}

/// Passes signals and the terminal's new sizes on to the process. Returns the signal that ends this command
/// instead: SIGHUP when our terminal is lost, since nobody is there any more, or a SIGTERM soon after
/// another, since the sandbox may have stopped answering.
async fn pass(mut signals: Signals, controls: mpsc::Sender<ExecControl>, raw: Option<&RawTerminal>) -> i32 {
    let mut told_to_end: Option<Instant> = None;
    let mut resize: Option<Window> = None;
    loop {
        let signo = tokio::select! {
            signo = signals.next() => signo,
            Ok(room) = controls.reserve(), if resize.is_some() => {
                if let Some(window) = resize.take() {
                    room.send(ExecControl::Resize(window));
                }
                continue;
            }
        };
        let message = match (signo, raw) {
            (SIGTSTP, Some(raw)) => {
                raw.give_back();
                // This SIGTSTP was meant for us: a typed Ctrl-Z goes inside. After the stop, SIGCONT follows.
                let _ = raise(Signo::SIGSTOP);
                continue;
            }
            (signo @ (SIGWINCH | SIGCONT), Some(raw)) => {
                if signo == SIGCONT {
                    // An error means that the terminal is gone: the SIGHUP is on its way.
                    let _ = raw.take_again();
                }
                // Of sizes that nobody has taken yet the last one counts.
                resize = window_of(io::stdin()).or(resize);
                continue;
            }
            (SIGWINCH | SIGCONT | SIGTSTP, None) => continue,
            (SIGHUP, Some(_)) => return SIGHUP,
            (SIGTERM, _) if told_to_end.is_some_and(|before| before.elapsed() < AGAIN) => return SIGTERM,
            (signo, _) => ExecControl::Signal(signo),
        };
        if message == ExecControl::Signal(SIGTERM) {
            told_to_end = Some(Instant::now());
        }
        // Where there is no room it is lost, as the kernel loses a signal that is pending already.
        let _ = controls.try_send(message);
    }
}
