//! The operator's side: asks a sandbox's builder for another cage.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Answer, operator_at};
use crate::cli::out::Failure;
use crate::plan::STOP_GRACE;
use crate::state::{BUILD_SOCKET, Name, Root, socket_path};

/// What building, stopping agents that don't care, and another supervisor's start can take together.
const PATIENCE: Duration = Duration::from_secs(60 + STOP_GRACE.as_secs());
/// Bytes of an answer at most.
const ANSWER_MAX: u64 = 1 << 20;

/// Has the agents of a service moved into the cage of another policy; comes back once they run in it.
///
/// # Errors
/// Why they run where they ran, or that nobody knows.
pub fn another_cage(root: &Root, name: &Name, policy: &str) -> Result<(), Failure> {
    let none = |e: io::Error| {
        Failure::refused(format!(
            "'{name}' has no builder that answers ({e}): stop it, and start it with the new policy"
        ))
    };
    let directory = File::open(root.instance(name)).map_err(none)?;
    let mut builder = UnixStream::connect(socket_path(&directory, BUILD_SOCKET)).map_err(none)?;
    // Who else made a socket of that name would be told the policy, and be believed.
    operator_at(&builder).map_err(none)?;
    let lost = |e: io::Error| {
        Failure::refused(format!(
            "whether the agents of '{name}' run in another cage is not known ({e}): see `cofferdam status {name}`"
        ))
    };
    builder.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
    builder.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
    // Its length first: half a policy is another one.
    builder.write_all(&(policy.len() as u64).to_le_bytes()).map_err(lost)?;
    builder.write_all(policy.as_bytes()).map_err(lost)?;
    builder.shutdown(Shutdown::Write).map_err(lost)?;
    let mut answer = Vec::new();
    builder.take(ANSWER_MAX).read_to_end(&mut answer).map_err(lost)?;
    match serde_json::from_slice(&answer).map_err(|_| lost(io::ErrorKind::UnexpectedEof.into()))? {
        Answer::Stands => Ok(()),
        Answer::Refused { why } => {
            Err(Failure::refused(format!("{why}\nthe agents go on under the policy in force")))
        }
    }
}
