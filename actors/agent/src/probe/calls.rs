//! System calls that must be refused, by the answer that only the filter gives.

use super::{Expect, Probe, Scene};
use crate::isolation::judge::{self, Call};
use crate::isolation::seccomp::{self, AUDIT_ARCH};
use crate::plan::Control;
use crate::sys;
use std::io;
use std::os::fd::AsFd;

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::{NamespaceCalls, Seccomp, SocketFamilies, TerminalInjection};
    if scene.confinement.filter.is_none() && !scene.plan.sabotaged(Seccomp) {
        // Missing, and said so by whoever compiled it.
        return;
    }
    let refused: &[(&str, Control, libc::c_long, [libc::c_long; 5])] = &[
        ("mount", Seccomp, libc::SYS_mount, [0; 5]),
        ("umount2", Seccomp, libc::SYS_umount2, [0; 5]),
        ("pivot_root", Seccomp, libc::SYS_pivot_root, [0; 5]),
        ("chroot", Seccomp, libc::SYS_chroot, [0; 5]),
        ("fsopen", Seccomp, libc::SYS_fsopen, [0; 5]),
        ("open_tree", Seccomp, libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
        (
            "unshare a user namespace",
            NamespaceCalls,
            libc::SYS_unshare,
            [libc::CLONE_NEWUSER as libc::c_long, 0, 0, 0, 0],
        ),
        (
            "unshare descriptors",
            NamespaceCalls,
            libc::SYS_unshare,
            [libc::CLONE_FILES as libc::c_long, 0, 0, 0, 0],
        ),
        // Where the filter lets it pass, the kernel finds no sense in it: without memory in common there are no common signal handlers.
        (
            "share descriptors with another process",
            NamespaceCalls,
            libc::SYS_clone,
            [(libc::CLONE_FILES | libc::CLONE_SIGHAND) as libc::c_long, 0, 0, 0, 0],
        ),
        ("setns", NamespaceCalls, libc::SYS_setns, [-1, 0, 0, 0, 0]),
        ("ptrace", Seccomp, libc::SYS_ptrace, [libc::PTRACE_PEEKUSER as libc::c_long, 1, 0, 0, 0]),
        ("process_vm_readv", Seccomp, libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        ("pidfd_getfd", Seccomp, libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
        ("kcmp", Seccomp, libc::SYS_kcmp, [1, 1, 2, 0, 0]),
        ("bpf", Seccomp, libc::SYS_bpf, [-1, 0, 0, 0, 0]),
        ("perf_event_open", Seccomp, libc::SYS_perf_event_open, [0; 5]),
        ("io_uring_setup", Seccomp, libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("userfaultfd", Seccomp, libc::SYS_userfaultfd, [0; 5]),
        ("keyctl", Seccomp, libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        ("init_module", Seccomp, libc::SYS_init_module, [0; 5]),
        ("kexec_load", Seccomp, libc::SYS_kexec_load, [0; 5]),
        ("open_by_handle_at", Seccomp, libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
        ("memfd_secret", Seccomp, libc::SYS_memfd_secret, [-1, 0, 0, 0, 0]),
        ("syslog", Seccomp, libc::SYS_syslog, [3, 0, 0, 0, 0]),
        ("sethostname", Seccomp, libc::SYS_sethostname, [0, -1, 0, 0, 0]),
        ("settimeofday", Seccomp, libc::SYS_settimeofday, [0; 5]),
        ("personality", Seccomp, libc::SYS_personality, [0x0400_0000, 0, 0, 0, 0]),
        (
            "a raw socket",
            SocketFamilies,
            libc::SYS_socket,
            [libc::AF_INET as _, libc::SOCK_RAW as _, libc::IPPROTO_ICMP as _, 0, 0],
        ),
        (
            "a packet socket",
            SocketFamilies,
            libc::SYS_socket,
            [libc::AF_PACKET as _, libc::SOCK_RAW as _, 0, 0, 0],
        ),
        ("a vsock", SocketFamilies, libc::SYS_socket, [libc::AF_VSOCK as _, libc::SOCK_STREAM as _, 0, 0, 0]),
        (
            "a crypto socket",
            SocketFamilies,
            libc::SYS_socket,
            [libc::AF_ALG as _, libc::SOCK_SEQPACKET as _, 0, 0, 0],
        ),
        (
            "a sock_diag socket",
            SocketFamilies,
            libc::SYS_socket,
            [libc::AF_NETLINK as _, libc::SOCK_RAW as _, libc::NETLINK_SOCK_DIAG as _, 0, 0],
        ),
        ("renice init", Seccomp, libc::SYS_setpriority, [libc::PRIO_PROCESS as _, 1, 19, 0, 0]),
        ("limit init", Seccomp, libc::SYS_prlimit64, [1, libc::RLIMIT_NOFILE as _, 0, 0, 0]),
        // As an int the request is TIOCSTI: a filter that compares 64 bits lets it pass.
        (
            "TIOCSTI with high bits",
            TerminalInjection,
            libc::SYS_ioctl,
            [0, (1 << 32) | libc::TIOCSTI as libc::c_long, 0, 0, 0],
        ),
    ];
    for (name, control, number, arguments) in refused {
        probe.try_it(name, *control, Expect::FailsWith(libc::EPERM), || {
            sys::process::attempt(*number, *arguments)
        });
    }
    for (name, number) in
        [("clone3", libc::SYS_clone3), ("openat2", libc::SYS_openat2), ("a call of the future", 1000)]
    {
        let size = if number == 1000 { 0 } else { 1 };
        probe.try_it(name, Seccomp, Expect::FailsWith(libc::ENOSYS), || {
            sys::process::attempt(number, [0, size, 0, 0, 0])
        });
    }
    probe.try_it("TIOCSTI", TerminalInjection, Expect::FailsWith(libc::EPERM), || {
        sys::terminal::type_into(io::stdin().as_fd())
    });
    probe.holds("a seccomp filter is loaded", Seccomp, seccomp::is_loaded);
    foreign_tables(probe, scene);
}

/// Not tried, since the right answer is death, but judged by the very program that this process has loaded.
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
