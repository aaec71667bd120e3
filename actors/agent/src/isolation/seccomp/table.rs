//! The system calls an agent may make: data, each group with its reason. What isn't here is refused.
//!
//! A call with conditions ([`super::conditions`]) is allowed when every condition of *one* of its
//! alternatives holds. What a pointer leads to can't be judged at all, which is why `clone3` and `openat2`
//! are absent.

use super::conditions::*;
use super::number;

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

/// Calls whose arguments lie in memory, where no filter can judge them: `clone3` (flags) and `openat2`
/// (mode). They give ENOSYS, as on an older kernel: programs then fall back to the older call (the one
/// program that is known not to is told to, see [`crate::environment`]). Calls this new have one number on
/// every architecture.
pub const UNKNOWN: &[u32] = &[435, 437];
/// The newest call that was considered, `file_setattr` of Linux 6.17. Newer ones give ENOSYS.
pub const NEWEST: u32 = 469;

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        &[$(Call { name: stringify!($name), number: number::$name, only_if: &[] }),*]
    };
}
macro_rules! conditional {
    ($($name:ident: $conditions:expr),* $(,)?) => {
        &[$(Call { name: stringify!($name), number: number::$name, only_if: $conditions }),*]
    };
}

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
            dup,
            dup3,
            close,
            pipe2,
            cachestat,
        ],
    },
    Group {
        reason: "descriptors and locks, without what makes others wait",
        calls: conditional![fcntl: FCNTL],
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
            prlimit64: ONESELF_0, sched_setaffinity: NOT_INIT_0, setpriority: PRIORITY, ioprio_set: IO_PRIORITY,
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
            getsockopt,
        ],
    },
    Group {
        reason: "options of sockets, without code that the kernel runs",
        calls: conditional![setsockopt: SETSOCKOPT],
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
