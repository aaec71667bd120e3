//! Every limit of the control socket, each with its reason.

use std::time::Duration;

/// Connections at one time; a 65th gets a 503. A terminal UI uses three.
pub const MAX_CONNECTIONS: usize = 64;
/// Of those, exec sessions, event streams and logs, which may last. A 49th gets a 503. The rest is left for
/// calls, which end by themselves: no number of sessions keeps the operator from `stop`.
pub const MAX_LASTING: usize = 48;
/// Headers of a request. Our own client sends five.
pub const MAX_HEADERS: usize = 32;
/// Bytes of a request's head (hyper's smallest is 8 KiB).
pub const MAX_HEAD: usize = 16 * 1024;
/// How long a request's head may take, and how long a connection may idle between requests.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a JSON body. An `exec` with a long command line fits (ARG_MAX of one argument is 128 KiB).
pub const MAX_JSON: usize = 256 * 1024;
/// Bytes of a policy. The largest known has 60 KiB.
pub const MAX_POLICY: usize = 1024 * 1024;
/// How long a body may take.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// How long the answer to a call may take; `policy set --restart-agents` waits for agents to stop.
pub const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Time without an event after which a comment is sent on an event stream, so that a dead reader is noticed.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a connection that is refused may take to begin its request, before it gets its refusal all the
/// same.
pub const DISMISSAL: Duration = Duration::from_secs(1);
/// Payload of one exec frame, in bytes: a pipe's worth.
pub const MAX_FRAME: usize = 64 * 1024;
/// Bytes of standard input that the client may send ahead of what the process took.
pub const STDIN_WINDOW: usize = 256 * 1024;
/// Frames queued each way of an exec session before the sender waits.
pub const EXEC_QUEUE: usize = 16;
/// Maximal number of arguments of an exec, and of variables.
pub const MAX_ARGUMENTS: usize = 4096;
/// Maximal bytes of an answer that the client reads as a whole.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long the client waits for a connection and for an answer to a question. It comes in milliseconds, or
/// after a restart of the supervisor; one that is stopped or hangs gives none.
pub const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// As [`QUESTION_DEADLINE`], for what is to be done: a little more than the server's own deadline.
pub const CLIENT_DEADLINE: Duration = Duration::from_secs(65);
