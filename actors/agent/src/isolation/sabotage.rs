//! Parts of the system call filter left out on purpose, so that a test sees the proof notice.
//!
//! Nothing here does anything in a release build: [`CagePlan::sabotaged`] is `false` there whatever the plan
//! says.

use super::seccomp::{AUDIT_ARCH, Filter, X32_BIT};
use crate::plan::{CagePlan, Control};
use seccompiler::sock_filter;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Calls that a control stands for, as numbers of this processor.
fn calls(control: Control) -> Vec<i64> {
    match control {
        Control::SocketFamilies => vec![libc::SYS_socket],
        Control::TerminalInjection => vec![libc::SYS_ioctl],
        Control::NamespaceCalls => vec![libc::SYS_unshare, libc::SYS_setns, libc::SYS_clone],
        Control::SetIdBits => vec![libc::SYS_openat],
        _ => Vec::new(),
    }
}

/// Takes the sabotaged parts out of a filter, by instructions in front of it that allow what they refuse.
pub(crate) fn weaken(filter: &mut Filter, plan: &CagePlan) {
    let mut front = Vec::new();
    for control in Control::ALL.iter().filter(|control| plan.sabotaged(**control)) {
        for number in calls(*control).into_iter().filter_map(|number| u32::try_from(number).ok()) {
            front.extend([
                step(LOAD, 0, 0, 0),
                step(EQUAL, 0, 1, number),
                step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
            ]);
        }
    }
    if plan.sabotaged(Control::ForeignCalls) {
        front.extend([
            step(LOAD, 0, 0, 4),
            step(EQUAL, 1, 0, AUDIT_ARCH),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
            step(LOAD, 0, 0, 0),
            step(AT_LEAST, 0, 1, X32_BIT),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]);
    }
    front.append(filter.program_mut());
    *filter.program_mut() = front;
}
