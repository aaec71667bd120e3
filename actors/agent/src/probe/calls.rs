//! System calls that must be refused, by the answer that only the filter gives.

use super::{Expect, Probe, Scene};
use crate::isolation::judge::{self, Call};
use crate::isolation::seccomp::{self, AUDIT_ARCH};
use crate::plan::Control;
use crate::sys;
use crate::sys::attempt::Attempt;
use std::io;
use std::os::fd::AsFd;

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::{NamespaceCalls, Seccomp, SocketFamilies, TerminalInjection};
    if scene.confinement.filter.is_none() && !scene.plan.sabotaged(Seccomp) {
        // The filter is missing, which was reported when it was compiled.
        return;
    }
    let refused: &[(&str, Control, Attempt)] = &[
        ("mount", Seccomp, Attempt::MOUNT),
        ("umount2", Seccomp, Attempt::UMOUNT2),
        ("pivot_root", Seccomp, Attempt::PIVOT_ROOT),
        ("chroot", Seccomp, Attempt::CHROOT),
        ("fsopen", Seccomp, Attempt::FSOPEN),
        ("open_tree", Seccomp, Attempt::OPEN_TREE),
        ("unshare a user namespace", NamespaceCalls, Attempt::UNSHARE_A_USER_NAMESPACE),
        ("unshare descriptors", NamespaceCalls, Attempt::UNSHARE_DESCRIPTORS),
        (
            "share descriptors with another process",
            NamespaceCalls,
            Attempt::SHARE_DESCRIPTORS_WITH_ANOTHER_PROCESS,
        ),
        ("setns", NamespaceCalls, Attempt::SETNS),
        ("ptrace", Seccomp, Attempt::PTRACE),
        ("process_vm_readv", Seccomp, Attempt::PROCESS_VM_READV),
        ("pidfd_getfd", Seccomp, Attempt::PIDFD_GETFD),
        ("kcmp", Seccomp, Attempt::KCMP),
        ("bpf", Seccomp, Attempt::BPF),
        ("perf_event_open", Seccomp, Attempt::PERF_EVENT_OPEN),
        ("io_uring_setup", Seccomp, Attempt::IO_URING_SETUP),
        ("userfaultfd", Seccomp, Attempt::USERFAULTFD),
        ("keyctl", Seccomp, Attempt::KEYCTL),
        ("init_module", Seccomp, Attempt::INIT_MODULE),
        ("kexec_load", Seccomp, Attempt::KEXEC_LOAD),
        ("open_by_handle_at", Seccomp, Attempt::OPEN_BY_HANDLE_AT),
        ("memfd_secret", Seccomp, Attempt::MEMFD_SECRET),
        ("syslog", Seccomp, Attempt::SYSLOG),
        ("sethostname", Seccomp, Attempt::SETHOSTNAME),
        ("settimeofday", Seccomp, Attempt::SETTIMEOFDAY),
        ("personality", Seccomp, Attempt::PERSONALITY),
        ("a raw socket", SocketFamilies, Attempt::RAW_SOCKET),
        ("a packet socket", SocketFamilies, Attempt::PACKET_SOCKET),
        ("a vsock", SocketFamilies, Attempt::VSOCK),
        ("a crypto socket", SocketFamilies, Attempt::CRYPTO_SOCKET),
        ("a sock_diag socket", SocketFamilies, Attempt::SOCK_DIAG_SOCKET),
        ("renice init", Seccomp, Attempt::RENICE_INIT),
        ("limit init", Seccomp, Attempt::LIMIT_INIT),
        ("TIOCSTI with high bits", TerminalInjection, Attempt::TIOCSTI_WITH_HIGH_BITS),
    ];
    for (name, control, attempt) in refused {
        probe.try_it(name, *control, Expect::FailsWith(libc::EPERM), || attempt.make());
    }
    let unknown = [
        ("clone3", Attempt::CLONE3),
        ("openat2", Attempt::OPENAT2),
        ("a call of the future", Attempt::CALL_OF_THE_FUTURE),
    ];
    for (name, attempt) in unknown {
        probe.try_it(name, Seccomp, Expect::FailsWith(libc::ENOSYS), || attempt.make());
    }
    probe.try_it("TIOCSTI", TerminalInjection, Expect::FailsWith(libc::EPERM), || {
        sys::terminal::type_into(io::stdin().as_fd())
    });
    probe.holds("a seccomp filter is loaded", Seccomp, seccomp::is_loaded);
    foreign_tables(probe, scene);
}

/// Checks calls of other tables. They aren't tried, since the right answer is death: the very program that
/// this process has loaded is evaluated instead.
fn foreign_tables(probe: &mut Probe, scene: &Scene<'_>) {
    /// linux/audit.h: `AUDIT_ARCH_I386`, `AUDIT_ARCH_ARM`.
    const SMALL: u32 = if cfg!(target_arch = "x86_64") { 0x4000_0003 } else { 0x4000_0028 };
    let Some(filter) = &scene.confinement.filter else { return };
    let deadly = |number: u32, architecture: u32| {
        judge::answer(filter.program(), Call { number, architecture }) == Some(libc::SECCOMP_RET_KILL_PROCESS)
    };
    let getpid = u32::try_from(libc::SYS_getpid).unwrap_or_default();
    probe.holds("a call of the 32-bit table is deadly", Control::ForeignCalls, || Ok(deadly(20, SMALL)));
    probe.holds("a call of the x32 table is deadly", Control::ForeignCalls, || {
        Ok(deadly(seccomp::X32_BIT | getpid, AUDIT_ARCH))
    });
}
