//! System calls that the probe tries, and that have no wrapper elsewhere, since no confined process may make
//! them.
//!
//! Each is listed with its arguments, so that no other call can be made. The arguments are integers; where
//! the kernel expects memory, an address at which there is none (0 or 1), which it refuses itself. A call
//! that gets through, because the filter is left out, may change this process's rights or descriptors, but
//! never its memory.

use super::check;
use libc::c_long;
use std::io;

/// One such call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    number: c_long,
    arguments: [c_long; 5],
}

impl Attempt {
    pub(crate) const MOUNT: Self = Self::of(libc::SYS_mount, [0; 5]);
    pub(crate) const UMOUNT2: Self = Self::of(libc::SYS_umount2, [0; 5]);
    pub(crate) const PIVOT_ROOT: Self = Self::of(libc::SYS_pivot_root, [0; 5]);
    pub(crate) const CHROOT: Self = Self::of(libc::SYS_chroot, [0; 5]);
    pub(crate) const FSOPEN: Self = Self::of(libc::SYS_fsopen, [0; 5]);
    pub(crate) const OPEN_TREE: Self = Self::of(libc::SYS_open_tree, [-1, 0, 0, 0, 0]);
    pub(crate) const UNSHARE_A_USER_NAMESPACE: Self =
        Self::of(libc::SYS_unshare, [libc::CLONE_NEWUSER as c_long, 0, 0, 0, 0]);
    pub(crate) const UNSHARE_DESCRIPTORS: Self =
        Self::of(libc::SYS_unshare, [libc::CLONE_FILES as c_long, 0, 0, 0, 0]);
    /// If the filter lets it pass, the kernel refuses it as invalid: processes can't share signal handlers
    /// without sharing memory.
    pub(crate) const SHARE_DESCRIPTORS_WITH_ANOTHER_PROCESS: Self =
        Self::of(libc::SYS_clone, [(libc::CLONE_FILES | libc::CLONE_SIGHAND) as c_long, 0, 0, 0, 0]);
    pub(crate) const SETNS: Self = Self::of(libc::SYS_setns, [-1, 0, 0, 0, 0]);
    pub(crate) const PTRACE: Self = Self::of(libc::SYS_ptrace, [libc::PTRACE_PEEKUSER as c_long, 1, 0, 0, 0]);
    pub(crate) const PROCESS_VM_READV: Self = Self::of(libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]);
    pub(crate) const PIDFD_GETFD: Self = Self::of(libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]);
    pub(crate) const KCMP: Self = Self::of(libc::SYS_kcmp, [1, 1, 2, 0, 0]);
    pub(crate) const BPF: Self = Self::of(libc::SYS_bpf, [-1, 0, 0, 0, 0]);
    pub(crate) const PERF_EVENT_OPEN: Self = Self::of(libc::SYS_perf_event_open, [0; 5]);
    pub(crate) const IO_URING_SETUP: Self = Self::of(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]);
    pub(crate) const USERFAULTFD: Self = Self::of(libc::SYS_userfaultfd, [0; 5]);
    pub(crate) const KEYCTL: Self = Self::of(libc::SYS_keyctl, [0, -3, 0, 0, 0]);
    pub(crate) const INIT_MODULE: Self = Self::of(libc::SYS_init_module, [0; 5]);
    pub(crate) const KEXEC_LOAD: Self = Self::of(libc::SYS_kexec_load, [0; 5]);
    pub(crate) const OPEN_BY_HANDLE_AT: Self = Self::of(libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]);
    pub(crate) const MEMFD_SECRET: Self = Self::of(libc::SYS_memfd_secret, [-1, 0, 0, 0, 0]);
    pub(crate) const SYSLOG: Self = Self::of(libc::SYS_syslog, [3, 0, 0, 0, 0]);
    pub(crate) const SETHOSTNAME: Self = Self::of(libc::SYS_sethostname, [0, -1, 0, 0, 0]);
    pub(crate) const SETTIMEOFDAY: Self = Self::of(libc::SYS_settimeofday, [0; 5]);
    pub(crate) const PERSONALITY: Self = Self::of(libc::SYS_personality, [0x0400_0000, 0, 0, 0, 0]);
    pub(crate) const RAW_SOCKET: Self = Self::of(
        libc::SYS_socket,
        [libc::AF_INET as c_long, libc::SOCK_RAW as c_long, libc::IPPROTO_ICMP as c_long, 0, 0],
    );
    pub(crate) const PACKET_SOCKET: Self =
        Self::of(libc::SYS_socket, [libc::AF_PACKET as c_long, libc::SOCK_RAW as c_long, 0, 0, 0]);
    pub(crate) const VSOCK: Self =
        Self::of(libc::SYS_socket, [libc::AF_VSOCK as c_long, libc::SOCK_STREAM as c_long, 0, 0, 0]);
    pub(crate) const CRYPTO_SOCKET: Self =
        Self::of(libc::SYS_socket, [libc::AF_ALG as c_long, libc::SOCK_SEQPACKET as c_long, 0, 0, 0]);
    pub(crate) const SOCK_DIAG_SOCKET: Self = Self::of(
        libc::SYS_socket,
        [libc::AF_NETLINK as c_long, libc::SOCK_RAW as c_long, libc::NETLINK_SOCK_DIAG as c_long, 0, 0],
    );
    pub(crate) const RENICE_INIT: Self =
        Self::of(libc::SYS_setpriority, [libc::PRIO_PROCESS as c_long, 1, 19, 0, 0]);
    pub(crate) const LIMIT_INIT: Self =
        Self::of(libc::SYS_prlimit64, [1, libc::RLIMIT_NOFILE as c_long, 0, 0, 0]);
    /// The kernel takes the request as an int, which is TIOCSTI: a filter that compares 64 bits would let it
    /// pass.
    pub(crate) const TIOCSTI_WITH_HIGH_BITS: Self =
        Self::of(libc::SYS_ioctl, [0, (1 << 32) | libc::TIOCSTI as c_long, 0, 0, 0]);
    pub(crate) const CLONE3: Self = Self::of(libc::SYS_clone3, [0, 1, 0, 0, 0]);
    pub(crate) const OPENAT2: Self = Self::of(libc::SYS_openat2, [0, 1, 0, 0, 0]);
    /// A number that no kernel has.
    pub(crate) const CALL_OF_THE_FUTURE: Self = Self::of(1000, [0; 5]);
    /// The other way to connect, about which init would not be asked.
    pub(crate) const CONNECT_BY_SENDING: Self =
        Self::of(libc::SYS_sendto, [-1, 0, 0, libc::MSG_FASTOPEN as c_long, 0]);
    /// Signal 0: only checks whether init could be signalled.
    pub(crate) const SIGNAL_INIT: Self = Self::of(libc::SYS_kill, [1, 0, 0, 0, 0]);

    const fn of(number: c_long, arguments: [c_long; 5]) -> Self {
        Self { number, arguments }
    }

    /// Makes the call.
    pub(crate) fn make(self) -> io::Result<c_long> {
        let [a, b, c, d, e] = self.arguments;
        // SAFETY: one of the calls above, none of which is given memory of ours.
        check(unsafe { libc::syscall(self.number, a, b, c, d, e) })
    }
}
