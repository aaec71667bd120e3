//! The operator's side: asks a sandbox's builder for another cage.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::wish::{Answer, Wish, operator_at, packed};
use crate::failure::Failure;
use crate::state::{BUILD_SOCKET, Name, Root, connect_in};
use crate::waits;

/// Bytes of all answers at most.
const ANSWERS_MAX: u64 = 1 << 20;

/// The outcome of a wish.
pub enum Came {
    /// The agents run in another cage. Holds the policy's warnings.
    Moved(Vec<String>),
    /// No other cage is needed.
    Same,
    /// The sandbox has no builder that can be reached.
    NoBuilder(io::Error),
}

/// Has the agents of a service moved into the cage of another policy, if that policy needs another cage.
/// Returns once they run in it. `building` is called when another cage is being built.
///
/// # Errors
/// Why the agents still run where they ran, or that it isn't known where they run.
pub fn another_cage(root: &Root, name: &Name, wish: &Wish, building: impl Fn()) -> Result<Came, Failure> {
    let mut builder = match builder(root, name) {
        Ok(builder) => builder,
        Err(error) => return Ok(Came::NoBuilder(error)),
    };
    let patience = waits::of_a_move();
    let lost = |e: io::Error| {
        let why = match e.kind() {
            io::ErrorKind::WouldBlock => format!("no answer within {} s", patience.as_secs()),
            _ => e.to_string(),
        };
        Failure::refused(format!(
            "whether the agents of '{name}' run in another cage is not known ({why}): see `cofferdam status {name}`"
        ))
    };
    builder.set_read_timeout(Some(patience)).map_err(lost)?;
    builder.set_write_timeout(Some(patience)).map_err(lost)?;
    builder.write_all(&packed(wish)?).map_err(lost)?;
    builder.shutdown(Shutdown::Write).map_err(lost)?;
    for line in BufReader::new(builder.take(ANSWERS_MAX)).lines() {
        let answer = serde_json::from_str(&line.map_err(lost)?);
        match answer.map_err(|_| lost(io::ErrorKind::InvalidData.into()))? {
            Answer::Building => building(),
            Answer::Stands { warnings } => return Ok(Came::Moved(warnings)),
            Answer::Same => return Ok(Came::Same),
            Answer::Refused { why } => return Err(Failure::refused(why)),
        }
    }
    Err(lost(io::ErrorKind::UnexpectedEof.into()))
}

fn builder(root: &Root, name: &Name) -> io::Result<UnixStream> {
    let directory = File::open(root.instance(name))?;
    let builder = connect_in(&directory, BUILD_SOCKET)?;
    // Another user who made a socket of that name would be sent the policy, and would be believed.
    operator_at(&builder)?;
    Ok(builder)
}
