//! The first instructions, written by hand: what `seccompiler` can't express.
//!
//! ```text
//! another architecture, x32 ─▶ the process ends      connect ─▶ init is asked (it notes who connects; see init/connects.rs)
//! newer than the list, UNKNOWN ─▶ ENOSYS             a send that also connects (TCP Fast Open) ─▶ EOPNOTSUPP
//! ```
//! It must never end with anything but the call's number in the accumulator: the tree behind it reads it
//! there.

use super::table;
use seccompiler::{BpfProgram, SeccompAction, sock_filter};

#[cfg(target_arch = "x86_64")]
pub(crate) const AUDIT_ARCH: u32 = 62 | 0xC000_0000;
#[cfg(target_arch = "aarch64")]
pub(crate) const AUDIT_ARCH: u32 = 183 | 0xC000_0000;
/// linux/unistd.h: bit 30 marks the x32 table, which shares x86_64's architecture value.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// `SECCOMP_RET_USER_NOTIF` of linux/seccomp.h.
const ASK: u32 = 0x7fc0_0000;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `seccomp_data`, linux/seccomp.h.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// The lower half of the first argument (both processors are little-endian); eight bytes for each further
/// one.
const ARGUMENTS_AT: u32 = 16;

/// The calls that can open a connection by a flag, and which argument that is in.
const SENDS: [(i64, u32); 3] = [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)];

pub(super) const fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Ends a process that calls by another table, and leaves the number loaded.
pub(super) fn tables() -> BpfProgram {
    let kill = u32::from(SeccompAction::KillProcess);
    vec![
        step(LOAD_WORD, 0, 0, ARCHITECTURE_AT),
        step(IF_EQUAL, 1, 0, AUDIT_ARCH),
        step(RETURN, 0, 0, kill),
        step(LOAD_WORD, 0, 0, NUMBER_AT),
        step(IF_GREATER_OR_EQUAL, 0, 1, X32_BIT),
        step(RETURN, 0, 0, kill),
    ]
}

/// Answers ENOSYS to calls that an older kernel wouldn't have either.
pub(super) fn newer_than_the_list() -> BpfProgram {
    let unknown = u32::from(SeccompAction::Errno(libc::ENOSYS as u32));
    let mut program = vec![step(IF_GREATER, 0, 1, table::NEWEST), step(RETURN, 0, 0, unknown)];
    for number in table::UNKNOWN {
        program.extend([step(IF_EQUAL, 0, 1, *number), step(RETURN, 0, 0, unknown)]);
    }
    program
}

/// Has init asked about connect(2) if `asks`, and refuses sends that also connect.
pub(super) fn connecting(asks: bool) -> BpfProgram {
    let mut program = BpfProgram::new();
    if asks {
        program.extend([step(IF_EQUAL, 0, 1, libc::SYS_connect as u32), step(RETURN, 0, 0, ASK)]);
    }
    for (number, flags) in SENDS {
        // The error of a kernel without TCP Fast Open, after which programs connect first.
        let refused = u32::from(SeccompAction::Errno(libc::EOPNOTSUPP as u32));
        program.extend([
            step(IF_EQUAL, 0, 4, number as u32),
            step(LOAD_WORD, 0, 0, ARGUMENTS_AT + 8 * flags),
            step(IF_ANY_BIT, 0, 1, libc::MSG_FASTOPEN as u32),
            step(RETURN, 0, 0, refused),
            step(RETURN, 0, 0, u32::from(SeccompAction::Allow)),
        ]);
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the prologue on one call; `None` = falls through, with the number in the accumulator.
    fn run(number: i64, arguments: [u32; 6]) -> Option<u32> {
        let program = [tables(), newer_than_the_list(), connecting(true)].concat();
        let (mut at, mut accumulator) = (0, 0);
        while let Some(step) = program.get(at) {
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD_WORD => {
                    accumulator = match step.k {
                        NUMBER_AT => number as u32,
                        ARCHITECTURE_AT => AUDIT_ARCH,
                        other => arguments[((other - ARGUMENTS_AT) / 8) as usize],
                    };
                }
                IF_EQUAL => at += jump(accumulator == step.k),
                IF_GREATER_OR_EQUAL => at += jump(accumulator >= step.k),
                IF_GREATER => at += jump(accumulator > step.k),
                IF_ANY_BIT => at += jump(accumulator & step.k != 0),
                RETURN => return Some(step.k),
                other => panic!("{other}"),
            }
        }
        assert_eq!((at, accumulator), (program.len(), number as u32));
        None
    }

    #[test]
    fn every_way_to_connect_is_asked_about_or_refused() {
        assert_eq!(run(libc::SYS_connect, [3; 6]), Some(ASK));
        let refused = Some(u32::from(SeccompAction::Errno(libc::EOPNOTSUPP as u32)));
        let fast = libc::MSG_FASTOPEN as u32;
        for flags in [fast, fast | libc::MSG_NOSIGNAL as u32, u32::MAX] {
            assert_eq!(run(libc::SYS_sendto, [3, 0, 0, flags, 0, 0]), refused);
            assert_eq!(run(libc::SYS_sendmsg, [3, 0, flags, 0, 0, 0]), refused);
            assert_eq!(run(libc::SYS_sendmmsg, [3, 0, 0, flags, 0, 0]), refused);
        }
        let allowed = Some(u32::from(SeccompAction::Allow));
        for flags in [0, libc::MSG_NOSIGNAL as u32, !fast] {
            assert_eq!(run(libc::SYS_sendto, [fast, fast, fast, flags, fast, fast]), allowed);
            assert_eq!(run(libc::SYS_sendmsg, [fast, fast, flags, fast, fast, fast]), allowed);
            assert_eq!(run(libc::SYS_sendmmsg, [fast, fast, fast, flags, fast, fast]), allowed);
        }
        for number in [libc::SYS_read, libc::SYS_bind, libc::SYS_socket, libc::SYS_execve] {
            assert_eq!(run(number, [fast; 6]), None);
        }
    }
}
