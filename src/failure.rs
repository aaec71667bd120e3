//! How a command fails: an exit code, and a line that says what happened and what to do.
//!
//! A plain value: the caller that ends with it prints it ([`crate::console`]).

use std::io;

/// Why a command failed, and the code to exit with.
///
/// Exit codes are part of the contract: 125 refused or failed, 126 not executable, 127 not found.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// What happened and how to mend it: one line, or a rendered diagnostic.
    pub message: String,
}

/// cofferdam itself refused or failed.
pub const REFUSED: u8 = 125;

impl Failure {
    /// cofferdam refused or failed: exit code 125.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { code: REFUSED, message: message.into() }
    }

    /// A failure that was reported already (a listing that found faults): only the exit code is left.
    pub fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // A reader that has seen enough (`| head`) is not a failure worth a line.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(0);
        }
        Self::refused(error.to_string())
    }
}

/// What every command returns: the exit code to end with.
pub type Outcome = Result<u8, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code, 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::NotFound)).code, 125);
    }
}
