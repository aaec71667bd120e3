//! What of `/proc` tells of, or reaches, the whole machine: covered by an empty file or directory.
//!
//! Not `subset=pid`: runtimes read meminfo, cpuinfo, stat and sys/vm, which stay.

use super::root::{Failed, at, attach, make_dir, make_file};
use crate::sys;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Files covered by an empty one.
pub const FILES: &[&str] = &[
    "/proc/kcore",         // the kernel's memory
    "/proc/kmsg",          // its log
    "/proc/keys",          // key rings
    "/proc/key-users",     //
    "/proc/sysrq-trigger", // reboot, kill, sync
    "/proc/timer_list",    // addresses, other processes' timers
    "/proc/sched_debug",   // other processes
    "/proc/latency_stats", //
    "/proc/kallsyms",      // addresses
    "/proc/kpagecount",    // physical memory
    "/proc/kpageflags",    //
    "/proc/kpagecgroup",   //
    "/proc/vmallocinfo",   // addresses
    "/proc/slabinfo",      // heap shaping
    "/proc/iomem",         // addresses
    "/proc/ioports",       //
    "/proc/interrupts",    // keystroke timing
    "/proc/softirqs",      //
];

/// Directories covered by an empty one.
pub const DIRECTORIES: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/driver",
    "/proc/fs",
    "/proc/irq",
    "/proc/scsi",
    "/proc/dynamic_debug",
    "/proc/sys/fs/binfmt_misc",
];

/// Whether everything of the lists that exists here is covered: what lies on a mount of its own isn't proc's any more.
pub(crate) fn are_applied() -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let proc = std::fs::metadata("/proc")?.dev();
    let covered = |path: &&&str| std::fs::metadata(path).map_or(true, |meta| meta.dev() != proc);
    Ok(FILES.iter().chain(DIRECTORIES).filter(|path| !covered(path)).count() == 0)
}

/// Covers them. The root must still be writable.
pub(super) fn apply(root: BorrowedFd<'_>) -> Result<(), Failed> {
    let (file, directory) = (Path::new("/dev/.empty"), Path::new("/dev/.empty.d"));
    make_file(file, &[])?;
    make_dir(directory, 0o555)?;
    for (empty, covered) in [(file, FILES), (directory, DIRECTORIES)] {
        for path in covered.iter().map(Path::new).filter(|path| path.exists()) {
            let cover = sys::mount::clone_tree(empty).map_err(at("making a cover for /proc"))?;
            sys::mount::set_attributes(cover.as_fd(), sys::mount::Attributes::READ_ONLY, false)
                .map_err(at("making a cover for /proc"))?;
            attach(root, cover.as_fd(), path)?;
        }
    }
    Ok(())
}
