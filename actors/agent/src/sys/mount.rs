//! The mount calls by descriptor: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2), pivot_root(2).

use super::{check, check_int};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Attributes of a mount, as mount_setattr(2) takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) u64);

impl Attributes {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    pub(crate) const NO_SUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    pub(crate) const NO_DEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    pub(crate) const NO_EXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Turns the result of a system call that makes a descriptor into an owned one.
///
/// # Safety
/// The call must make a new descriptor if it succeeds, and its result must be passed here only once.
unsafe fn made(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made it, and nobody else has it, by the doc.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A detached, recursive copy of what is mounted at a path, with these attributes.
pub(crate) fn clone_tree(path: &Path, attributes: Attributes) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, &c_path(path)?, libc::AT_RECURSIVE as u32, attributes)
}

/// As [`clone_tree`], of a descriptor, which must be on a mount in this namespace (before Linux 6.15 a
/// detached one won't do).
pub(crate) fn clone_tree_at(fd: BorrowedFd<'_>, attributes: Attributes) -> io::Result<OwnedFd> {
    open_tree(fd.as_raw_fd(), c"", (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as u32, attributes)
}

/// The copy is made private. The copy of a shared mount (systemd makes all of a host's so) would be in its
/// peer group, and what is mounted, covered or unmounted in the sandbox would be on the host as well, and in
/// every other sandbox that shows the place (mount_namespaces(7)).
fn open_tree(dir: i32, path: &CStr, flags: u32, attributes: Attributes) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags;
    // SAFETY: the path is a C string; integers else. The call makes a descriptor.
    let tree = unsafe { made(libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags)) }?;
    let private =
        libc::mount_attr { attr_set: attributes.0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attr(tree.as_fd(), true, &private)?;
    Ok(tree)
}

/// Attaches a detached mount at `path` below `dir`.
pub(crate) fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let empty_to = if path.is_empty() { libc::MOVE_MOUNT_T_EMPTY_PATH } else { 0 };
    // SAFETY: both paths are C strings; integers else.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | empty_to,
        )
    })
    .map(drop)
}

fn set_attr(mount: BorrowedFd<'_>, recursive: bool, attr: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is live and its true size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Sets attributes on a mount, and on all below it when recursive. Never clears one.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes.0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_attr(mount, recursive, &attr)
}

/// Makes a detached mount id-mapped by a user namespace.
pub(crate) fn set_id_map(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    set_attr(mount, true, &attr)
}

/// Makes a new filesystem as a detached mount. An option with an empty value is a flag.
pub(crate) fn new_filesystem(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    const FSCONFIG_SET_FLAG: u32 = 0;
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    // SAFETY: C strings and integers. The call makes a descriptor.
    let context = unsafe { made(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC)) }?;
    for (key, value) in options {
        let (command, value) = match value.is_empty() {
            true => (FSCONFIG_SET_FLAG, std::ptr::null()),
            false => (FSCONFIG_SET_STRING, value.as_ptr()),
        };
        // SAFETY: C strings and integers; a flag takes no value.
        check(unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key.as_ptr(), value, 0)
        })?;
    }
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    check(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    })?;
    // SAFETY: integers only. The call makes a descriptor.
    unsafe { made(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes.0)) }
}

/// Makes every mount private: what is mounted from now on neither reaches the host nor comes from it.
pub(crate) fn make_all_private() -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: only the target is read.
    check_int(unsafe {
        libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null())
    })
    .map(drop)
}

/// Makes the directory `root` (a mount) the root of this process, and drops the old one.
pub(crate) fn enter_root(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: integers and C strings. The old root lands on top of the new one (pivot_root(2), NOTES) and is
    // detached.
    unsafe {
        check_int(libc::fchdir(root.as_raw_fd()))?;
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check_int(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check_int(libc::chdir(c"/".as_ptr())).map(drop)
    }
}
