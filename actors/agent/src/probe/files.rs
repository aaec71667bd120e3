//! Checks which files there are, and which can be read and written.

use super::{Expect, Probe, Scene};
use crate::isolation::{devices, etc, landlock, masks, root};
use crate::plan::{CagePlan, Control, RUN_DIR};
use crate::sys;
use crate::sys::attempt::Attempt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Paths of the host that must not exist, unless the policy shows something below.
const ABSENT: &[&str] = &["/root", "/home", "/boot", "/mnt", "/media", "/srv", "/old_root", "/lost+found"];
/// Paths that must not exist, or that nobody may open.
const CLOSED: &[&str] = &["/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/run/dbus"];

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    the_hosts(probe, scene.plan);
    writes(probe, scene);
    proc(probe);
    second_wall(probe, scene);
    ordinary_work(probe);
}

fn the_hosts(probe: &mut Probe, plan: &CagePlan) {
    use Control::{Devices, Etc, Root};
    let shown: Vec<_> =
        plan.paths.read_only.iter().chain(&plan.paths.read_write).map(|rule| &rule.path).collect();
    let hidden = |path: &&&str| !shown.iter().any(|shown| shown.starts_with(path));
    for path in ABSENT.iter().filter(hidden) {
        // By stat(2), which Landlock doesn't restrict.
        probe.try_it(&format!("find {path}"), Root, Expect::FailsWith(libc::ENOENT), || {
            std::fs::symlink_metadata(path)
        });
    }
    for path in CLOSED.iter().filter(hidden) {
        let control = if path.starts_with("/dev") { Devices } else { Root };
        probe.try_it(&format!("open {path}"), control, Expect::Fails, || File::open(path));
    }
    probe.try_it("open the workspace's host path", Root, Expect::Fails, || {
        // Where the policy shows that very place, there is nothing to check.
        let visible = shown.iter().any(|path| plan.workspace.starts_with(path));
        if visible { Err(io::ErrorKind::NotFound.into()) } else { File::open(&plan.workspace) }
    });
    probe.holds("/dev holds nothing of the host", Devices, || Ok(devices::strangers()?.is_empty()));
    probe.holds("/etc tells no users or secrets", Etc, || etc::is_reduced(plan));
}

fn writes(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::ReadOnlyMounts;
    for path in ["/etc/passwd", "/etc/hosts", RUN_DIR, "/proc/self/mem", "/proc/sys/kernel/hostname"] {
        probe.try_it(&format!("write {path}"), ReadOnlyMounts, Expect::Fails, || {
            std::fs::OpenOptions::new().write(true).open(path)
        });
    }
    // Leaves out what the policy makes writable in a root with an overlay.
    let writable = |path: &str| scene.writable.iter().any(|place| Path::new(path).starts_with(place));
    for path in ["/usr", "/etc", "/", RUN_DIR].into_iter().filter(|path| !writable(path)) {
        probe.try_it(&format!("make a file in {path}"), ReadOnlyMounts, Expect::Fails, || {
            File::create_new(format!("{path}/.cofferdam-probe"))
        });
    }
}

fn proc(probe: &mut Probe) {
    use Control::MaskedProc;
    probe.try_it("read the kernel's memory", MaskedProc, Expect::Fails, || {
        use io::Read;
        match File::open("/proc/kcore")?.read(&mut [0; 1]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        }
    });
    probe.holds("/proc tells nothing of the machine", MaskedProc, masks::are_applied);
}

/// Checks what Landlock alone refuses: file mode and mounts would allow it.
fn second_wall(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::{Landlock, LandlockScopes};
    let (plan, version) = (scene.plan, landlock::abi_version());
    if scene.confinement.rules.is_none() && !plan.sabotaged(Landlock) {
        // The rules are missing, which was reported when they were made.
        return;
    }
    probe.try_it("read what no rule names", Landlock, Expect::FailsWith(libc::EACCES), || {
        File::open(root::LANDLOCK_WITNESS)
    });
    probe.holds("what no rule names is there", Landlock, || {
        Ok(std::fs::metadata(root::LANDLOCK_WITNESS)?.is_file())
    });
    probe.try_it("list /", Landlock, Expect::Works, || std::fs::read_dir("/"));
    if version >= 6 {
        probe.try_it("signal pid 1", LandlockScopes, Expect::FailsWith(libc::EPERM), || {
            Attempt::SIGNAL_INIT.make()
        });
        probe.try_it("reach pid 1's abstract socket", LandlockScopes, Expect::FailsWith(libc::EPERM), || {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(super::ABSTRACT_WITNESS)?;
            std::os::unix::net::UnixStream::connect_addr(&address)
        });
    }
}

fn ordinary_work(probe: &mut Probe) {
    use Control::{Landlock, Seccomp};
    use io::{Read, Write};
    probe.try_it("use /dev/null and /dev/urandom", Landlock, Expect::Works, || {
        std::fs::OpenOptions::new().write(true).open("/dev/null")?.write_all(b"x")?;
        File::open("/dev/urandom")?.read_exact(&mut [0; 8])
    });
    probe.try_it("read /proc", Landlock, Expect::Works, || {
        std::fs::read("/proc/self/stat")?;
        std::fs::read("/proc/meminfo")
    });
    probe.try_it("start a thread", Seccomp, Expect::Works, || {
        std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::Error::other("it panicked"))
    });
    probe.try_it("a pair of unix sockets", Seccomp, Expect::Works, std::os::unix::net::UnixStream::pair);
    probe.try_it("executable memory", Seccomp, Expect::Works, sys::process::map_executable);
    probe.try_it("make a set-user-id file", Control::SetIdBits, Expect::FailsWith(libc::EPERM), || {
        let path = "/tmp/.cofferdam-setid";
        let made =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o4755).open(path);
        if made.is_ok() {
            let _ = std::fs::remove_file(path);
        }
        made
    });
}
