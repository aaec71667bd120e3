//! The list's conditions on arguments: data, each with its reason.
//!
//! Conditions judge the lower 32 bits of an argument, as the kernel does for an int; a pointed-to structure
//! can't be judged at all.

/// One condition on one argument.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    /// What it must be.
    pub test: Test,
}

/// A test of 32 bits.
#[derive(Debug, Clone, Copy)]
pub enum Test {
    /// Equal.
    Is(u32),
    /// Anything else than this.
    IsNot(u32),
    /// Equal under a mask.
    Masked {
        /// The bits looked at.
        mask: u32,
        /// Their value.
        is: u32,
    },
}

const fn is(argument: u8, value: u32) -> Condition {
    Condition { argument, test: Test::Is(value) }
}
const fn is_not(argument: u8, value: u32) -> Condition {
    Condition { argument, test: Test::IsNot(value) }
}
const fn none_of(argument: u8, bits: u32) -> Condition {
    Condition { argument, test: Test::Masked { mask: bits, is: 0 } }
}
const fn bits(argument: u8, mask: u32, value: u32) -> Condition {
    Condition { argument, test: Test::Masked { mask, is: value } }
}

/// Every namespace flag of clone(2).
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32
    | 0x80; // CLONE_NEWTIME, of clone3 and unshare only: costs nothing to refuse
const THREAD: u32 = libc::CLONE_THREAD as u32;
const FILES: u32 = libc::CLONE_FILES as u32;
/// Allows a new process without new namespaces and with a descriptor table of its own, or a thread that
/// shares its process's table. So the holders of a socket can be found by looking at processes, and a
/// descriptor table changes only while a thread of its one process runs.
pub(super) const CLONE: &[&[Condition]] =
    &[&[none_of(0, NAMESPACES | THREAD | FILES)], &[bits(0, NAMESPACES | THREAD | FILES, THREAD | FILES)]];

const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
/// No file may be made set-user-id or set-group-id: inside it is inert (no_new_privs, nosuid), but the
/// workspace exists outside as well, where somebody could run it.
const fn no_set_id(argument: u8) -> [Condition; 1] {
    [none_of(argument, SET_ID_BITS)]
}
pub(super) const MODE_1: &[&[Condition]] = &[&no_set_id(1)];
pub(super) const MODE_2: &[&[Condition]] = &[&no_set_id(2)];
#[cfg(target_arch = "x86_64")]
pub(super) const OPEN: &[&[Condition]] = &[&[none_of(1, CREATES)], &no_set_id(2)];
pub(super) const OPENAT: &[&[Condition]] = &[&[none_of(2, CREATES)], &no_set_id(3)];

const TYPE: u32 = libc::S_IFMT | SET_ID_BITS;
const fn make_node(argument: u8) -> [[Condition; 1]; 4] {
    [
        [bits(argument, TYPE, libc::S_IFIFO)],
        [bits(argument, TYPE, libc::S_IFSOCK)],
        [bits(argument, TYPE, libc::S_IFREG)],
        [bits(argument, TYPE, 0)],
    ]
}
#[cfg(target_arch = "x86_64")]
const NODES_1: [[Condition; 1]; 4] = make_node(1);
const NODES_2: [[Condition; 1]; 4] = make_node(2);
/// Pipes, sockets and plain files, never devices.
#[cfg(target_arch = "x86_64")]
pub(super) const MKNOD: &[&[Condition]] = &[&NODES_1[0], &NODES_1[1], &NODES_1[2], &NODES_1[3]];
pub(super) const MKNODAT: &[&[Condition]] = &[&NODES_2[0], &NODES_2[1], &NODES_2[2], &NODES_2[3]];

const SOCKET_TYPE: u32 = !((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32);
const STREAM: u32 = libc::SOCK_STREAM as u32;
const DATAGRAM: u32 = libc::SOCK_DGRAM as u32;
const UNIX: u32 = libc::AF_UNIX as u32;
const INET: u32 = libc::AF_INET as u32;
const INET6: u32 = libc::AF_INET6 as u32;
const TCP: u32 = libc::IPPROTO_TCP as u32;
const UDP: u32 = libc::IPPROTO_UDP as u32;
/// Unix sockets; TCP and UDP over IP (no raw, ICMP, SCTP or multipath TCP, which no wall of ours knows); of
/// netlink only the family that lists interfaces and routes.
pub(super) const SOCKET: &[&[Condition]] = &[
    &[is(0, UNIX)],
    &[is(0, INET), bits(1, SOCKET_TYPE, STREAM), is(2, 0)],
    &[is(0, INET), bits(1, SOCKET_TYPE, STREAM), is(2, TCP)],
    &[is(0, INET), bits(1, SOCKET_TYPE, DATAGRAM), is(2, 0)],
    &[is(0, INET), bits(1, SOCKET_TYPE, DATAGRAM), is(2, UDP)],
    &[is(0, INET6), bits(1, SOCKET_TYPE, STREAM), is(2, 0)],
    &[is(0, INET6), bits(1, SOCKET_TYPE, STREAM), is(2, TCP)],
    &[is(0, INET6), bits(1, SOCKET_TYPE, DATAGRAM), is(2, 0)],
    &[is(0, INET6), bits(1, SOCKET_TYPE, DATAGRAM), is(2, UDP)],
    &[is(0, libc::AF_NETLINK as u32), is(2, libc::NETLINK_ROUTE as u32)],
];
pub(super) const SOCKETPAIR: &[&[Condition]] = &[&[is(0, UNIX)]];

const SOL_SOCKET: u32 = libc::SOL_SOCKET as u32;
/// Any option except attaching a filter to a socket: its code lies in kernel memory that the whole machine
/// shares (`net.core.bpf_jit_limit`), and once that is full no unprivileged process can load a seccomp filter
/// any more.
pub(super) const SETSOCKOPT: &[&[Condition]] = &[
    &[is_not(1, SOL_SOCKET)],
    &[
        is(1, SOL_SOCKET),
        is_not(2, libc::SO_ATTACH_FILTER as u32),
        is_not(2, libc::SO_ATTACH_BPF as u32),
        is_not(2, libc::SO_ATTACH_REUSEPORT_CBPF as u32),
        is_not(2, libc::SO_ATTACH_REUSEPORT_EBPF as u32),
    ],
];

/// Any request except those that type into a terminal, take over the console or load a line discipline, and
/// those of btrfs for subvolumes: before Linux 6.8 an agent could copy by them, by way of a file of its own,
/// what lies beside its workspace; and one that it makes and sets read-only, its operator can't remove in the
/// usual ways.
pub(super) const IOCTL: &[&[Condition]] = &[&[
    is_not(1, libc::TIOCSTI as u32),
    is_not(1, 0x541C), // TIOCLINUX
    is_not(1, libc::TIOCCONS as u32),
    is_not(1, 0x5423),      // TIOCSETD
    is_not(1, 0x5000_9401), // BTRFS_IOC_SNAP_CREATE
    is_not(1, 0x5000_940e), // BTRFS_IOC_SUBVOL_CREATE
    is_not(1, 0x5000_9417), // BTRFS_IOC_SNAP_CREATE_V2
    is_not(1, 0x5000_9418), // BTRFS_IOC_SUBVOL_CREATE_V2
    is_not(1, 0x4008_941a), // BTRFS_IOC_SUBVOL_SETFLAGS
]];

/// The commands of fcntl(2), without `F_SETLEASE` (1024) and `F_SETDELEG` (1040): opening a file under a
/// lease waits for the lease's holder, up to 45 seconds. In the workspace an operator's editor would wait,
/// and init's child that is to execute a program of it.
pub(super) const FCNTL: &[&[Condition]] = &[
    &[none_of(1, !15)],   // descriptors, flags, locks, owner and signal
    &[bits(1, !1, 16)],   // F_GETOWN_EX, F_GETOWNER_UIDS
    &[bits(1, !3, 36)],   // F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW
    &[is(1, 1025)],       // F_GETLEASE
    &[bits(1, !1, 1026)], // F_NOTIFY, F_DUPFD_QUERY
    &[bits(1, !3, 1028)], // F_CREATED_QUERY, F_DUPFD_CLOEXEC, F_SETPIPE_SZ
    &[bits(1, !7, 1032)], // F_GETPIPE_SZ, seals, hints of how a file is written
];

/// What programs tell the kernel about themselves, and what makes them safer.
pub(super) const PRCTL: &[&[Condition]] = &[
    &[is(0, libc::PR_SET_PDEATHSIG as u32)],
    &[is(0, libc::PR_GET_PDEATHSIG as u32)],
    &[is(0, libc::PR_GET_DUMPABLE as u32)],
    &[is(0, libc::PR_SET_DUMPABLE as u32)],
    &[is(0, libc::PR_SET_NAME as u32)],
    &[is(0, libc::PR_GET_NAME as u32)],
    &[is(0, libc::PR_GET_SECCOMP as u32)],
    &[is(0, libc::PR_SET_SECCOMP as u32)],
    &[is(0, libc::PR_CAPBSET_READ as u32)],
    &[is(0, libc::PR_GET_SECUREBITS as u32)],
    &[is(0, libc::PR_GET_KEEPCAPS as u32)],
    &[is(0, libc::PR_SET_TIMERSLACK as u32)],
    &[is(0, libc::PR_GET_TIMERSLACK as u32)],
    &[is(0, libc::PR_SET_CHILD_SUBREAPER as u32)],
    &[is(0, libc::PR_GET_CHILD_SUBREAPER as u32)],
    &[is(0, libc::PR_SET_NO_NEW_PRIVS as u32)],
    &[is(0, libc::PR_GET_NO_NEW_PRIVS as u32)],
    &[is(0, libc::PR_GET_TID_ADDRESS as u32)],
    &[is(0, libc::PR_SET_THP_DISABLE as u32)],
    &[is(0, libc::PR_GET_THP_DISABLE as u32)],
    &[is(0, libc::PR_GET_SPECULATION_CTRL as u32)],
    &[is(0, libc::PR_SET_SPECULATION_CTRL as u32)],
    &[is(0, 55)],          // PR_SET_TAGGED_ADDR_CTRL
    &[is(0, 56)],          // PR_GET_TAGGED_ADDR_CTRL
    &[is(0, 65)],          // PR_SET_MDWE
    &[is(0, 66)],          // PR_GET_MDWE
    &[is(0, 0x5356_4d41)], // PR_SET_VMA: names of anonymous mappings
    &[is(0, 0x4155_5856)], // PR_GET_AUXV
    // Reading the ambient set, not raising into it.
    &[is(0, libc::PR_CAP_AMBIENT as u32), is(1, libc::PR_CAP_AMBIENT_IS_SET as u32)],
];

/// Sets the ordinary personality, or reads it. Address randomisation can't be switched off: executions are
/// told apart by it (`init::image`), and debuggers, which ask to switch it off, go on without.
pub(super) const PERSONALITY: &[&[Condition]] = &[&[is(0, 0)], &[is(0, u32::MAX)]];

/// Programs may confine themselves further. No listener: with it a program could answer, in the kernel's
/// place, the system calls of a program that policy trusts.
pub(super) const SECCOMP: &[&[Condition]] = &[
    &[is(0, 1), none_of(1, 1 << 3)], // SECCOMP_SET_MODE_FILTER without NEW_LISTENER
    &[is(0, 2)],                     // SECCOMP_GET_ACTION_AVAIL
];

/// The calling process only: Landlock doesn't govern prlimit(2), and an agent could end another by setting
/// its `RLIMIT_CPU`.
pub(super) const ONESELF_0: &[&[Condition]] = &[&[is(0, 0)]];
/// Anyone but pid 1: rootless, init has the agent's user id, and must not be starved by its own child.
pub(super) const NOT_INIT_0: &[&[Condition]] = &[&[is_not(0, 1)]];
/// `PRIO_PROCESS` and `IOPRIO_WHO_PROCESS`, never a whole user (init is one of them).
pub(super) const PRIORITY: &[&[Condition]] = &[&[is(0, libc::PRIO_PROCESS), is_not(1, 1)]];
pub(super) const IO_PRIORITY: &[&[Condition]] = &[&[is(0, 1), is_not(1, 1)]];
/// Not `CLOSE_RANGE_UNSHARE`: see [`CLONE`].
pub(super) const CLOSE_RANGE: &[&[Condition]] = &[&[none_of(2, 1 << 1)]];
