//! Finds what a seccomp program answers by interpreting it: for calls that can't be tried, since the right
//! answer ends the process (and leaves a line in the host's kernel log at every start).
//!
//! The interpreter knows only the instructions that our programs use. Any other gives no answer, which the
//! proof takes for a wrong one.

use seccompiler::sock_filter;

/// What a filter sees of a call (linux/seccomp.h, `struct seccomp_data`), without the arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) number: u32,
    /// `AUDIT_ARCH_*`.
    pub(crate) architecture: u32,
}

/// The action (`SECCOMP_RET_*` with its data) for a call with all arguments zero; `None` when the program
/// isn't one of ours.
pub(crate) fn answer(program: &[sock_filter], call: Call) -> Option<u32> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    // Jumps only lead forward, so this ends.
    loop {
        let step = program.get(at)?;
        at += 1;
        let taken = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match u32::from(step.code) {
            LOAD => {
                accumulator = match step.k {
                    0 => call.number,
                    4 => call.architecture,
                    8..64 => 0,
                    _ => return None,
                }
            }
            AND => accumulator &= step.k,
            JUMP => at = at.checked_add(usize::try_from(step.k).ok()?)?,
            EQUAL => at += taken(accumulator == step.k),
            GREATER => at += taken(accumulator > step.k),
            ANY_BIT => at += taken(accumulator & step.k != 0),
            AT_LEAST => at += taken(accumulator >= step.k),
            RETURN => return Some(step.k),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::seccomp::{AUDIT_ARCH, Filter};

    fn ask(number: i64, architecture: u32) -> u32 {
        let filter = Filter::compile(true).unwrap();
        answer(filter.program(), Call { number: u32::try_from(number).unwrap(), architecture }).unwrap()
    }

    #[test]
    fn it_answers_as_the_kernel_does() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        assert_eq!(ask(libc::SYS_read, AUDIT_ARCH), libc::SECCOMP_RET_ALLOW);
        assert_eq!(ask(libc::SYS_ptrace, AUDIT_ARCH), refused);
        // Judged by its arguments: AF_UNSPEC is none of the listed families.
        assert_eq!(ask(libc::SYS_socket, AUDIT_ARCH), refused);
        assert_eq!(ask(libc::SYS_clone3, AUDIT_ARCH), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        assert_eq!(ask(libc::SYS_connect, AUDIT_ARCH), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(ask(libc::SYS_sendto, AUDIT_ARCH), libc::SECCOMP_RET_ALLOW);
        assert_eq!(ask(libc::SYS_read, 3), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn what_it_does_not_know_has_no_answer() {
        assert_eq!(answer(&[], Call { number: 0, architecture: 0 }), None);
        let odd = sock_filter { code: 0xffff, jt: 0, jf: 0, k: 0 };
        assert_eq!(answer(&[odd], Call { number: 0, architecture: 0 }), None);
    }
}
