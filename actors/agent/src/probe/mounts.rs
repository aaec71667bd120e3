//! Checks the whole list of mounts, as the kernel gives it: each must have been planned, and have the flags
//! that it must have. Independent of what Landlock says.

use super::{Probe, Scene};
use crate::isolation::devices::DEVICES;
use crate::plan::{Control, RUN_DIR, WORKSPACE};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// One line of proc_pid_mountinfo(5).
#[derive(Debug)]
struct Mount {
    at: Plain,
    flags: Vec<String>,
    /// Whether it has peers, or a master: what is mounted below one of them is mounted below the others.
    propagates: bool,
    kind: String,
}

impl Mount {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

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

    /// Whether this path is `above`, or lies in it.
    fn is_below(&self, above: &[u8]) -> bool {
        self.0.strip_prefix(above).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

/// Where paths of the host are shown, and which of them are writable.
struct Places {
    shown: Vec<Plain>,
    writable: Vec<Plain>,
    /// Paths of the policy that are read-only.
    read_only: Vec<Plain>,
}

impl Places {
    fn of(scene: &Scene<'_>) -> Self {
        let plain = |list: &[PathBuf]| list.iter().map(|path| Plain::of(path)).collect();
        Self {
            shown: plain(scene.shown),
            writable: plain(scene.writable),
            read_only: scene.plan.paths.read_only.iter().map(|rule| Plain::of(&rule.path)).collect(),
        }
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
        read().unwrap_or_default().into_iter().map(|mount| judged(mount, &places)).collect();
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
            Ok(mounts.iter().any(|(mount, _)| mount.at.0 == path.as_bytes() && mount.kind == "tmpfs"))
        });
    }
}

fn judged(mount: Mount, places: &Places) -> (Mount, Option<Wanted>) {
    let wanted = wanted(&mount.at, places);
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

fn read() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Parses `36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 - ext3 /dev/root rw`: the fifth and sixth fields,
/// whether one of the optional ones says that it propagates, and the one after the dash.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let at = match unescape(fields.next()?) {
        root if root == b"/" => Plain(Vec::new()),
        path => Plain(path),
    };
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let flags = text(fields.next()?).split(',').map(str::to_owned).collect();
    let optional = fields.by_ref().take_while(|field| *field != b"-");
    let propagates = optional
        .fold(false, |any, field| any || field.starts_with(b"shared:") || field.starts_with(b"master:"));
    let kind = text(fields.next()?);
    Some(Mount { at, flags, propagates, kind })
}

/// Decodes a field: space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| *byte == b'\\' && d.iter().all(|d| (b'0'..b'8').contains(d)));
        match digits {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_place_is_told_by_whole_names() {
        let at = |text: &str| Plain::of(Path::new(text));
        assert_eq!(at("/usr//lib/").0, b"/usr/lib");
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

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let mount =
            parse(b"36 35 98:0 /mnt1 /a\\040b\\134c ro,nosuid master:1 shared:2 - tmpfs none rw,size=1")
                .unwrap();
        assert_eq!(mount.at.0, b"/a b\\c");
        assert_eq!(parse(b"36 35 98:0 / / ro - tmpfs none rw").unwrap().at, Plain::of(Path::new("/")));
        assert!(mount.has("ro") && mount.has("nosuid") && !mount.has("rw"));
        assert_eq!(mount.kind, "tmpfs");
        assert!(mount.propagates);
        assert!(!parse(b"36 35 98:0 / / ro unbindable - tmpfs none rw").unwrap().propagates);
        for broken in [&b""[..], b"1 2 3", b"1 2 3 4 /a ro"] {
            assert!(parse(broken).is_none());
        }
    }
}
