//! Processes: clone, credentials, prctl, exec. Only ever called by single-threaded processes or fresh
//! children.

use super::prctl::{Prctl, prctl};
use super::{check, check_int};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// CLOCK_MONOTONIC in nanoseconds: one clock for all processes of a sandbox.
pub(crate) fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).unwrap_or(0))
}

/// Which side of a clone this is.
pub(crate) enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// clone(2) without a new stack, i.e. fork(2) with namespaces, and a pidfd for the parent.
///
/// # Errors
/// The kernel's; or when this process has threads, whose locks the child would inherit without their owners.
pub(crate) fn clone(namespaces: libc::c_int) -> io::Result<Cloned> {
    require_one_thread("fork")?;
    let mut pidfd: libc::c_int = -1;
    let flags = (namespaces | libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_ulong;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: single-threaded, so every lock is free in the copy; a null stack means copy-on-write of ours;
    // the kernel writes the pidfd to the third argument, the same place on x86_64 and aarch64 (the order of
    // the last two differs, and both are null).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has just made it for us.
    Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Fails unless this process has only one thread, which what it is about to do requires.
///
/// # Errors
/// When it has more; when `/proc` doesn't tell.
pub(crate) fn require_one_thread(what: &str) -> io::Result<()> {
    match thread_count()? {
        1 => Ok(()),
        threads => Err(io::Error::other(format!(
            "a process with {threads} threads must not {what} (a fault in cofferdam)"
        ))),
    }
}

/// Reaps the next child that has ended, whichever it is (waitpid(2)); `None` while all live. Reports deaths
/// by every signal, also by a real-time one: `nix` reaps such a child, but then has no name for its signal.
///
/// # Errors
/// The kernel's: `ECHILD` where there is no child, `EINTR`.
pub(crate) fn reap_any() -> io::Result<Option<(i32, ExitStatus)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: the kernel writes the status to a live integer.
    let pid = check_int(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    Ok((pid != 0).then(|| (pid, ExitStatus::from_raw(status))))
}

/// Moves this process into new namespaces (unshare(2)).
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::unshare(namespaces) }).map(drop)
}

/// How many threads this process has. `nlink` of the task directory is 2 + threads, without listing it.
pub(crate) fn thread_count() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// The signal this process gets when its parent dies. Cleared by the kernel at every change of credentials.
pub(crate) fn die_with_parent(signo: libc::c_int) -> io::Result<()> {
    prctl(Prctl::DieWithParent(signo)).map(drop)
}

/// Sets real, effective and saved ids (`None` = leave). Raw calls: libc's would touch every thread, we have
/// one.
pub(crate) fn set_uids(real: Option<u32>, effective: Option<u32>, saved: Option<u32>) -> io::Result<()> {
    let [r, e, s] = [real, effective, saved].map(|id| id.unwrap_or(u32::MAX));
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, r, e, s) }).map(drop)
}

/// See [`set_uids`].
pub(crate) fn set_gids(real: Option<u32>, effective: Option<u32>, saved: Option<u32>) -> io::Result<()> {
    let [r, e, s] = [real, effective, saved].map(|id| id.unwrap_or(u32::MAX));
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, r, e, s) }).map(drop)
}

/// Gives up every supplementary group.
pub(crate) fn clear_groups() -> io::Result<()> {
    // SAFETY: a count of 0 reads no memory.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) }).map(drop)
}

/// Returns a process's nice value (setpriority(2)); `pid` 0 is this one. -1 also if the process is gone.
pub(crate) fn niceness(pid: i32) -> i32 {
    // SAFETY: integers only.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, pid.cast_unsigned()) }
}

/// Sets a process's nice value; `pid` 0 is this one.
pub(crate) fn set_niceness(pid: i32, nice: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid.cast_unsigned(), nice) }).map(drop)
}

/// Whether a process of this pid namespace has this real user id (getpriority(2): ESRCH if none). Asked for
/// id 0, it is this process's own.
pub fn user_has_processes(uid: u32) -> bool {
    nix::errno::Errno::clear();
    // SAFETY: integers only.
    let lowest = unsafe { libc::getpriority(libc::PRIO_USER, uid) };
    // -1 is a nice value, too.
    lowest != -1 || nix::errno::Errno::last() != nix::errno::Errno::ESRCH
}

/// How many supplementary groups there are.
pub(crate) fn group_count() -> io::Result<usize> {
    // SAFETY: size 0 asks for the count only.
    let count = check_int(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// execveat(2) of an open file; returns only on failure.
pub(crate) fn exec_fd(file: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists are null-terminated arrays of C strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// execve(2); returns only on failure.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: as in `exec_fd`.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without running anything of libc's or Rust's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// The kernel's Landlock ABI version, 0 without Landlock.
pub(crate) fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: this flag wants a null pointer and size 0, and only returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// Whether the kernel can kill by a system call filter (seccomp(2), `SECCOMP_GET_ACTION_AVAIL`).
pub(crate) fn seccomp_available() -> bool {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the operation reads one 32-bit action and changes nothing.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0
}

/// Whether two tasks share one descriptor table (kcmp(2)); false when the kernel can't tell.
pub(crate) fn same_descriptors(one: i32, other: i32) -> bool {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0 }
}

/// A descriptor of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) task: i32,
    pub(crate) number: i32,
}

/// Whether two descriptors are of one open file description (kcmp(2)). Costs a fifth of reading a link in
/// `/proc`.
///
/// # Errors
/// `EBADF` where one isn't open, `ESRCH` where a task is gone, `ENOSYS` or `EPERM` where the kernel doesn't
/// tell.
pub(crate) fn same_file(one: Descriptor, other: Descriptor) -> io::Result<bool> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: integers only.
    let order = check(unsafe {
        libc::syscall(libc::SYS_kcmp, one.task, other.task, KCMP_FILE, one.number, other.number)
    })?;
    Ok(order == 0)
}

/// Whether a thread is one of this process (its first has the process's number). False where that can't be
/// told.
pub(crate) fn is_thread_of(thread: i32, process: i32) -> bool {
    // SAFETY: integers only. Signal 0 is none: the kernel looks for the thread in the process of that number,
    // and that is all.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) == 0 }
}

/// The name shown by ps; at most 15 bytes.
pub(crate) fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the option reads a C string of at most 16 bytes.
    check_int(unsafe {
        libc::prctl(
            libc::PR_SET_NAME,
            name.as_ptr(),
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    })
    .map(drop)
}

/// Maps and unmaps one writable, executable page, as compilers at run time do.
pub(crate) fn map_executable() -> io::Result<()> {
    let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: a fresh anonymous page at a place of the kernel's choice, unmapped at once.
    unsafe {
        let page =
            libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        check_int(libc::munmap(page, 4096)).map(drop)
    }
}

/// Restricts this process by a Landlock ruleset (landlock_restrict_self(2)).
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

/// Maps a writable page and asks for it to become executable, as code brought from outside would; unmapped at
/// once.
pub(crate) fn gain_execution() -> io::Result<()> {
    // SAFETY: a fresh anonymous page at a place of the kernel's choice, never jumped to, unmapped at once.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let gained = check_int(libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC));
        check_int(libc::munmap(page, 4096))?;
        gained.map(drop)
    }
}

/// Lets all threads share at most `heaps` heaps, and keeps little of what was freed (mallopt(3)).
pub(crate) fn limit_heaps(heaps: libc::c_int, kept_bytes: libc::c_int) {
    #[cfg(target_env = "gnu")]
    // SAFETY: two integers, before there are threads; the call only fails for parameters that it doesn't
    // know.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept_bytes);
    }
}
