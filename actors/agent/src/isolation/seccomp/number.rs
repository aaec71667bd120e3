//! This processor's numbers of the listed calls, under the calls' own names: what the list's macros look up.

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
    SYS_getresuid as getresuid, SYS_getrusage as getrusage, SYS_getsid as getsid,
    SYS_getsockname as getsockname, SYS_getsockopt as getsockopt, SYS_gettid as gettid,
    SYS_gettimeofday as gettimeofday, SYS_getuid as getuid, SYS_getxattr as getxattr,
    SYS_inotify_add_watch as inotify_add_watch, SYS_inotify_init1 as inotify_init1,
    SYS_inotify_rm_watch as inotify_rm_watch, SYS_ioctl as ioctl, SYS_ioprio_get as ioprio_get,
    SYS_ioprio_set as ioprio_set, SYS_kill as kill, SYS_landlock_add_rule as landlock_add_rule,
    SYS_landlock_create_ruleset as landlock_create_ruleset,
    SYS_landlock_restrict_self as landlock_restrict_self, SYS_lgetxattr as lgetxattr, SYS_linkat as linkat,
    SYS_listen as listen, SYS_listxattr as listxattr, SYS_llistxattr as llistxattr,
    SYS_lremovexattr as lremovexattr, SYS_lseek as lseek, SYS_lsetxattr as lsetxattr, SYS_madvise as madvise,
    SYS_mbind as mbind, SYS_membarrier as membarrier, SYS_memfd_create as memfd_create,
    SYS_mincore as mincore, SYS_mkdirat as mkdirat, SYS_mknodat as mknodat, SYS_mlock as mlock,
    SYS_mlock2 as mlock2, SYS_mlockall as mlockall, SYS_mmap as mmap, SYS_mprotect as mprotect,
    SYS_mremap as mremap, SYS_msgctl as msgctl, SYS_msgget as msgget, SYS_msgrcv as msgrcv,
    SYS_msgsnd as msgsnd, SYS_msync as msync, SYS_munlock as munlock, SYS_munlockall as munlockall,
    SYS_munmap as munmap, SYS_nanosleep as nanosleep, SYS_newfstatat as newfstatat, SYS_openat as openat,
    SYS_personality as personality, SYS_pidfd_open as pidfd_open, SYS_pidfd_send_signal as pidfd_send_signal,
    SYS_pipe2 as pipe2, SYS_pkey_alloc as pkey_alloc, SYS_pkey_free as pkey_free,
    SYS_pkey_mprotect as pkey_mprotect, SYS_ppoll as ppoll, SYS_prctl as prctl, SYS_pread64 as pread64,
    SYS_preadv as preadv, SYS_preadv2 as preadv2, SYS_prlimit64 as prlimit64, SYS_pselect6 as pselect6,
    SYS_pwrite64 as pwrite64, SYS_pwritev as pwritev, SYS_pwritev2 as pwritev2, SYS_read as read,
    SYS_readahead as readahead, SYS_readlinkat as readlinkat, SYS_readv as readv, SYS_recvfrom as recvfrom,
    SYS_recvmmsg as recvmmsg, SYS_recvmsg as recvmsg, SYS_removexattr as removexattr,
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
    SYS_set_robust_list as set_robust_list, SYS_set_tid_address as set_tid_address, SYS_setfsgid as setfsgid,
    SYS_setfsuid as setfsuid, SYS_setgid as setgid, SYS_setgroups as setgroups, SYS_setitimer as setitimer,
    SYS_setpgid as setpgid, SYS_setpriority as setpriority, SYS_setregid as setregid,
    SYS_setresgid as setresgid, SYS_setresuid as setresuid, SYS_setreuid as setreuid, SYS_setsid as setsid,
    SYS_setsockopt as setsockopt, SYS_setuid as setuid, SYS_setxattr as setxattr, SYS_shmat as shmat,
    SYS_shmctl as shmctl, SYS_shmdt as shmdt, SYS_shmget as shmget, SYS_shutdown as shutdown,
    SYS_sigaltstack as sigaltstack, SYS_signalfd4 as signalfd4, SYS_socket as socket,
    SYS_socketpair as socketpair, SYS_splice as splice, SYS_statfs as statfs, SYS_statx as statx,
    SYS_symlinkat as symlinkat, SYS_sync as sync, SYS_syncfs as syncfs, SYS_sysinfo as sysinfo,
    SYS_tee as tee, SYS_tgkill as tgkill, SYS_timer_create as timer_create, SYS_timer_delete as timer_delete,
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
    SYS_getdents as getdents, SYS_getpgrp as getpgrp, SYS_getrlimit as getrlimit,
    SYS_inotify_init as inotify_init, SYS_lchown as lchown, SYS_link as link, SYS_lstat as lstat,
    SYS_mkdir as mkdir, SYS_mknod as mknod, SYS_open as open, SYS_pause as pause, SYS_pipe as pipe,
    SYS_poll as poll, SYS_readlink as readlink, SYS_rename as rename, SYS_renameat as renameat,
    SYS_rmdir as rmdir, SYS_select as select, SYS_setrlimit as setrlimit, SYS_signalfd as signalfd,
    SYS_stat as stat, SYS_symlink as symlink, SYS_sync_file_range as sync_file_range, SYS_time as time,
    SYS_unlink as unlink, SYS_utime as utime, SYS_utimes as utimes, SYS_vfork as vfork,
};

/// Those that `libc` doesn't name for this processor (include/uapi/asm-generic/unistd.h).
#[cfg(target_arch = "aarch64")]
mod generic {
    #![expect(non_upper_case_globals, reason = "named as the calls are")]
    pub(in super::super) const renameat: libc::c_long = 38;
    pub(in super::super) const sync_file_range: libc::c_long = 84;
    pub(in super::super) const getrlimit: libc::c_long = 163;
    pub(in super::super) const setrlimit: libc::c_long = 164;
}
#[cfg(target_arch = "aarch64")]
pub(super) use generic::{getrlimit, renameat, setrlimit, sync_file_range};

/// Those that `libc` doesn't know yet: calls since Linux 5.1 have one number on every architecture.
mod newer {
    #![expect(non_upper_case_globals, reason = "named as the calls are")]
    pub(in super::super) const cachestat: libc::c_long = 451;
    pub(in super::super) const fchmodat2: libc::c_long = 452;
    pub(in super::super) const map_shadow_stack: libc::c_long = 453;
    pub(in super::super) const futex_wake: libc::c_long = 454;
    pub(in super::super) const futex_wait: libc::c_long = 455;
    pub(in super::super) const futex_requeue: libc::c_long = 456;
    pub(in super::super) const mseal: libc::c_long = 462;
    pub(in super::super) const setxattrat: libc::c_long = 463;
    pub(in super::super) const getxattrat: libc::c_long = 464;
    pub(in super::super) const listxattrat: libc::c_long = 465;
    pub(in super::super) const removexattrat: libc::c_long = 466;
    pub(in super::super) const file_getattr: libc::c_long = 468;
}
pub(super) use newer::{
    cachestat, fchmodat2, file_getattr, futex_requeue, futex_wait, futex_wake, getxattrat, listxattrat,
    map_shadow_stack, mseal, removexattrat, setxattrat,
};
