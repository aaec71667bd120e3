//! Checks the whole list of mounts, as the kernel gives it: each must have been planned, and have the flags
//! that it must have. Independent of what Landlock says.

use super::{Probe, Scene};
use crate::isolation::devices::DEVICES;
use crate::mountinfo::{self, Mount};
use crate::plan::{Control, PathRule, RUN_DIR, WORKSPACE};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// An absolute path as the kernel writes it: every component behind one slash, and nothing for the root
/// itself. This way some eighty mounts can be compared with some fifty places by their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plain(Vec<u8>);

impl Plain {
    fn of(path: &Path) -> Self {
        let names = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        });
        Self(names.flat_map(|name| [b"/", name]).flatten().copied().collect())
    }

    /// Of a mount's place, which the kernel writes so already.
    fn written(at: &Path) -> Self {
        let at = at.as_os_str().as_bytes();
        Self(if at == b"/" { Vec::new() } else { at.to_vec() })
    }

    /// Whether this path is `above`, or lies in it.
    fn is_below(&self, above: &[u8]) -> bool {
        self.0.strip_prefix(above).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

/// Where paths of the host are shown, and which of them are writable.
struct Places {
    shown: Vec<Plain>,
    writable: Vec<Plain>,
    /// Paths of the policy that are only read-only: one that is listed as both is writable.
    read_only: Vec<Plain>,
}

impl Places {
    fn of(scene: &Scene<'_>) -> Self {
        let plain = |list: &[PathBuf]| list.iter().map(|path| Plain::of(path)).collect();
        let listed = |rules: &[PathRule]| rules.iter().map(|rule| Plain::of(&rule.path)).collect::<Vec<_>>();
        let both = listed(&scene.plan.paths.read_write);
        let mut read_only = listed(&scene.plan.paths.read_only);
        read_only.retain(|path| !both.contains(path));
        Self { shown: plain(scene.shown), writable: plain(scene.writable), read_only }
    }

    /// Whether a mount may be writable: what the host has mounted below a path of the policy is writable
    /// where the nearest such path is.
    fn is_writable(&self, at: &Plain) -> bool {
        let nearest =
            |list: &[Plain]| list.iter().filter(|path| at.is_below(&path.0)).map(|path| path.0.len()).max();
        let writable = nearest(&self.writable);
        writable.is_some() && writable >= nearest(&self.shown)
    }
}

/// The flags that a mount must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    read_only: bool,
    no_dev: bool,
    no_exec: bool,
}

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::{MountFlags, PrivateTmp, ReadOnlyMounts, Root};
    // An unreadable list fails every check below.
    let places = Places::of(scene);
    let mounts: Vec<(Mount, Option<Wanted>)> =
        mountinfo::own().unwrap_or_default().into_iter().map(|mount| judged(mount, &places)).collect();
    let wrong = |is_wrong: &dyn Fn(&Mount, Wanted) -> bool| -> io::Result<bool> {
        let judged =
            |(mount, wanted): &(Mount, Option<Wanted>)| wanted.is_some_and(|wanted| is_wrong(mount, wanted));
        Ok(!mounts.is_empty() && !mounts.iter().any(judged))
    };
    probe.holds("nothing is mounted that wasn't planned", Root, || {
        Ok(!mounts.is_empty() && mounts.iter().all(|(_, wanted)| wanted.is_some()))
    });
    probe.holds("no mount has a peer outside", Root, || {
        Ok(!mounts.is_empty() && mounts.iter().all(|(mount, _)| !mount.propagates))
    });
    probe.holds("what isn't writable is mounted read-only", ReadOnlyMounts, || {
        wrong(&|mount, wanted| wanted.read_only && !mount.has("ro"))
    });
    probe.holds("every mount is nosuid, and nodev unless it is a device", MountFlags, || {
        wrong(&|mount, wanted| !mount.has("nosuid") || wanted.no_dev && !mount.has("nodev"))
    });
    probe.holds("where nothing is run is mounted noexec", MountFlags, || {
        wrong(&|mount, wanted| wanted.no_exec && !mount.has("noexec"))
    });
    for path in ["/tmp", "/dev/shm"] {
        probe.holds(&format!("{path} is a filesystem of its own"), PrivateTmp, || {
            Ok(mounts.iter().any(|(mount, _)| mount.at == Path::new(path) && mount.kind == "tmpfs"))
        });
    }
}

fn judged(mount: Mount, places: &Places) -> (Mount, Option<Wanted>) {
    let wanted = wanted(&Plain::written(&mount.at), places);
    (mount, wanted)
}

/// Returns the flags wanted at a mount point; `None` when nothing was to be mounted there.
fn wanted(at: &Plain, places: &Places) -> Option<Wanted> {
    const CLOSED: Wanted = Wanted { read_only: true, no_dev: true, no_exec: true };
    let below = |above: &str| at.is_below(above.as_bytes());
    if DEVICES.iter().any(|device| at.0 == device.as_bytes()) {
        return Some(Wanted { no_dev: false, ..CLOSED });
    }
    match std::str::from_utf8(&at.0) {
        // The empty path is the root.
        Ok("" | RUN_DIR | "/proc") => return Some(CLOSED),
        Ok("/dev/pts") => return Some(Wanted { read_only: false, no_dev: false, no_exec: true }),
        Ok("/dev/shm") => return Some(Wanted { read_only: false, ..CLOSED }),
        Ok("/tmp") => return Some(Wanted { read_only: false, no_dev: true, no_exec: false }),
        _ => {}
    }
    if below("/etc") {
        return Some(Wanted { read_only: !places.is_writable(at), ..CLOSED });
    }
    if below("/proc") || below("/sys") {
        return Some(CLOSED);
    }
    if below(WORKSPACE) {
        // The policy's own paths in the workspace are judged by their rules, what the host mounted there by
        // the workspace's.
        let read_only = places.read_only.contains(at) || !places.is_writable(at);
        return Some(Wanted { read_only, no_dev: true, no_exec: false });
    }
    let shown = places.shown.iter().any(|path| at.is_below(&path.0));
    shown.then(|| Wanted { read_only: !places.is_writable(at), no_dev: true, no_exec: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_place_is_told_by_whole_names() {
        let at = |text: &str| Plain::of(Path::new(text));
        assert_eq!(at("/usr//lib/").0, b"/usr/lib");
        for written in ["/", "/usr/lib"] {
            assert_eq!(Plain::written(Path::new(written)), at(written));
        }
        for (below, above, wanted) in [
            ("/usr/lib", "/usr", true),
            ("/usr", "/usr", true),
            ("/usr", "/", true),
            ("/", "/", true),
            ("/usrlocal", "/usr", false),
            ("/usr", "/usr/lib", false),
        ] {
            assert_eq!(at(below).is_below(&at(above).0), wanted, "{below} in {above}");
        }
        let places =
            Places { shown: vec![at("/a"), at("/a/b/c")], writable: vec![at("/a/b")], read_only: Vec::new() };
        for (path, wanted) in
            [("/a", false), ("/a/x", false), ("/a/b/x", true), ("/a/b/c", false), ("/d", false)]
        {
            assert_eq!(places.is_writable(&at(path)), wanted, "{path}");
        }
    }
}
