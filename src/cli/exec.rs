//! `cofferdam exec`: another process in a running sandbox, under the same controls.

use std::io::{self, IsTerminal};

use operator::client::{RawTerminal, Stdio, window_of};
use operator::control::ExecControl;
use operator::types::{ExecRequest, Window};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::args::ExecArgs;
use crate::cli::live::{client, told};
use crate::cli::out::{Failure, Outcome};
use crate::cli::{environment, wait_for};
use crate::state::Root;

/// What a terminal without a size is taken for.
const USUAL: Window = Window { rows: 24, cols: 80 };
/// Signals and resizes that may wait for the connection.
const CONTROLS: usize = 16;

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
    let raw = args.tty.then(|| RawTerminal::enter(io::stdin()).ok()).flatten();
    let exit = wait_for(async {
        let session = client.exec(&request).await.map_err(|error| refused_start(&error))?;
        let (controls, queue) = mpsc::channel(CONTROLS);
        let passing = tokio::spawn(pass_signals(controls, request.tty.is_some()));
        let stdio = Stdio {
            stdin: request.stdin.then(tokio::io::stdin),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        };
        let exit = session.drive(stdio, queue).await.map_err(told);
        passing.abort();
        exit
    });
    drop(raw);
    Ok(u8::try_from(exit?.shell_code()).unwrap_or(crate::cli::out::REFUSED))
}

/// 127 and 126 where the sandbox says that the program isn't there or can't be run.
fn refused_start(error: &operator::client::ClientError) -> Failure {
    use operator::fault::Code;
    let code = match error {
        operator::client::ClientError::Fault(fault) => match fault.code {
            Code::CommandNotFound => 127,
            Code::NotExecutable => 126,
            _ => crate::cli::out::REFUSED,
        },
        _ => crate::cli::out::REFUSED,
    };
    Failure { code, message: error.to_string() }
}

/// Signals that reach us go to the process; a terminal's new size too.
async fn pass_signals(controls: mpsc::Sender<ExecControl>, tty: bool) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut resize = signal(SignalKind::window_change())?;
    loop {
        let message = tokio::select! {
            _ = interrupt.recv() => ExecControl::Signal(nix::libc::SIGINT),
            _ = terminate.recv() => ExecControl::Signal(nix::libc::SIGTERM),
            _ = hangup.recv() => ExecControl::Signal(nix::libc::SIGHUP),
            _ = resize.recv(), if tty => match window_of(io::stdin()) {
                Some(window) => ExecControl::Resize(window),
                None => continue,
            },
        };
        if controls.send(message).await.is_err() {
            return Ok(());
        }
    }
}
