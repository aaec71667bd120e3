//! The system calls of our own three processes: data, each difference from the agents' list with its reason.
//!
//! Heart and supervisor stand under allow-lists derived from the agents' own
//! ([`table`](crate::isolation::seccomp)), which is known to carry any ordinary program: what libc, the
//! runtime, TLS and name resolution (with the modules that nsswitch.conf names) call is on it, so the lists
//! need no change when a library starts to use another call. What an ordinary program may do but *these*
//! never do is taken off. Of the calls that are off, those in [`DEADLY`] end the process, since no honest
//! path leads there; the rest give EPERM, since a library may merely try them.
//!
//! Init's filter is inherited by every agent. It is a deny-list that looks at no arguments, since only that
//! kind costs the agents nothing (the kernel answers from a bitmap). The agents' own list refuses everything
//! that it refuses.

use crate::isolation::seccomp::conditions::{Condition, Test};
use crate::isolation::seccomp::table::Call;

const fn none_of(argument: u8, bits: libc::c_int) -> Condition {
    Condition { argument, test: Test::Masked { mask: bits.cast_unsigned(), is: 0 } }
}
const fn all_of(argument: u8, bits: libc::c_int) -> Condition {
    let bits = bits.cast_unsigned();
    Condition { argument, test: Test::Masked { mask: bits, is: bits } }
}

/// Refuse memory that is writable and executable, or becomes executable later, which code brought from
/// outside needs. (Loading a library maps its code executable and never writable.)
const MAP: &[&[Condition]] = &[&[none_of(2, libc::PROT_EXEC)], &[none_of(2, libc::PROT_WRITE)]];
const PROTECT: &[&[Condition]] = &[&[none_of(2, libc::PROT_EXEC)]];
const THREADS_ONLY: &[&[Condition]] =
    &[&[all_of(0, libc::CLONE_THREAD | libc::CLONE_FILES | libc::CLONE_VM)]];
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | 0x80; // CLONE_NEWTIME
const NO_NAMESPACES: &[&[Condition]] = &[&[none_of(0, NAMESPACES)]];

const MMAP: Call = Call { name: "mmap", number: libc::SYS_mmap, only_if: MAP };
const MPROTECT: Call = Call { name: "mprotect", number: libc::SYS_mprotect, only_if: PROTECT };
const PKEY_MPROTECT: Call = Call { name: "pkey_mprotect", number: libc::SYS_pkey_mprotect, only_if: PROTECT };

/// How a list differs from the agents'.
pub(super) struct Difference {
    /// Calls that are not on the list, by name.
    pub(super) without: &'static [&'static [&'static str]],
    /// Calls on the list in place of the agents' entry of the same number, or in addition.
    pub(super) with: &'static [Call],
    /// Calls that are off the list and end the process that tries one.
    pub(super) deadly: &'static [&'static [i64]],
}

/// Calls that none of our processes makes: SysV IPC, device nodes, personalities, protection keys, and
/// starting a program by `execve`, `fork` or `vfork`.
const NEVER_OURS: &[&str] = &[
    "shmget",
    "shmat",
    "shmdt",
    "shmctl",
    "semget",
    "semop",
    "semtimedop",
    "semctl",
    "msgget",
    "msgsnd",
    "msgrcv",
    "msgctl",
    "mknod",
    "mknodat",
    "personality",
    "pkey_alloc",
    "pkey_free",
    "execve",
    "fork",
    "vfork",
];

/// The supervisor starts no process, signals none (init does), and never changes its user or privileges.
const NEVER_THE_SUPERVISORS: &[&str] = &[
    "execveat",
    "kill",
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_open",
    "pidfd_send_signal",
    "setsid",
    "setpgid",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
    "capset",
    "setpriority",
    "ioprio_set",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
];

/// The supervisor may do what an ordinary program does with threads and files, but makes no child.
pub(super) const SUPERVISOR: Difference = Difference {
    without: &[NEVER_OURS, NEVER_THE_SUPERVISORS],
    with: &[
        MMAP,
        MPROTECT,
        PKEY_MPROTECT,
        Call { name: "clone", number: libc::SYS_clone, only_if: THREADS_ONLY },
    ],
    deadly: &[DEADLY, NEW_PROGRAMS],
};

/// The heart may do what the supervisor may, and start supervisors (which inherit its filter).
pub(super) const HEART: Difference = Difference {
    without: &[NEVER_OURS],
    with: &[
        MMAP,
        MPROTECT,
        PKEY_MPROTECT,
        Call { name: "clone", number: libc::SYS_clone, only_if: NO_NAMESPACES },
        // Emptying the bounding and ambient sets of a new supervisor, which then loads a filter of its own.
        Call { name: "prctl", number: libc::SYS_prctl, only_if: &[] },
        Call { name: "seccomp", number: libc::SYS_seccomp, only_if: &[] },
    ],
    deadly: &[DEADLY],
};

/// Init, and with it every agent: refused by number.
pub(super) const INIT: &[&[i64]] = &[DEADLY, NOT_EVEN_INITS];

/// Calls that none of our processes makes once it has started, but an intruder would.
const DEADLY: &[i64] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    // Namespaces, mounts and roots, which are built once, before the filter.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // The kernel itself: programs, modules, other kernels, its logs, clock, disks and keys.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Files past every path: by handle, and watched for everyone.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The supervisor executes nothing, ever.
const NEW_PROGRAMS: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// The names were set once, while the cage was built.
const NOT_EVEN_INITS: &[i64] = &[libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_vhangup];
