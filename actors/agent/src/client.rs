//! Init as the supervisor sees it: async calls, and events for all that listen.
//!
//! Each caller enters its question in the table of open questions, then sends it itself; one task takes the
//! answers and gives each to its caller. The table's lock is never held for longer than one look-up. Callers
//! hold a cloneable [`InitClient`]. The channel outlives supervisors: replies to questions that this client
//! never asked, or that nobody waits for any more, are dropped (their descriptors closed). When the channel
//! ends, every open question ends with [`ClientError::Closed`]. One that gets no answer in its time ends with
//! [`ClientError::TimedOut`]: what it asked for may be done all the same.

mod open;
pub mod patience;

use crate::plan;
use crate::protocol::{
    Answer, CageReport, Connector, Event, ExitStatus, FromInit, Holder, Identity, MAX_SPAWN_SPEC, ProcessId,
    ProcessRecord, Refusal, Request, RequestId, SpawnSpec, Stdio, ToInit,
};
use crate::roots::RootFiles;
use crate::sys;
use crate::wire::{AsyncWire, Packet, WireError};
use open::{Answered, Open, Taking};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, oneshot};

/// Events a slow listener may lag behind before it must ask for the list instead.
const EVENTS: usize = 256;

/// Why a call to init failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Init said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The channel is gone; so is the sandbox.
    #[error("the sandbox's init is gone")]
    Closed,
    /// Init did not answer in time. It may have done what was asked, or do it yet; its answer is dropped.
    #[error("the sandbox's init does not answer")]
    TimedOut,
    /// Init answered something else than was asked (a fault in cofferdam).
    #[error("init gave the wrong kind of answer")]
    Unexpected,
    /// A system call failed on this side.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The question could not be encoded.
    #[error("{0}")]
    Wire(#[from] WireError),
}

/// A cloneable handle to init.
#[derive(Clone, Debug)]
pub struct InitClient {
    line: Arc<Line>,
    events: broadcast::Sender<Event>,
}

/// What all clones share.
#[derive(Debug)]
struct Line {
    wire: Arc<AsyncWire>,
    open: Open,
    next: AtomicU64,
    /// Dropped with the last clone, which ends the task that takes the answers.
    _in_use: oneshot::Sender<()>,
}

/// A started process.
#[derive(Debug)]
pub struct Spawned {
    /// Its row in init's table.
    pub record: ProcessRecord,
    /// The terminal's master, for [`Stdio::Pty`].
    pub pty: Option<OwnedFd>,
}

/// Who holds a socket.
#[derive(Debug)]
pub struct Holders {
    /// The processes that hold it.
    pub holders: Vec<Holder>,
    /// Who made the connection, if that was asked for.
    pub connector: Option<Connector>,
    /// The opened executables: that of an identity is `executables[identity.exe]`.
    pub executables: Vec<OwnedFd>,
}

impl InitClient {
    /// Takes the supervisor's end of the channel to init. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// The system call's.
    pub fn new(channel: OwnedFd) -> Result<Self, ClientError> {
        let (wire, open) = (Arc::new(AsyncWire::new(channel)?), Open::new());
        let (in_use, unused) = oneshot::channel();
        let (events, _) = broadcast::channel(EVENTS);
        supervision::essential(serve(Arc::clone(&wire), Taking(open.clone()), unused, events.clone()));
        let line = Line { wire, open, next: AtomicU64::new(first_id()), _in_use: in_use };
        Ok(Self { line: Arc::new(line), events })
    }

    /// Events from now on. A listener that lags gets an error from its receiver and must
    /// [`InitClient::list`].
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Returns how the cage came out; waits until it is built and proven.
    ///
    /// # Errors
    /// [`Refusal::Cage`] when it could not be.
    pub async fn report(&self) -> Result<CageReport, ClientError> {
        match self.ask(Request::Report, vec![]).await? {
            (Answer::Report(report), _) => Ok(report),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Starts a process on the given standard streams (0, 1, 2).
    ///
    /// # Errors
    /// [`Refusal::Exec`] or [`Refusal::BeforeExec`] with the kernel's reason; [`Refusal::AlreadyRunning`].
    pub async fn spawn(
        &self,
        agent: &str,
        spec: &SpawnSpec,
        streams: [OwnedFd; 3],
    ) -> Result<Spawned, ClientError> {
        let [stdin, stdout, stderr] = streams;
        self.spawn_with(agent, spec, Stdio::Given, vec![stdin, stdout, stderr]).await
    }

    /// Starts a process on a terminal of the sandbox's own.
    ///
    /// # Errors
    /// As [`InitClient::spawn`].
    pub async fn spawn_pty(
        &self,
        agent: &str,
        spec: &SpawnSpec,
        rows: u16,
        columns: u16,
    ) -> Result<Spawned, ClientError> {
        self.spawn_with(agent, spec, Stdio::Pty { rows, columns }, vec![]).await
    }

    async fn spawn_with(
        &self,
        agent: &str,
        spec: &SpawnSpec,
        stdio: Stdio,
        streams: Vec<OwnedFd>,
    ) -> Result<Spawned, ClientError> {
        let bytes = postcard::to_allocvec(spec).map_err(WireError::from)?;
        if bytes.len() as u64 > MAX_SPAWN_SPEC {
            return Err(Refusal::TooMany("bytes of arguments and environment".into()).into());
        }
        let mut fds = vec![sys::memfd::sealed(c"cofferdam-spawn", &bytes)?];
        fds.extend(streams);
        match self.ask(Request::Spawn { agent: agent.to_owned(), stdio }, fds).await? {
            (Answer::Spawned(record), fds) => Ok(Spawned { record, pty: fds.into_iter().next() }),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Sends a signal to a process and all others of its group.
    ///
    /// # Errors
    /// [`Refusal::UnknownProcess`].
    pub async fn signal(&self, process: ProcessId, signo: i32) -> Result<(), ClientError> {
        self.done(Request::Signal { process, signo }, vec![]).await
    }

    /// All processes of the table.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self) -> Result<Vec<ProcessRecord>, ClientError> {
        match self.ask(Request::List, vec![]).await? {
            (Answer::Processes(list), _) => Ok(list),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Drops an exited process from the table.
    ///
    /// # Errors
    /// [`Refusal::StillRunning`], [`Refusal::UnknownProcess`].
    pub async fn forget(&self, process: ProcessId) -> Result<(), ClientError> {
        self.done(Request::Forget { process }, vec![]).await
    }

    /// Notes that the end of an exited process was reported; its row stays.
    ///
    /// # Errors
    /// [`Refusal::StillRunning`], [`Refusal::UnknownProcess`].
    pub async fn note_end(&self, process: ProcessId) -> Result<(), ClientError> {
        self.done(Request::NoteEnd { process }, vec![]).await
    }

    /// Tells init how an agent ended in the cage before, see [`Request::Remember`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remember(&self, agent: &str, status: ExitStatus) -> Result<(), ClientError> {
        self.done(Request::Remember { agent: agent.to_owned(), status }, vec![]).await
    }

    /// A TCP listener inside; the same address gives the same listener.
    ///
    /// # Errors
    /// [`Refusal::System`], e.g. when an agent has the port.
    pub async fn listen_tcp(&self, address: SocketAddr) -> Result<OwnedFd, ClientError> {
        self.descriptor(Request::ListenTcp { address }).await
    }

    /// A listener for connections to any address at `port`; the same port gives the same listener.
    ///
    /// # Errors
    /// [`Refusal::System`], [`Refusal::TooMany`].
    pub async fn capture(&self, port: u16) -> Result<OwnedFd, ClientError> {
        self.descriptor(Request::Capture { port }).await
    }

    /// Stops all listeners of [`InitClient::capture`] except those of these ports, whoever holds them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn capture_only(&self, ports: &[u16]) -> Result<(), ClientError> {
        self.done(Request::CaptureOnly { ports: ports.to_vec() }, vec![]).await
    }

    /// Returns the packet socket that receives the refusals sent at the gate, see [`Request::Refusals`].
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where there is none.
    pub async fn refusals(&self) -> Result<OwnedFd, ClientError> {
        self.descriptor(Request::Refusals).await
    }

    /// A bound UDP socket inside; the same address gives the same socket.
    ///
    /// # Errors
    /// As [`InitClient::listen_tcp`].
    pub async fn bind_udp(&self, address: SocketAddr) -> Result<OwnedFd, ClientError> {
        self.descriptor(Request::BindUdp { address }).await
    }

    /// Connects to the loopback inside.
    ///
    /// # Errors
    /// See [`ClientError`]; among them a refused connection, where nobody listens there.
    pub async fn connect_tcp(&self, address: SocketAddr) -> Result<TcpStream, ClientError> {
        let socket = self.descriptor(Request::ConnectTcp { address }).await?;
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
        // It may still be connecting; a refusal shows here.
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error.into()),
            None => Ok(stream),
        }
    }

    /// A `NETLINK_SOCK_DIAG` socket of the sandbox's network namespace.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn diag(&self) -> Result<OwnedFd, ClientError> {
        self.descriptor(Request::Diag).await
    }

    /// Returns every process that holds the socket with this inode, with what is mapped into each, and who
    /// made the connection if `connector` asks for that.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`], [`Refusal::TooMany`]: the caller must deny. An empty list is an answer: deny
    /// too.
    pub async fn holders(&self, inode: u64, connector: bool) -> Result<Holders, ClientError> {
        match self.ask(Request::Holders { inode, mappings: true, connector }, vec![]).await? {
            (Answer::Holders { holders, connector: made_by }, executables) => {
                let opened = |identity: &Identity| usize::from(identity.exe) < executables.len();
                if made_by.is_some() == connector
                    && holders.iter().all(|h| opened(&h.process) && h.ancestors.iter().all(opened))
                {
                    Ok(Holders { holders, connector: made_by, executables })
                } else {
                    Err(ClientError::Unexpected)
                }
            }
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Opens the files in which programs inside look for their trusted roots.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn root_files(&self) -> Result<RootFiles, ClientError> {
        let open = async |name: &str| self.descriptor(Request::RunFile { name: name.to_owned() }).await;
        let (bundle, java) = tokio::try_join!(open(plan::CA_BUNDLE), open(plan::JAVA_STORE))?;
        Ok(RootFiles::new(bundle, java))
    }

    /// Kills what an ended agent left behind, see [`Request::KillStrays`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill_strays(&self, agent: &str) -> Result<(), ClientError> {
        self.done(Request::KillStrays { agent: agent.to_owned() }, vec![]).await
    }

    async fn done(&self, request: Request, fds: Vec<OwnedFd>) -> Result<(), ClientError> {
        match self.ask(request, fds).await? {
            (Answer::Done, _) => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    async fn descriptor(&self, request: Request) -> Result<OwnedFd, ClientError> {
        match self.ask(request, vec![]).await? {
            (Answer::Descriptor, fds) => fds.into_iter().next().ok_or(ClientError::Unexpected),
            _ => Err(ClientError::Unexpected),
        }
    }

    async fn ask(&self, request: Request, fds: Vec<OwnedFd>) -> Answered {
        let time = patience::with(&request);
        tokio::time::timeout(time, self.ask_and_wait(request, fds))
            .await
            .map_err(|_| ClientError::TimedOut)?
    }

    /// Sends a question and waits for its answer. When this future is dropped, the question leaves the table.
    async fn ask_and_wait(&self, request: Request, fds: Vec<OwnedFd>) -> Answered {
        let Line { wire, open, next, .. } = &*self.line;
        let id = RequestId(next.fetch_add(1, Ordering::Relaxed));
        // Entered before it is sent: the answer may come before the sending returns.
        let (_entered, reply) = open.enter(id).ok_or(ClientError::Closed)?;
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        wire.send(&ToInit { id, request }, &borrowed).await.map_err(|error| match error {
            WireError::Closed => ClientError::Closed,
            error => error.into(),
        })?;
        // Init has copies of its own: no pipe may be kept open here while init works.
        drop(fds);
        reply.await.map_err(|_| ClientError::Closed)?
    }
}

/// Gives answers to those who asked, until the channel ends or every client is gone.
async fn serve(
    wire: Arc<AsyncWire>,
    taking: Taking,
    mut unused: oneshot::Receiver<()>,
    events: broadcast::Sender<Event>,
) {
    loop {
        let packet = tokio::select! {
            packet = wire.recv::<FromInit>() => packet,
            _ = &mut unused => return,
        };
        match packet {
            Ok(Packet { body: FromInit::Reply { to, result }, fds }) => {
                if let Some(waiting) = taking.0.take(to) {
                    drop(waiting.send(result.map(|answer| (answer, fds)).map_err(ClientError::from)));
                }
            }
            // It is no fault that nobody listens: the table is what counts.
            Ok(Packet { body: FromInit::Event(event), .. }) => drop(events.send(event)),
            Err(WireError::Closed | WireError::Io(_)) => return,
            // Init is our own program: a packet that can't be read is a fault of ours. Go on: the question
            // that it answered stays open until its time is up, and nothing is let through meanwhile.
            Err(error) => tracing::error!(%error, "a packet from init could not be read"),
        }
    }
}

/// Returns the id that this client starts at: far from those of a predecessor on the same channel.
fn first_id() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's randomness is enough: the other side is our own program, so an overlap need only
    // be improbable.
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    /// Receives the next question, and returns its id.
    async fn heard(init: &AsyncWire) -> RequestId {
        init.recv::<ToInit>().await.unwrap().body.id
    }

    /// Whether the other end of a pipe has been closed, with all its copies.
    async fn is_over(read: OwnedFd) -> bool {
        let mut end = tokio::net::unix::pipe::Receiver::from_owned_fd(read).unwrap();
        tokio::io::AsyncReadExt::read(&mut end, &mut [0]).await.unwrap() == 0
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_ends_and_its_late_answer_is_dropped() {
        let (ours, theirs) = wire::pair().unwrap();
        let client = InitClient::new(ours).unwrap();
        let init = AsyncWire::new(theirs).unwrap();
        // The paused clock jumps ahead while every task waits.
        assert!(matches!(client.diag().await, Err(ClientError::TimedOut)));
        let late = heard(&init).await;
        assert!(client.line.open.take(late).is_none(), "nobody waits for it any more");
        let (read, write) = sys::fd::pipe().unwrap();
        let answer = FromInit::Reply { to: late, result: Ok(Answer::Descriptor) };
        init.send(&answer, &[write.as_fd()]).await.unwrap();
        drop(write);
        assert!(is_over(read).await, "its descriptor is closed");
        let (listed, ()) = tokio::join!(client.list(), async {
            let to = heard(&init).await;
            let answer = FromInit::Reply { to, result: Ok(Answer::Processes(Vec::new())) };
            init.send(&answer, &[]).await.unwrap();
        });
        assert!(listed.unwrap().is_empty(), "the next question has its own answer");
    }
}
