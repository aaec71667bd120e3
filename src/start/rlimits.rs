//! Refuses a start under limits of the operator's shell (setrlimit(2)) that the sandbox's own processes can't
//! live with. Checked before anything is made, since what fails later by such a limit names only what it was
//! doing at that moment.
//!
//! Must stay a floor, not a wish: what works, if only just, is let through.

use nix::sys::resource::{Resource, getrlimit};

use crate::failure::Failure;

/// A limit and what it must allow.
struct Floor {
    resource: Resource,
    /// What it bounds.
    of: &'static str,
    least: u64,
    /// The option of prlimit(1), which counts as the kernel does; shells' own commands count in units of
    /// their own.
    option: &'static str,
}

const FLOORS: &[Floor] = &[
    // Root's sandboxes have users of their own; an ordinary user's other processes count too.
    Floor { resource: Resource::RLIMIT_NPROC, of: "processes and threads", least: 64, option: "nproc" },
    // The first records, and sealed files of certificates.
    Floor { resource: Resource::RLIMIT_FSIZE, of: "bytes in a file", least: 4 << 20, option: "fsize" },
    Floor { resource: Resource::RLIMIT_DATA, of: "bytes of memory", least: 256 << 20, option: "data" },
];

/// Refuses the first limit that is too low. Not of open files: a hundred are enough for a start, we raise
/// that limit where it may be raised, and what fails by it says so.
pub fn check() -> Result<(), Failure> {
    for floor in FLOORS {
        let (soft, _) = getrlimit(floor.resource).map_err(std::io::Error::from)?;
        check_one(floor, soft)?;
    }
    Ok(())
}

fn check_one(floor: &Floor, limit: u64) -> Result<(), Failure> {
    if limit >= floor.least {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "this shell allows {limit} {}, and a sandbox needs {least}: `prlimit --pid $$ --{}={least}:`, or start it where more is allowed",
        floor.of,
        floor.option,
        least = floor.least,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_its_floor_is_refused_with_a_command() {
        for floor in FLOORS {
            assert!(check_one(floor, floor.least).is_ok());
            assert!(check_one(floor, nix::sys::resource::RLIM_INFINITY).is_ok());
            let said = check_one(floor, floor.least - 1).unwrap_err().message;
            let mend = format!("`prlimit --pid $$ --{}={}:`", floor.option, floor.least);
            assert!(said.contains(&mend), "{said}");
        }
    }
}
