//! The operations of the control API, as one trait: the server knows nothing else of the sandbox.

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use tokio::sync::mpsc;

use crate::{
    fault::Fault,
    limits::EXEC_QUEUE,
    types::{
        AcceptIdentity, Accepted, Approval, ApprovalAnswer, Event, ExecRequest, Exit, ForgetIdentity,
        Identity, LogQuery, PolicyChange, PolicyView, Status, Stop, TreeNode, Window,
    },
};

/// An answer that takes a moment. The server bounds it by [`crate::limits::CALL_DEADLINE`].
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// The process at the other end of a connection, as the kernel reports it; for the audit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The effective user id at the time of `connect`.
    pub uid: u32,
    /// The process id, for the record only: it proves nothing.
    pub pid: Option<i32>,
}

/// The operations. Implemented where all parts of the sandbox are at hand.
pub trait Control: Send + Sync + 'static {
    /// The whole state on one page.
    fn status(&self) -> Answer<'_, Status>;
    /// The live tree.
    fn tree(&self) -> Answer<'_, TreeNode>;
    /// Metrics in Prometheus' text format.
    fn metrics(&self) -> Answer<'_, String>;
    /// Events from now on. Bounded: a reader that lags loses events and sees the gap in `seq`.
    fn events(&self) -> BoxStream<'static, Event>;
    /// Redacted output of the agents, bytes as they were written.
    fn logs(&self, query: LogQuery) -> Answer<'_, BoxStream<'static, Bytes>>;
    /// The policy in force.
    fn policy(&self) -> Answer<'_, PolicyView>;
    /// Puts a policy in force, whole or not at all.
    fn set_policy(&self, by: Peer, text: String, restart_agents: bool) -> Answer<'_, PolicyChange>;
    /// What each program contained at its first use, by path.
    fn identities(&self) -> Answer<'_, Vec<Identity>>;
    /// Trusts a program's new content from now on. Answers with what is trusted then.
    fn accept_identity(&self, by: Peer, asked: AcceptIdentity) -> Answer<'_, Identity>;
    /// Forgets a program, so that its next use is a first one. Answers with what was trusted.
    fn forget_identity(&self, by: Peer, asked: ForgetIdentity) -> Answer<'_, Identity>;
    /// Every request that no policy entry names and that the operator was asked about.
    fn approvals(&self) -> Answer<'_, Vec<Approval>>;
    /// Answers one of those questions. Returns the question as it is then or, if the answer was revoked, as
    /// it was before.
    fn answer_approval(&self, by: Peer, id: String, answer: ApprovalAnswer) -> Answer<'_, Approval>;
    /// Stops an actor in order and restarts it. The name is a path such as `agents/hermes`.
    fn restart(&self, by: Peer, actor: String) -> Answer<'_, Accepted>;
    /// Makes an actor panic; refused unless fault injection is on.
    fn crash(&self, by: Peer, actor: String) -> Answer<'_, Accepted>;
    /// Ends the sandbox in order. Answers when that has begun.
    fn stop(&self, by: Peer, stop: Stop) -> Answer<'_, Accepted>;
    /// Starts another process under the same controls. Answers when it runs.
    fn exec(&self, by: Peer, request: ExecRequest) -> Answer<'_, ExecSession>;
}

/// A process started by [`Control::exec`], as its bounded queues.
#[derive(Debug)]
pub struct ExecSession {
    /// Bytes for the process's standard input or terminal. Dropping this ends the input.
    pub stdin: mpsc::Sender<Bytes>,
    /// Resizes and signals. Dropping this means that the client has left: the process is to be hung up.
    pub control: mpsc::Sender<ExecControl>,
    /// Output of the process; [`ExecOutput::Exit`] or [`ExecOutput::Failed`] comes last.
    pub output: mpsc::Receiver<ExecOutput>,
}

/// The implementer's ends of an [`ExecSession`].
#[derive(Debug)]
pub struct ExecEnds {
    /// Input from the client. On `None`, close the process's standard input.
    pub stdin: mpsc::Receiver<Bytes>,
    /// Resizes and signals from the client. On `None`, hang the process up.
    pub control: mpsc::Receiver<ExecControl>,
    /// Output for the client.
    pub output: mpsc::Sender<ExecOutput>,
}

impl ExecSession {
    /// Makes a session and the implementer's ends of it, with queues of [`EXEC_QUEUE`] entries.
    pub fn pair() -> (Self, ExecEnds) {
        let (stdin, stdin_end) = mpsc::channel(EXEC_QUEUE);
        let (control, control_end) = mpsc::channel(EXEC_QUEUE);
        let (output_end, output) = mpsc::channel(EXEC_QUEUE);
        let ends = ExecEnds { stdin: stdin_end, control: control_end, output: output_end };
        (Self { stdin, control, output }, ends)
    }
}

/// What a process gets beside its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecControl {
    /// The terminal's size changed.
    Resize(Window),
    /// A signal for its process group, 1 to 64.
    Signal(i32),
}

/// What comes back from a process.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecOutput {
    /// Its standard output, redacted; with a terminal, all output.
    Stdout(Bytes),
    /// Its standard error, redacted.
    Stderr(Bytes),
    /// The process ended. Comes last.
    Exit(Exit),
    /// cofferdam lost the process. Comes last.
    Failed(Fault),
}
