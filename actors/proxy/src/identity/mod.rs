//! Identifies who holds the other end of a connection: the executables behind a socket, by content.
//!
//! ```text
//! (client, local) ── Diag ──> socket inode ── Processes ──> every holder ── Digests ──> hashes ── Pins ──> Caller
//!    the tuple      sock_diag                  /proc/PID/exe, opened          SHA-256        first use
//!                                             └────────── looked at again afterwards ──────────┘
//! ```
//! The identity of a process is the content and path of its executable and of its ancestors': never a command
//! line, a name or a process id (those the agent writes as it likes). Every uncertain case is denied: no
//! holder, several that differ, one that did not make the connection itself, one that changes while it is
//! looked at, a file that is deleted, replaced or lives in memory alone. This module decides nothing about
//! destinations.

mod diag;
mod digest;
mod identify;
mod pins;
mod processes;
mod refusal;

#[cfg(test)]
pub(crate) use diag::diag_for_tests;
pub use diag::{DIAG_DEADLINE, Diag, DiagError};
pub use digest::{Digests, HashError, MAX_EXECUTABLE_BYTES, Sha256Hash};
pub use identify::{IDENTIFY_DEADLINE, Identifier, Look, MAX_HOLDERS, ROUNDS};
pub use pins::{AcceptError, Accepted, Changed, MAX_PINNED_BYTES, MAX_PINS, Pinned, Pins, Unknown};
pub use processes::{ExecutableFile, Holder, HoldersError, Maker, Processes};
pub use refusal::Unidentified;
