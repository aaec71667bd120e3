//! The system calls an agent may make: data, each group with its reason. What isn't here is refused.
//!
//! A call with conditions is allowed when every condition of *one* of its alternatives holds. Conditions judge the
//! lower 32 bits of an argument, as the kernel does for an int; a pointed-to structure can't be judged at all, which
//! is why `clone3` and `openat2` are absent.

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

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// As in its manual page.
    pub name: &'static str,
    /// This processor's number.
    pub number: i64,
    /// Alternatives; none means without a condition.
    pub only_if: &'static [&'static [Condition]],
}

/// Calls that are allowed for one reason.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The reason.
    pub reason: &'static str,
    /// The calls.
    pub calls: &'static [Call],
}

/// Every allowed call.
pub fn calls() -> impl Iterator<Item = &'static Call> {
    GROUPS.iter().flat_map(|group| group.calls)
}

/// Calls whose arguments lie in memory, where no filter can judge them: `clone3` (flags) and `openat2` (mode). They
/// give ENOSYS, and every program has the older way. Calls this new have one number on every architecture.
pub const UNKNOWN: &[u32] = &[435, 437];
/// `file_setattr` of Linux 6.17: what is newer was never looked at, and gives ENOSYS.
pub const NEWEST: u32 = 469;

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

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        &[$(Call { name: stringify!($name), number: paste_number!($name), only_if: &[] }),*]
    };
}
/// `libc` names a call's number `SYS_` and its name; those that it doesn't know yet are numbered here (calls since
/// Linux 5.1 have one number on every architecture).
macro_rules! paste_number {
    (cachestat) => {
        451
    };
    (fchmodat2) => {
        452
    };
    (map_shadow_stack) => {
        453
    };
    (futex_wake) => {
        454
    };
    (futex_wait) => {
        455
    };
    (futex_requeue) => {
        456
    };
    (mseal) => {
        462
    };
    (setxattrat) => {
        463
    };
    (getxattrat) => {
        464
    };
    (listxattrat) => {
        465
    };
    (removexattrat) => {
        466
    };
    (file_getattr) => {
        468
    };
    ($name:ident) => {
        number::$name
    };
}
// --- conditions -------------------------------------------------------------------------------------------------

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
/// A new process without namespaces; or a thread that shares its process's descriptors, so that the holders of a
/// socket can be found by looking at processes.
const CLONE: &[&[Condition]] =
    &[&[none_of(0, NAMESPACES | THREAD)], &[bits(0, NAMESPACES | THREAD | FILES, THREAD | FILES)]];

const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
/// No file may be made set-user-id or set-group-id: inside it is inert (no_new_privs, nosuid), but the workspace
/// exists outside as well, where somebody could run it.
const fn no_set_id(argument: u8) -> [Condition; 1] {
    [none_of(argument, SET_ID_BITS)]
}
const MODE_1: &[&[Condition]] = &[&no_set_id(1)];
const MODE_2: &[&[Condition]] = &[&no_set_id(2)];
#[cfg(target_arch = "x86_64")]
const OPEN: &[&[Condition]] = &[&[none_of(1, CREATES)], &no_set_id(2)];
const OPENAT: &[&[Condition]] = &[&[none_of(2, CREATES)], &no_set_id(3)];

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
const MKNOD: &[&[Condition]] = &[&NODES_1[0], &NODES_1[1], &NODES_1[2], &NODES_1[3]];
const MKNODAT: &[&[Condition]] = &[&NODES_2[0], &NODES_2[1], &NODES_2[2], &NODES_2[3]];

const SOCKET_TYPE: u32 = !((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32);
const STREAM: u32 = libc::SOCK_STREAM as u32;
const DATAGRAM: u32 = libc::SOCK_DGRAM as u32;
const UNIX: u32 = libc::AF_UNIX as u32;
const INET: u32 = libc::AF_INET as u32;
const INET6: u32 = libc::AF_INET6 as u32;
const TCP: u32 = libc::IPPROTO_TCP as u32;
const UDP: u32 = libc::IPPROTO_UDP as u32;
/// Unix sockets; TCP and UDP over IP (no raw, ICMP, SCTP or multipath TCP, which no wall of ours knows); of netlink
/// only the family that lists interfaces and routes.
const SOCKET: &[&[Condition]] = &[
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
const SOCKETPAIR: &[&[Condition]] = &[&[is(0, UNIX)]];

/// Any request but those that type into a terminal, take its console, or load a line discipline.
const IOCTL: &[&[Condition]] = &[&[
    is_not(1, libc::TIOCSTI as u32),
    is_not(1, 0x541C), // TIOCLINUX
    is_not(1, libc::TIOCCONS as u32),
    is_not(1, 0x5423), // TIOCSETD
]];

/// What programs tell the kernel about themselves, and what makes them safer.
const PRCTL: &[&[Condition]] = &[
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

/// The ordinary personality, with or without address randomisation (debuggers, some builds), and the question.
const PERSONALITY: &[&[Condition]] = &[&[is(0, 0)], &[is(0, 0x0004_0000)], &[is(0, u32::MAX)]];

/// Programs may shut themselves in further; a listener would let one play kernel to a program that policy trusts.
const SECCOMP: &[&[Condition]] = &[
    &[is(0, 1), none_of(1, 1 << 3)], // SECCOMP_SET_MODE_FILTER without NEW_LISTENER
    &[is(0, 2)],                     // SECCOMP_GET_ACTION_AVAIL
];

/// Anyone but pid 1: rootless, init has the agent's user id, and must not be starved by its own child.
const NOT_INIT_0: &[&[Condition]] = &[&[is_not(0, 1)]];
/// `PRIO_PROCESS` and `IOPRIO_WHO_PROCESS`, never a whole user (init is one of them).
const PRIORITY: &[&[Condition]] = &[&[is(0, libc::PRIO_PROCESS as u32), is_not(1, 1)]];
const IO_PRIORITY: &[&[Condition]] = &[&[is(0, 1), is_not(1, 1)]];
/// Not `CLOSE_RANGE_UNSHARE`: see [`CLONE`].
const CLOSE_RANGE: &[&[Condition]] = &[&[none_of(2, 1 << 1)]];

macro_rules! conditional {
    ($($name:ident: $conditions:expr),* $(,)?) => {
        &[$(Call { name: stringify!($name), number: paste_number!($name), only_if: $conditions }),*]
    };
}

// --- the list ---------------------------------------------------------------------------------------------------

/// The list.
pub const GROUPS: &[Group] = &[
    Group {
        reason: "reading and writing what is already open",
        calls: calls![
            read,
            write,
            readv,
            writev,
            pread64,
            pwrite64,
            preadv,
            pwritev,
            preadv2,
            pwritev2,
            lseek,
            sendfile,
            splice,
            tee,
            copy_file_range,
            fsync,
            fdatasync,
            sync,
            syncfs,
            sync_file_range,
            fallocate,
            ftruncate,
            fadvise64,
            readahead,
            flock,
            fcntl,
            dup,
            dup3,
            close,
            pipe2,
            cachestat,
        ],
    },
    Group {
        reason: "looking at and changing files, within mounts and Landlock",
        calls: calls![
            truncate,
            fstat,
            newfstatat,
            statx,
            statfs,
            fstatfs,
            faccessat,
            faccessat2,
            getdents64,
            getcwd,
            chdir,
            fchdir,
            mkdirat,
            unlinkat,
            renameat,
            renameat2,
            linkat,
            symlinkat,
            readlinkat,
            fchownat,
            fchown,
            utimensat,
            umask,
            getxattr,
            lgetxattr,
            fgetxattr,
            listxattr,
            llistxattr,
            flistxattr,
            setxattr,
            lsetxattr,
            fsetxattr,
            removexattr,
            lremovexattr,
            fremovexattr,
            setxattrat,
            getxattrat,
            listxattrat,
            removexattrat,
            file_getattr,
            inotify_init1,
            inotify_add_watch,
            inotify_rm_watch,
            memfd_create,
        ],
    },
    Group {
        reason: "opening and making files, none of them set-id, no devices",
        calls: conditional![
            openat: OPENAT, fchmod: MODE_1, fchmodat: MODE_2, fchmodat2: MODE_2, mknodat: MKNODAT,
        ],
    },
    Group {
        reason: "waiting for several things at once",
        calls: calls![
            ppoll,
            pselect6,
            epoll_create1,
            epoll_ctl,
            epoll_pwait,
            epoll_pwait2,
            eventfd2,
            signalfd4,
            timerfd_create,
            timerfd_settime,
            timerfd_gettime,
            io_setup,
            io_destroy,
            io_submit,
            io_cancel,
            io_getevents,
        ],
    },
    Group {
        reason: "memory of its own; executable mappings too, for compilers at run time",
        calls: calls![
            mmap,
            munmap,
            mremap,
            mprotect,
            pkey_mprotect,
            pkey_alloc,
            pkey_free,
            madvise,
            mincore,
            msync,
            mlock,
            mlock2,
            munlock,
            mlockall,
            munlockall,
            brk,
            membarrier,
            mseal,
            map_shadow_stack,
            get_mempolicy,
            set_mempolicy,
            mbind,
            set_mempolicy_home_node,
        ],
    },
    Group {
        reason: "threads and locks",
        calls: calls![
            futex,
            futex_waitv,
            futex_wake,
            futex_wait,
            futex_requeue,
            set_robust_list,
            get_robust_list,
            set_tid_address,
            gettid,
            sched_yield,
            sched_getaffinity,
            sched_getparam,
            sched_getscheduler,
            sched_getattr,
            sched_get_priority_max,
            sched_get_priority_min,
            sched_rr_get_interval,
            getcpu,
            rseq,
        ],
    },
    Group {
        reason: "new threads and processes, in the namespaces they are in",
        calls: conditional![clone: CLONE],
    },
    Group {
        reason: "running and ending programs",
        calls: calls![
            execve,
            execveat,
            exit,
            exit_group,
            wait4,
            waitid,
            kill,
            tkill,
            tgkill,
            pidfd_open,
            pidfd_send_signal,
            rt_sigqueueinfo,
            rt_tgsigqueueinfo,
            restart_syscall,
        ],
    },
    Group {
        reason: "signals",
        calls: calls![
            rt_sigaction,
            rt_sigprocmask,
            rt_sigreturn,
            rt_sigpending,
            rt_sigsuspend,
            rt_sigtimedwait,
            sigaltstack,
        ],
    },
    Group {
        reason: "time",
        calls: calls![
            clock_gettime,
            clock_getres,
            clock_nanosleep,
            nanosleep,
            gettimeofday,
            getitimer,
            setitimer,
            timer_create,
            timer_delete,
            timer_getoverrun,
            timer_gettime,
            timer_settime,
            times,
        ],
    },
    Group {
        reason: "who am I; changes of identity fail by themselves, having no capability",
        calls: calls![
            getpid,
            getppid,
            getuid,
            geteuid,
            getgid,
            getegid,
            getresuid,
            getresgid,
            getgroups,
            getpgid,
            getsid,
            setsid,
            setpgid,
            setuid,
            setgid,
            setreuid,
            setregid,
            setresuid,
            setresgid,
            setfsuid,
            setfsgid,
            setgroups,
            capget,
            capset,
            getrusage,
            sysinfo,
            uname,
            getrandom,
            getpriority,
            ioprio_get,
        ],
    },
    Group {
        reason: "its own limits and priorities, never init's",
        calls: conditional![
            prlimit64: NOT_INIT_0, sched_setaffinity: NOT_INIT_0, setpriority: PRIORITY, ioprio_set: IO_PRIORITY,
        ],
    },
    Group { reason: "rlimits by the old names", calls: calls![getrlimit, setrlimit] },
    Group {
        reason: "sockets of harmless kinds",
        calls: conditional![socket: SOCKET, socketpair: SOCKETPAIR],
    },
    Group {
        reason: "using a socket",
        calls: calls![
            bind,
            connect,
            listen,
            accept,
            accept4,
            getsockname,
            getpeername,
            sendto,
            recvfrom,
            sendmsg,
            recvmsg,
            sendmmsg,
            recvmmsg,
            shutdown,
            setsockopt,
            getsockopt,
        ],
    },
    Group {
        reason: "SysV memory, semaphores and queues, in an ipc namespace of the sandbox's own",
        calls: calls![
            shmget, shmat, shmdt, shmctl, semget, semop, semtimedop, semctl, msgget, msgsnd, msgrcv, msgctl,
        ],
    },
    Group {
        reason: "device and terminal control, without what types for others",
        calls: conditional![ioctl: IOCTL],
    },
    Group {
        reason: "process attributes that harm nobody",
        calls: conditional![prctl: PRCTL, personality: PERSONALITY],
    },
    Group {
        reason: "shutting oneself in further",
        calls: calls![landlock_create_ruleset, landlock_add_rule, landlock_restrict_self],
    },
    Group {
        reason: "filters of one's own, and closing many descriptors",
        calls: conditional![seccomp: SECCOMP, close_range: CLOSE_RANGE],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "older names of the above, which x86_64 still has",
        calls: calls![
            stat,
            lstat,
            access,
            dup2,
            pipe,
            poll,
            select,
            epoll_create,
            epoll_wait,
            eventfd,
            signalfd,
            inotify_init,
            getdents,
            mkdir,
            rmdir,
            unlink,
            rename,
            link,
            symlink,
            readlink,
            chown,
            lchown,
            utime,
            utimes,
            futimesat,
            fork,
            vfork,
            getpgrp,
            time,
            alarm,
            pause,
            arch_prctl,
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "older names for opening and making files",
        calls: conditional![open: OPEN, creat: MODE_1, chmod: MODE_1, mknod: MKNOD],
    },
];

/// The numbers of this processor, under the calls' own names.
mod number {
    pub(super) use libc::{
        SYS_accept as accept, SYS_accept4 as accept4, SYS_bind as bind, SYS_brk as brk, SYS_capget as capget,
        SYS_capset as capset, SYS_chdir as chdir, SYS_clock_getres as clock_getres,
        SYS_clock_gettime as clock_gettime, SYS_clock_nanosleep as clock_nanosleep, SYS_clone as clone,
        SYS_close as close, SYS_close_range as close_range, SYS_connect as connect,
        SYS_copy_file_range as copy_file_range, SYS_dup as dup, SYS_dup3 as dup3,
        SYS_epoll_create1 as epoll_create1, SYS_epoll_ctl as epoll_ctl, SYS_epoll_pwait as epoll_pwait,
        SYS_epoll_pwait2 as epoll_pwait2, SYS_eventfd2 as eventfd2, SYS_execve as execve,
        SYS_execveat as execveat, SYS_exit as exit, SYS_exit_group as exit_group, SYS_faccessat as faccessat,
        SYS_faccessat2 as faccessat2, SYS_fadvise64 as fadvise64, SYS_fallocate as fallocate,
        SYS_fchdir as fchdir, SYS_fchmod as fchmod, SYS_fchmodat as fchmodat, SYS_fchown as fchown,
        SYS_fchownat as fchownat, SYS_fcntl as fcntl, SYS_fdatasync as fdatasync, SYS_fgetxattr as fgetxattr,
        SYS_flistxattr as flistxattr, SYS_flock as flock, SYS_fremovexattr as fremovexattr,
        SYS_fsetxattr as fsetxattr, SYS_fstat as fstat, SYS_fstatfs as fstatfs, SYS_fsync as fsync,
        SYS_ftruncate as ftruncate, SYS_futex as futex, SYS_futex_waitv as futex_waitv,
        SYS_get_mempolicy as get_mempolicy, SYS_get_robust_list as get_robust_list, SYS_getcpu as getcpu,
        SYS_getcwd as getcwd, SYS_getdents64 as getdents64, SYS_getegid as getegid, SYS_geteuid as geteuid,
        SYS_getgid as getgid, SYS_getgroups as getgroups, SYS_getitimer as getitimer,
        SYS_getpeername as getpeername, SYS_getpgid as getpgid, SYS_getpid as getpid, SYS_getppid as getppid,
        SYS_getpriority as getpriority, SYS_getrandom as getrandom, SYS_getresgid as getresgid,
        SYS_getresuid as getresuid, SYS_getrlimit as getrlimit, SYS_getrusage as getrusage,
        SYS_getsid as getsid, SYS_getsockname as getsockname, SYS_getsockopt as getsockopt,
        SYS_gettid as gettid, SYS_gettimeofday as gettimeofday, SYS_getuid as getuid,
        SYS_getxattr as getxattr, SYS_inotify_add_watch as inotify_add_watch,
        SYS_inotify_init1 as inotify_init1, SYS_inotify_rm_watch as inotify_rm_watch,
        SYS_io_cancel as io_cancel, SYS_io_destroy as io_destroy, SYS_io_getevents as io_getevents,
        SYS_io_setup as io_setup, SYS_io_submit as io_submit, SYS_ioctl as ioctl,
        SYS_ioprio_get as ioprio_get, SYS_ioprio_set as ioprio_set, SYS_kill as kill,
        SYS_landlock_add_rule as landlock_add_rule, SYS_landlock_create_ruleset as landlock_create_ruleset,
        SYS_landlock_restrict_self as landlock_restrict_self, SYS_lgetxattr as lgetxattr,
        SYS_linkat as linkat, SYS_listen as listen, SYS_listxattr as listxattr, SYS_llistxattr as llistxattr,
        SYS_lremovexattr as lremovexattr, SYS_lseek as lseek, SYS_lsetxattr as lsetxattr,
        SYS_madvise as madvise, SYS_mbind as mbind, SYS_membarrier as membarrier,
        SYS_memfd_create as memfd_create, SYS_mincore as mincore, SYS_mkdirat as mkdirat,
        SYS_mknodat as mknodat, SYS_mlock as mlock, SYS_mlock2 as mlock2, SYS_mlockall as mlockall,
        SYS_mmap as mmap, SYS_mprotect as mprotect, SYS_mremap as mremap, SYS_msgctl as msgctl,
        SYS_msgget as msgget, SYS_msgrcv as msgrcv, SYS_msgsnd as msgsnd, SYS_msync as msync,
        SYS_munlock as munlock, SYS_munlockall as munlockall, SYS_munmap as munmap,
        SYS_nanosleep as nanosleep, SYS_newfstatat as newfstatat, SYS_openat as openat,
        SYS_personality as personality, SYS_pidfd_open as pidfd_open,
        SYS_pidfd_send_signal as pidfd_send_signal, SYS_pipe2 as pipe2, SYS_pkey_alloc as pkey_alloc,
        SYS_pkey_free as pkey_free, SYS_pkey_mprotect as pkey_mprotect, SYS_ppoll as ppoll,
        SYS_prctl as prctl, SYS_pread64 as pread64, SYS_preadv as preadv, SYS_preadv2 as preadv2,
        SYS_prlimit64 as prlimit64, SYS_pselect6 as pselect6, SYS_pwrite64 as pwrite64,
        SYS_pwritev as pwritev, SYS_pwritev2 as pwritev2, SYS_read as read, SYS_readahead as readahead,
        SYS_readlinkat as readlinkat, SYS_readv as readv, SYS_recvfrom as recvfrom, SYS_recvmmsg as recvmmsg,
        SYS_recvmsg as recvmsg, SYS_removexattr as removexattr, SYS_renameat as renameat,
        SYS_renameat2 as renameat2, SYS_restart_syscall as restart_syscall, SYS_rseq as rseq,
        SYS_rt_sigaction as rt_sigaction, SYS_rt_sigpending as rt_sigpending,
        SYS_rt_sigprocmask as rt_sigprocmask, SYS_rt_sigqueueinfo as rt_sigqueueinfo,
        SYS_rt_sigreturn as rt_sigreturn, SYS_rt_sigsuspend as rt_sigsuspend,
        SYS_rt_sigtimedwait as rt_sigtimedwait, SYS_rt_tgsigqueueinfo as rt_tgsigqueueinfo,
        SYS_sched_get_priority_max as sched_get_priority_max,
        SYS_sched_get_priority_min as sched_get_priority_min, SYS_sched_getaffinity as sched_getaffinity,
        SYS_sched_getattr as sched_getattr, SYS_sched_getparam as sched_getparam,
        SYS_sched_getscheduler as sched_getscheduler, SYS_sched_rr_get_interval as sched_rr_get_interval,
        SYS_sched_setaffinity as sched_setaffinity, SYS_sched_yield as sched_yield, SYS_seccomp as seccomp,
        SYS_semctl as semctl, SYS_semget as semget, SYS_semop as semop, SYS_semtimedop as semtimedop,
        SYS_sendfile as sendfile, SYS_sendmmsg as sendmmsg, SYS_sendmsg as sendmsg, SYS_sendto as sendto,
        SYS_set_mempolicy as set_mempolicy, SYS_set_mempolicy_home_node as set_mempolicy_home_node,
        SYS_set_robust_list as set_robust_list, SYS_set_tid_address as set_tid_address,
        SYS_setfsgid as setfsgid, SYS_setfsuid as setfsuid, SYS_setgid as setgid, SYS_setgroups as setgroups,
        SYS_setitimer as setitimer, SYS_setpgid as setpgid, SYS_setpriority as setpriority,
        SYS_setregid as setregid, SYS_setresgid as setresgid, SYS_setresuid as setresuid,
        SYS_setreuid as setreuid, SYS_setrlimit as setrlimit, SYS_setsid as setsid,
        SYS_setsockopt as setsockopt, SYS_setuid as setuid, SYS_setxattr as setxattr, SYS_shmat as shmat,
        SYS_shmctl as shmctl, SYS_shmdt as shmdt, SYS_shmget as shmget, SYS_shutdown as shutdown,
        SYS_sigaltstack as sigaltstack, SYS_signalfd4 as signalfd4, SYS_socket as socket,
        SYS_socketpair as socketpair, SYS_splice as splice, SYS_statfs as statfs, SYS_statx as statx,
        SYS_symlinkat as symlinkat, SYS_sync as sync, SYS_sync_file_range as sync_file_range,
        SYS_syncfs as syncfs, SYS_sysinfo as sysinfo, SYS_tee as tee, SYS_tgkill as tgkill,
        SYS_timer_create as timer_create, SYS_timer_delete as timer_delete,
        SYS_timer_getoverrun as timer_getoverrun, SYS_timer_gettime as timer_gettime,
        SYS_timer_settime as timer_settime, SYS_timerfd_create as timerfd_create,
        SYS_timerfd_gettime as timerfd_gettime, SYS_timerfd_settime as timerfd_settime, SYS_times as times,
        SYS_tkill as tkill, SYS_truncate as truncate, SYS_umask as umask, SYS_uname as uname,
        SYS_unlinkat as unlinkat, SYS_utimensat as utimensat, SYS_wait4 as wait4, SYS_waitid as waitid,
        SYS_write as write, SYS_writev as writev,
    };
    #[cfg(target_arch = "x86_64")]
    pub(super) use libc::{
        SYS_access as access, SYS_alarm as alarm, SYS_arch_prctl as arch_prctl, SYS_chmod as chmod,
        SYS_chown as chown, SYS_creat as creat, SYS_dup2 as dup2, SYS_epoll_create as epoll_create,
        SYS_epoll_wait as epoll_wait, SYS_eventfd as eventfd, SYS_fork as fork, SYS_futimesat as futimesat,
        SYS_getdents as getdents, SYS_getpgrp as getpgrp, SYS_inotify_init as inotify_init,
        SYS_lchown as lchown, SYS_link as link, SYS_lstat as lstat, SYS_mkdir as mkdir, SYS_mknod as mknod,
        SYS_open as open, SYS_pause as pause, SYS_pipe as pipe, SYS_poll as poll, SYS_readlink as readlink,
        SYS_rename as rename, SYS_rmdir as rmdir, SYS_select as select, SYS_signalfd as signalfd,
        SYS_stat as stat, SYS_symlink as symlink, SYS_time as time, SYS_unlink as unlink, SYS_utime as utime,
        SYS_utimes as utimes, SYS_vfork as vfork,
    };
}
