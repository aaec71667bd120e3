//! prctl(2). Some of its options take pointers; those that this type offers take only integers.

use super::check_int;
use std::io;

/// What this process asks of the kernel, or tells it, about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prctl {
    /// 1 when other processes of the user may look into this one.
    Dumpable,
    SetDumpable(bool),
    /// 1 when no execution gains privileges.
    NoNewPrivileges,
    SetNoNewPrivileges,
    /// 2 under a filter.
    Seccomp,
    Securebits,
    SetSecurebits(libc::c_ulong),
    /// 1 when the bounding set has this capability.
    Bounding(u32),
    DropBounding(u32),
    /// 1 when the ambient set has this capability.
    Ambient(u32),
    ClearAmbient,
    /// See prctl(2), `PR_SET_MDWE` (Linux 6.3).
    Mdwe,
    SetMdwe(libc::c_ulong),
    /// The signal this process gets when its parent dies. Cleared by the kernel at every change of
    /// credentials.
    DieWithParent(libc::c_int),
}

impl Prctl {
    fn arguments(self) -> (libc::c_int, [libc::c_ulong; 2]) {
        const PR_SET_MDWE: libc::c_int = 65;
        const PR_GET_MDWE: libc::c_int = 66;
        match self {
            Self::Dumpable => (libc::PR_GET_DUMPABLE, [0, 0]),
            Self::SetDumpable(on) => (libc::PR_SET_DUMPABLE, [on.into(), 0]),
            Self::NoNewPrivileges => (libc::PR_GET_NO_NEW_PRIVS, [0, 0]),
            Self::SetNoNewPrivileges => (libc::PR_SET_NO_NEW_PRIVS, [1, 0]),
            Self::Seccomp => (libc::PR_GET_SECCOMP, [0, 0]),
            Self::Securebits => (libc::PR_GET_SECUREBITS, [0, 0]),
            Self::SetSecurebits(bits) => (libc::PR_SET_SECUREBITS, [bits, 0]),
            Self::Bounding(number) => (libc::PR_CAPBSET_READ, [number.into(), 0]),
            Self::DropBounding(number) => (libc::PR_CAPBSET_DROP, [number.into(), 0]),
            Self::Ambient(number) => {
                (libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong, number.into()])
            }
            Self::ClearAmbient => {
                (libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0])
            }
            Self::Mdwe => (PR_GET_MDWE, [0, 0]),
            Self::SetMdwe(bits) => (PR_SET_MDWE, [bits, 0]),
            Self::DieWithParent(signo) => (libc::PR_SET_PDEATHSIG, [signo as libc::c_ulong, 0]),
        }
    }
}

pub(crate) fn prctl(what: Prctl) -> io::Result<libc::c_int> {
    let (option, [first, second]) = what.arguments();
    // SAFETY: by the type an option whose arguments are integers, and whose answer is what the call returns.
    check_int(unsafe { libc::prctl(option, first, second, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}
