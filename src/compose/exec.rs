//! `exec`: another process in the sandbox, under exactly the same controls, with its streams connected to a
//! control connection.
//!
//! Init forks it as it forks an agent; its output passes a redactor of its own. When the client leaves, the
//! process is hung up, so that nothing runs unattended. What a process has left behind when it ends, such as
//! a daemon, is ended too: no restart of an agent would ever end it, and it uses up processes and listeners
//! out of the limits that the agents share.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::client::Spawned;
use agent::protocol::{Event, ExitStatus, ProcessId, ProcessRecord, ProcessState, SpawnSpec};
use agent::{ClientError, InitClient};
use bytes::Bytes;
use futures_util::future::join_all;
use nix::libc;
use operator::types::{ExecRequest, Exit, Window};
use operator::{Code, ExecControl, ExecEnds, ExecOutput, ExecSession, Fault};
use redactor::stream::{SILENCE, Streaming};
use redactor::{End, SharedRedactor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agents::mend;
use super::terminal::Terminal;

/// Bytes that are read at once from a process's output.
const CHUNK: usize = 16 * 1024;
/// How long a process whose client left has between SIGHUP and SIGKILL, and how long its end is waited for
/// after SIGKILL.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// How long to wait for more output after the process ended: a child of it may hold the pipe open for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// How long a client waits for the end of what its session left behind. A process that the kernel can't end
/// holds up no client.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// How long to wait before the next search for what could not be ended.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How many sessions' leftovers are searched for at a time: init must have room for the agents' searches too.
static SEARCHES: Semaphore = Semaphore::const_new(16);
/// Bytes of output that are forwarded after the process ended, however long the client takes to read them: as
/// much as a pipe can hold (`fs.pipe-max-size`, pipe(7)), since the process may have written all of that.
const LAST_BYTES: usize = 1 << 20;

/// Starts exec sessions.
#[derive(Clone)]
pub struct Exec {
    /// Number of the supervisor in its heart's life, of all that were started: no two of them give their
    /// sessions one name.
    supervisor: u32,
    init: InitClient,
    redactor: SharedRedactor,
    /// Variables that hold placeholders of credentials.
    placeholders: Vec<(String, String)>,
    /// Those that are under way.
    sessions: TaskTracker,
    /// The sandbox is over, and its sessions with it.
    over: CancellationToken,
}

/// A started process and our ends of its streams.
struct Started {
    record: ProcessRecord,
    events: broadcast::Receiver<Event>,
    streams: Streams,
}

enum Streams {
    Pipes { stdin: Option<pipe::Sender>, stdout: pipe::Receiver, stderr: pipe::Receiver },
    Terminal(Terminal),
}

impl Exec {
    /// For the `supervisor`th supervisor of a heart.
    pub fn new(
        supervisor: u32,
        init: InitClient,
        redactor: SharedRedactor,
        placeholders: Vec<(String, String)>,
    ) -> Self {
        let (sessions, over) = (TaskTracker::new(), CancellationToken::new());
        Self { supervisor, init, redactor, placeholders, sessions, over }
    }

    /// Ends all sessions and waits until each client has its exit code, but no longer than `patience`.
    pub async fn end(&self, patience: Duration) {
        self.over.cancel();
        self.sessions.close();
        let _ = timeout(patience, self.sessions.wait()).await;
    }

    /// Starts a process; answers when it runs. Where nobody waits for the answer any more (the client left,
    /// its time was up, the operator actor died), the process is hung up as soon as it runs: so none of this
    /// happens in the caller's own future, which may end at any time.
    pub async fn start(&self, request: ExecRequest) -> Result<ExecSession, Fault> {
        let (answer, answered) = oneshot::channel();
        let exec = self.clone();
        self.sessions.spawn(async move {
            match exec.spawn(&request).await {
                Ok(started) => {
                    let (session, ends) = ExecSession::pair();
                    // If nobody takes the session it is dropped, which counts as the client's leaving.
                    let _ = answer.send(Ok(session));
                    exec.accompany(started, ends).await;
                }
                Err(fault) => drop(answer.send(Err(fault))),
            }
        });
        answered.await.unwrap_or_else(|_| Err(Fault::new(Code::Internal, "starting the process failed")))
    }

    /// Hangs up the sessions of earlier supervisors, and has init forget them, since its table is bounded.
    /// The agents' processes stay.
    pub async fn clear_away(self, agents: Vec<Arc<str>>) {
        let records = loop {
            match self.init.list().await {
                Ok(records) => break records,
                Err(ClientError::Closed) => return,
                Err(why) => {
                    tracing::warn!(%why, "exec sessions of an earlier supervisor may run on; they are looked for again");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        };
        let left = records.into_iter().filter(|record| {
            !record.agent.starts_with(&self.prefix()) && agents.iter().all(|name| **name != *record.agent)
        });
        join_all(left.map(async |record| {
            if record.state == ProcessState::Running {
                self.hang_up(record.process, libc::SIGHUP).await;
            }
            self.forget(record).await;
        }))
        .await;
    }

    /// What the names of this supervisor's sessions begin with in init's table. No agent can have one: the
    /// names of agents have no dots.
    fn prefix(&self) -> String {
        format!("exec.{}.", self.supervisor)
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Started, Fault> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let name = format!("{}{}", self.prefix(), COUNT.fetch_add(1, Ordering::Relaxed));
        let spec = spec(&name, request, &self.placeholders)?;
        // Before the start, so that the end of a short process is not missed.
        let events = self.init.events();
        let program = request.command.first().map_or("", String::as_str);
        let refused = |error| refused(program, &error);
        let broken = |e: io::Error| Fault::new(Code::Internal, format!("pipes: {e}"));
        let (record, streams) = match request.tty {
            Some(Window { rows, cols }) => {
                let spawned = self.init.spawn_pty(&name, &spec, rows, cols).await.map_err(refused)?;
                let Spawned { record, pty } = spawned;
                let master = pty.ok_or_else(|| Fault::new(Code::Internal, "init gave no terminal"))?;
                (record, Streams::Terminal(Terminal::new(master).map_err(broken)?))
            }
            None => {
                let (theirs, streams) = pipes(request.stdin).map_err(broken)?;
                (self.init.spawn(&name, &spec, theirs).await.map_err(refused)?.record, streams)
            }
        };
        Ok(Started { record, events, streams })
    }

    async fn accompany(self, started: Started, ends: ExecEnds) {
        let ExecEnds { stdin, control, output } = ends;
        let Started { record, mut events, streams } = started;
        let process = record.process;
        let mut copying = tokio::task::JoinSet::new();
        let (over, rest) = watch::channel(false);
        let rest = || Rest { over: rest.clone(), since: None, patience: LAST_OUTPUT, read: 0 };
        let window = match streams {
            Streams::Pipes { stdin: pipe, stdout, stderr } => {
                let (redactor, to) = (|| self.redactor.clone(), || output.clone());
                copying.spawn(copy_out(stdout, redactor(), to(), ExecOutput::Stdout, rest()));
                copying.spawn(copy_out(stderr, redactor(), to(), ExecOutput::Stderr, rest()));
                tokio::spawn(copy_in(stdin, pipe));
                None
            }
            Streams::Terminal(terminal) => {
                copying.spawn(copy_out(
                    terminal.clone(),
                    self.redactor.clone(),
                    output.clone(),
                    ExecOutput::Stdout,
                    rest(),
                ));
                tokio::spawn(copy_in(stdin, Some(terminal.clone())));
                Some(terminal)
            }
        };
        let first = if window.is_some() { libc::SIGHUP } else { libc::SIGTERM };
        let ended = tokio::select! {
            status = self.ended(process, &mut events) => status,
            status = self.end_with_sandbox(process, first) => status,
            // The client left.
            () = self.obey(process, control, window) => self.hang_up(process, libc::SIGHUP).await,
        };
        // Waits for a client that reads slowly, not for one that is gone. The exit code comes last: it tells
        // the client that the output is complete.
        let _ = over.send(true);
        while copying.join_next().await.is_some() {}
        let forgetting = tokio::spawn(async move { self.forget(record).await });
        let _ = timeout(LEFT_BEHIND, forgetting).await;
        let last = match ended {
            Some(status) => ExecOutput::Exit(exit(status)),
            None => ExecOutput::Failed(Fault::new(Code::Internal, "the process was lost")),
        };
        let _ = output.send(last).await;
        // Taken to the client, or the client has left.
        output.closed().await;
    }

    /// Once the sandbox is over has the process end, by the signal `first` that it may mind.
    async fn end_with_sandbox(&self, process: ProcessId, first: i32) -> Option<ExitStatus> {
        self.over.cancelled().await;
        self.hang_up(process, first).await
    }

    /// Ends what a session has left behind, and has init forget the session once its process is gone. A
    /// killed one may take long to be: until then a search spares what is below it. The first search comes
    /// before init forgets: as long as the row exists, a later supervisor finds it.
    async fn forget(&self, ProcessRecord { process, agent, .. }: ProcessRecord) {
        let search = async || {
            let _turn = SEARCHES.acquire().await;
            self.init.kill_strays(&agent).await
        };
        loop {
            // Asked before the search, which must come after the end.
            let runs = matches!(self.look(process).await, Some(ProcessState::Running));
            let found = search().await;
            if !runs {
                let _ = self.init.forget(process).await;
            }
            let why = match found {
                Err(why @ (ClientError::Refused(_) | ClientError::TimedOut)) => why.to_string(),
                Ok(()) if runs => "its process has yet to end".to_owned(),
                _ => return,
            };
            tracing::warn!(session = agent, %why, "what an exec session left behind runs on; it is looked for again");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A process as init's table has it. `None` if init is gone or its table has no such process.
    async fn look(&self, process: ProcessId) -> Option<ProcessState> {
        loop {
            match self.init.list().await {
                Ok(all) => return all.into_iter().find(|r| r.process == process).map(|record| record.state),
                // The question itself waits long.
                Err(ClientError::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until the process ends. `None` if init is gone or its table has no such process.
    async fn ended(&self, process: ProcessId, events: &mut broadcast::Receiver<Event>) -> Option<ExitStatus> {
        loop {
            match events.recv().await {
                Ok(Event::Exited { process: which, status, .. }) if which == process => return Some(status),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
                // Events were missed: init's table is authoritative.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    if let ProcessState::Exited(status) = self.look(process).await? {
                        return Some(status);
                    }
                }
            }
        }
    }

    /// Does what the client says, until it leaves.
    async fn obey(
        &self,
        process: ProcessId,
        mut control: mpsc::Receiver<ExecControl>,
        window: Option<Terminal>,
    ) {
        while let Some(message) = control.recv().await {
            match message {
                ExecControl::Signal(signo) => drop(self.init.signal(process, signo).await),
                ExecControl::Resize(size) => {
                    if let Some(terminal) = &window {
                        terminal.resize(size.rows, size.cols);
                    }
                }
            }
        }
    }

    /// Sends `first`, then SIGKILL, and waits for the end after each, since init forgets no running process.
    async fn hang_up(&self, process: ProcessId, first: i32) -> Option<ExitStatus> {
        let mut events = self.init.events();
        // It may have ended before these events began.
        if let ProcessState::Exited(status) = self.look(process).await? {
            return Some(status);
        }
        for signo in [first, libc::SIGKILL] {
            let _ = self.init.signal(process, signo).await;
            if let Ok(ended) = timeout(HANG_UP_GRACE, self.ended(process, &mut events)).await {
                return ended;
            }
        }
        None
    }
}

/// How a process ended, in the control API's words.
pub(super) fn exit(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit { code: Some(code), signal: None },
        ExitStatus::Signal(signal) => Exit { code: None, signal: Some(signal) },
    }
}

fn spec(name: &str, request: &ExecRequest, placeholders: &[(String, String)]) -> Result<SpawnSpec, Fault> {
    if request.command.first().is_none_or(String::is_empty) {
        return Err(Fault::new(Code::CommandNotFound, "the command is empty: name a program"));
    }
    if let Some((name, _)) = placeholders.iter().find(|(name, _)| request.env.contains_key(name)) {
        return Err(Fault::new(Code::BadRequest, format!("{name} holds the placeholder of a credential")));
    }
    let mut extras: Vec<(String, String)> =
        request.env.clone().into_iter().chain(placeholders.iter().cloned()).collect();
    if request.tty.is_some() {
        extras.insert(0, ("TERM".into(), "xterm-256color".into()));
    }
    let environment = agent::environment::build(name, &extras);
    if let Some(dropped) = environment.dropped.first() {
        return Err(Fault::new(Code::BadRequest, format!("{dropped} can't be set inside")));
    }
    Ok(SpawnSpec {
        argv: request.command.iter().map(|word| word.clone().into_bytes()).collect(),
        env: environment.variables,
        cwd: request.cwd.clone().unwrap_or_else(|| agent::plan::WORKSPACE.into()).into_bytes(),
    })
}

/// The process's three descriptors, and our ends of them.
fn pipes(with_stdin: bool) -> io::Result<([OwnedFd; 3], Streams)> {
    let (out_read, out_write) = io::pipe()?;
    let (err_read, err_write) = io::pipe()?;
    let (in_read, in_write) = io::pipe()?;
    // Without standard input the write end is closed here, and the process reads end of file.
    let stdin = with_stdin.then(|| sender(in_write.into())).transpose()?;
    let streams =
        Streams::Pipes { stdin, stdout: receiver(out_read.into())?, stderr: receiver(err_read.into())? };
    Ok(([in_read.into(), out_write.into(), err_write.into()], streams))
}

fn sender(fd: OwnedFd) -> io::Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(fd)
}

fn receiver(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

async fn copy_in(mut from: mpsc::Receiver<Bytes>, to: Option<impl AsyncWriteExt + Unpin>) {
    let Some(mut to) = to else { return };
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn copy_out(
    mut from: impl AsyncReadExt + Unpin,
    redactor: SharedRedactor,
    to: mpsc::Sender<ExecOutput>,
    as_output: fn(Bytes) -> ExecOutput,
    mut rest: Rest,
) {
    let mut streaming = Streaming::new(redactor);
    let mut buffer = vec![0; CHUNK];
    loop {
        let wait = if streaming.held() > 0 { SILENCE } else { Duration::MAX };
        let asked = rest.look();
        let read = tokio::select! {
            // Output that is ready comes before the time-out.
            biased;
            read = timeout(wait, from.read(&mut buffer)), if !rest.is_enough() => read,
            () = rest.waited() => Ok(Ok(0)),
        };
        rest.count(asked, read.as_ref().map_or(0, |read| *read.as_ref().unwrap_or(&0)));
        let (shown, ended) = match read {
            Err(_) => (streaming.silence(), false),
            // A terminal whose processes are gone returns an error: that is the end.
            Ok(Ok(0) | Err(_)) => (streaming.finish(End::Eof), true),
            Ok(Ok(read)) => (streaming.push(buffer.get(..read).unwrap_or_default()), false),
        };
        if !shown.is_empty() && to.send(as_output(shown.into())).await.is_err() {
            return;
        }
        if ended {
            return;
        }
    }
}

/// Limits what is forwarded of an output after its process ended. What the process wrote is in the pipe by
/// then, and waits there as long as the client needs. Only what other processes may still write is limited,
/// so the time that the client takes isn't counted.
struct Rest {
    over: watch::Receiver<bool>,
    /// When this task first saw that the process had ended.
    since: Option<Instant>,
    patience: Duration,
    read: usize,
}

impl Rest {
    /// Notes the time if the process has ended. Returns the current time.
    fn look(&mut self) -> Instant {
        let now = Instant::now();
        if self.since.is_none() && *self.over.borrow() {
            self.since = Some(now);
        }
        now
    }

    /// Returns when no more output is to be waited for.
    async fn waited(&mut self) {
        drop(self.over.wait_for(|over| *over).await);
        self.look();
        if !self.is_enough() {
            tokio::time::sleep(self.patience).await;
        }
    }

    /// Whether everything that the process can have written was read, and other writers have had their time
    /// too.
    fn is_enough(&self) -> bool {
        self.read >= LAST_BYTES && self.since.is_some_and(|since| since.elapsed() >= LAST_OUTPUT)
    }

    /// Counts a wait that began at `asked`, and the `read` bytes that it brought.
    fn count(&mut self, asked: Instant, read: usize) {
        if let Some(since) = self.since {
            self.patience = self.patience.saturating_sub(asked.max(since).elapsed());
            self.read = self.read.saturating_add(read);
        }
    }
}

fn refused(program: &str, error: &ClientError) -> Fault {
    let ClientError::Refused(refusal) = error else {
        return Fault::new(Code::Unavailable, error.to_string());
    };
    let code = match refusal.exit_code() {
        127 => Code::CommandNotFound,
        126 => Code::NotExecutable,
        _ => Code::Internal,
    };
    Fault::new(code, mend(program, None, &refusal.to_string(), refusal.exit_code()))
}
