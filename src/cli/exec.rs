//! `cofferdam exec`: another process in a running sandbox, under the same controls.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use nix::libc::{SIGCONT, SIGHUP, SIGTERM, SIGTSTP, SIGWINCH};
use nix::sys::signal::{Signal as Signo, raise};
use operator::client::{RawTerminal, Stdio, window_of};
use operator::control::ExecControl;
use operator::types::{ExecRequest, Exit, Window};
use tokio::sync::mpsc;

use crate::cli::args::ExecArgs;
use crate::cli::live::{client, failure};
use crate::cli::signals::{self, Signals};
use crate::cli::wait_for;
use crate::failure::{Failure, Outcome};
use crate::start::environment;
use crate::state::Root;

/// What a terminal without a size is taken for.
const USUAL: Window = Window { rows: 24, cols: 80 };
/// Signals and resizes that may wait for the connection.
const CONTROLS: usize = 16;
/// A second SIGTERM within this time ends us.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs the process and gives its exit code.
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
        // Not while a sandbox may be silent: until here Ctrl-C is the kernel's, and ends us. And not before
        // signals are ours, of which any other would end us with the terminal left raw.
        let raw = args.tty.then(|| RawTerminal::enter(io::stdin()).ok()).flatten();
        let stdio = Stdio {
            stdin: request.stdin.then(tokio::io::stdin),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        };
        tokio::select! {
            exit = session.drive(stdio, queue) => exit.map_err(failure),
            // What was started is hung up, as its terminal was.
            signo = pass(signals, controls, raw.as_ref()) => Ok(Exit { code: None, signal: Some(signo) }),
        }
    });
    Ok(u8::try_from(exit?.shell_code()).unwrap_or(crate::failure::REFUSED))
}

/// 127 and 126 where the sandbox says that the program isn't there or can't be run.
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

/// Signals that reach us: those that would end us, and with a terminal those that would stop us with it.
fn heard(tty: bool) -> io::Result<Signals> {
    let of_terminal = [SIGTSTP, SIGCONT].into_iter().filter(|_| tty);
    Signals::heard([SIGWINCH].into_iter().chain(signals::ENDING).chain(of_terminal))
}

/// Has them go to the process, and a terminal's new size too. Ends with the signal that ends us instead: the
/// loss of our terminal, behind which nobody is, and a SIGTERM soon after another, since a sandbox may have
/// gone silent.
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
                // What was meant for us: of the keys Ctrl-Z goes inside. What comes next is the SIGCONT.
                let _ = raise(Signo::SIGSTOP);
                continue;
            }
            (signo @ (SIGWINCH | SIGCONT), Some(raw)) => {
                if signo == SIGCONT {
                    // Gone: then the SIGHUP is on its way.
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
