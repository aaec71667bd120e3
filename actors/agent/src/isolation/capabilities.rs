//! Capabilities: none, in no set, for good, and read back to be sure (capabilities(7)).

use crate::sys;
use caps::{CapSet, Capability};
use std::io;

/// Dropped from the bounding set first, by name: the ones with which a cage is broken.
pub const DROPPED_AT_START: &[Capability] = &[
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_NET_RAW,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_FSETID,
    Capability::CAP_SETFCAP,
    Capability::CAP_MKNOD,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Set to `1` (or implied by strict enforcement), a bounding set that isn't empty refuses the start.
pub const REQUIRE_CAP_DROP: &str = "COFFERDAM_REQUIRE_CAP_DROP";

/// linux/securebits.h: each of these, locked. Root gets no capability by being root, a change of user keeps none,
/// none can be made ambient.
const SECUREBITS: libc::c_ulong = {
    const NOROOT: libc::c_ulong = 1 << 0 | 1 << 1;
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2 | 1 << 3;
    const KEEP_CAPS_LOCKED: libc::c_ulong = 1 << 5;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 1 << 6 | 1 << 7;
    NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE
};

fn fault(error: &caps::errors::CapsError) -> io::Error {
    let last = io::Error::last_os_error();
    if last.raw_os_error().is_some_and(|code| code != 0) { last } else { io::Error::other(error.to_string()) }
}

/// Empties the bounding set: the named ones, then every other that the kernel knows. Needs CAP_SETPCAP.
///
/// # Errors
/// The kernel's.
pub fn empty_bounding() -> io::Result<()> {
    for capability in DROPPED_AT_START {
        caps::drop(None, CapSet::Bounding, *capability).map_err(|e| fault(&e))?;
    }
    // By number, so that one newer than the `caps` crate goes too; EINVAL is the kernel's "no more".
    for number in 0..64 {
        match sys::process::prctl(libc::PR_CAPBSET_DROP, number) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Locks the securebits. Needs CAP_SETPCAP, hence before [`clear_sets`].
///
/// # Errors
/// The kernel's.
pub fn lock_securebits() -> io::Result<()> {
    sys::process::prctl(libc::PR_SET_SECUREBITS, SECUREBITS).map(drop)
}

/// Clears the ambient, inheritable, permitted and effective sets.
///
/// # Errors
/// The kernel's.
pub fn clear_sets() -> io::Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(|e| fault(&e))?;
    caps::clear(None, CapSet::Inheritable).map_err(|e| fault(&e))?;
    caps::clear(None, CapSet::Effective).map_err(|e| fault(&e))?;
    caps::clear(None, CapSet::Permitted).map_err(|e| fault(&e))
}

/// What is left, read back from the kernel; empty when all is well.
///
/// # Errors
/// When the kernel can't be asked, which is as bad as a capability left.
pub fn remaining() -> io::Result<Vec<String>> {
    let mut left = Vec::new();
    for (set, name) in [
        (CapSet::Effective, "effective"),
        (CapSet::Permitted, "permitted"),
        (CapSet::Inheritable, "inheritable"),
        (CapSet::Ambient, "ambient"),
        (CapSet::Bounding, "bounding"),
    ] {
        for capability in caps::read(None, set).map_err(|e| fault(&e))? {
            left.push(format!("{name} {capability}"));
        }
    }
    Ok(left)
}
