//! Covers with an empty file or directory what in `/proc` tells of, or reaches, the whole machine.
//!
//! The mount option `subset=pid` would hide too much: runtimes read meminfo, cpuinfo, stat and sys/vm, which
//! stay.

use super::root::{Failed, at, attach, make_dir, make_file};
use crate::sys;
use crate::sys::mount::Attributes;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Files covered by an empty one.
pub const FILES: &[&str] = &[
    "/proc/bootconfig",    // how the host was booted
    "/proc/buddyinfo",     // heap shaping
    "/proc/cmdline",       // how the host was booted: its disks, its console
    "/proc/config.gz",     // what the kernel was built with, for choosing an exploit
    "/proc/consoles",      // the host's
    "/proc/crypto",        // loaded modules
    "/proc/diskstats",     // the host's disks, and their timing
    "/proc/dma",           // hardware
    "/proc/interrupts",    // keystroke timing
    "/proc/iomem",         // addresses
    "/proc/ioports",       //
    "/proc/kallsyms",      // addresses
    "/proc/kcore",         // the kernel's memory
    "/proc/key-users",     // key rings
    "/proc/keys",          //
    "/proc/kmsg",          // the kernel's log
    "/proc/kpagecgroup",   // physical memory
    "/proc/kpagecount",    //
    "/proc/kpageflags",    //
    "/proc/latency_stats", // other processes
    "/proc/locks",         // other processes' files
    "/proc/mdstat",        // the host's disks
    "/proc/modules",       // which drivers can be attacked
    "/proc/pagetypeinfo",  // heap shaping
    "/proc/partitions",    // the host's disks
    "/proc/sched_debug",   // other processes
    "/proc/schedstat",     //
    "/proc/slabinfo",      // heap shaping
    "/proc/softirqs",      // timing
    "/proc/swaps",         // the host's disks
    "/proc/sysrq-trigger", // reboot, kill, sync
    "/proc/timer_list",    // addresses, other processes' timers
    "/proc/vmallocinfo",   // addresses
    "/proc/zoneinfo",      // heap shaping
];

/// Directories covered by an empty one.
pub const DIRECTORIES: &[&str] = &[
    "/proc/acpi",               // hardware, and doors to it
    "/proc/asound",             //
    "/proc/bus",                //
    "/proc/driver",             //
    "/proc/dynamic_debug",      // switches of the kernel's
    "/proc/fs",                 // the host's filesystems
    "/proc/irq",                // hardware
    "/proc/scsi",               //
    "/proc/sys/fs/binfmt_misc", // which programs run which files
];

/// The empty file and directory that cover them.
pub(super) const COVERS: &[&str] = &[EMPTY_FILE, EMPTY_DIRECTORY];
const EMPTY_FILE: &str = "/dev/.empty";
const EMPTY_DIRECTORY: &str = "/dev/.empty.d";

/// Whether everything in the lists that exists here is covered: a covered path is on another device than
/// `/proc`.
pub(crate) fn are_applied() -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let proc = std::fs::metadata("/proc")?.dev();
    let covered = |path: &&&str| std::fs::metadata(path).map_or(true, |meta| meta.dev() != proc);
    Ok(FILES.iter().chain(DIRECTORIES).filter(|path| !covered(path)).count() == 0)
}

const COVER: Attributes =
    Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_DEV).and(Attributes::NO_EXEC);

/// Covers them. The root must still be writable.
pub(super) fn apply(root: BorrowedFd<'_>) -> Result<(), Failed> {
    let (file, directory) = (Path::new(EMPTY_FILE), Path::new(EMPTY_DIRECTORY));
    make_file(file, &[])?;
    make_dir(directory, 0o555)?;
    for (empty, covered) in [(file, FILES), (directory, DIRECTORIES)] {
        for path in covered.iter().map(Path::new).filter(|path| path.exists()) {
            let cover = sys::mount::clone_tree(empty, COVER).map_err(at("making a cover for /proc"))?;
            attach(root, cover.as_fd(), path)?;
        }
    }
    Ok(())
}
