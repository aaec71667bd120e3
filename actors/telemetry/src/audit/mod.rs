//! The audit log: `STATE/NAME/audit.jsonl`, one record on each line, which holds the hash of the one before.
//!
//! `event` says what is recorded, `record` how a line is made and checked, `sink` is what the rest of
//! cofferdam holds, `log` the queue and its writer's turn-taking, `file` what is written to, `ahead` the disk
//! that it has taken, `found` the files as they are found, `verify` the proof. A record is redacted before it
//! is written; one that cannot be written makes its caller refuse (fail closed).

mod ahead;
mod approval;
mod event;
mod file;
mod found;
mod lines;
mod log;
mod reached;
mod record;
mod sink;
mod verify;

pub use approval::{Approval, ApprovalChange};
pub use event::{
    ActorChange, AgentChange, Egress, Event, IdentityChange, Inference, Note, Phase, PolicyResult,
    SandboxChange, Text, Verdict, in_hex,
};
pub use file::Rotation;
pub use found::{AuditError, HEAD_NAME, LOG_NAME, open_all};
pub use lines::{Line, Lines, on_record};
pub use log::{AuditLog, Health, Options};
pub use record::{Record, RecordId};
pub use sink::{AuditUnavailable, Sink};
pub use verify::{Finding, Report, Trouble, verify};
