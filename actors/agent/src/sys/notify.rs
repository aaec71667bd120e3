//! seccomp's user notification: a filter whose `SECCOMP_RET_USER_NOTIF` asks another process first
//! (seccomp_unotify(2)).

use super::{check, check_int};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// The calling thread, as this process's pid namespace numbers it.
    pub(crate) thread: i32,
    /// The call's first argument, as the int that a descriptor is.
    pub(crate) first_argument: i32,
}

/// Bytes that the kernel's `struct seccomp_notif` may grow to; a larger one isn't supported.
const ROOM: usize = 256;

#[repr(C)]
union Room {
    notification: libc::seccomp_notif,
    response: libc::seccomp_notif_resp,
    bytes: [u8; ROOM],
}

const SET_MODE_FILTER: libc::c_ulong = 1;
const GET_NOTIF_SIZES: libc::c_ulong = 3;
/// linux/seccomp.h: the call goes on as if it had not been asked about.
const CONTINUE: u32 = 1;
/// linux/seccomp.h, since 6.6: the woken thread runs on the waker's processor, since the two only wait for
/// each other.
const SYNC_WAKE_UP: u64 = 1;

/// Returns the flags of a filter with a listener: once a call's notification was received, only a fatal
/// signal ends the call's wait (before Linux 5.19 any signal does, and the call is restarted).
fn listener_flags() -> libc::c_ulong {
    let both = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    if takes(both) { both } else { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER }
}

/// Whether the kernel knows these flags: it checks them before the program pointer, which is null here.
fn takes(flags: libc::c_ulong) -> bool {
    // SAFETY: a null program is refused by the kernel before anything is loaded.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>())
    };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Whether filters can have a listener here, whose notifications fit [`ROOM`].
pub(crate) fn is_supported() -> bool {
    let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    // SAFETY: the kernel fills one struct of the sizes it wants.
    let asked = unsafe { libc::syscall(libc::SYS_seccomp, GET_NOTIF_SIZES, 0, &raw mut sizes) };
    asked == 0
        && usize::from(sizes.seccomp_notif) <= ROOM
        && usize::from(sizes.seccomp_notif_resp) <= ROOM
        && takes(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
}

/// Loads a program into this thread, for good, and returns its listener, close-on-exec. `no_new_privs` must
/// be set.
pub(crate) fn load(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, both of one live slice.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, listener_flags(), &raw const program)
    })?;
    // SAFETY: just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Saves a switch of processors at every answer, if the kernel supports that.
pub(crate) fn prefer_quick_answers(listener: BorrowedFd<'_>) {
    // SAFETY: the argument is an integer.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Takes one notification. Call it exactly once for each time that poll(2) reported one: otherwise the ioctl
/// blocks.
///
/// # Errors
/// `ENOENT` if its caller was killed meanwhile, and the kernel's others.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    let mut room = Room { bytes: [0; ROOM] };
    // SAFETY: the kernel wants a zeroed struct and fills no more than `is_supported` has found to fit.
    check_int(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut room) })?;
    // SAFETY: the kernel has filled it; integers all.
    let got = unsafe { room.notification };
    Ok(Notification {
        id: got.id,
        thread: i32::try_from(got.pid).unwrap_or(0),
        // The kernel looks at an int's lower half only, and so must we.
        first_argument: got.data.args[0] as i32,
    })
}

/// Lets the call go on. An error means that the caller no longer waits. Without one the caller has waited
/// until now, so its thread id can't have been reused.
pub(crate) fn let_go_on(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let mut room = Room { bytes: [0; ROOM] };
    room.response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: CONTINUE };
    // SAFETY: the kernel reads one response.
    check_int(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut room) })
        .map(drop)
}

const _: () =
    assert!(size_of::<libc::seccomp_notif>() <= ROOM && size_of::<libc::seccomp_notif_resp>() <= ROOM);
