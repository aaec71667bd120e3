//! The whole list of mounts, as the kernel gives it: each was planned, and each has the flags that it must have.
//! Independent of what Landlock says.

use super::{Probe, Scene};
use crate::isolation::devices::DEVICES;
use crate::plan::{Control, RUN_DIR, WORKSPACE};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of proc_pid_mountinfo(5).
#[derive(Debug)]
struct Mount {
    at: PathBuf,
    flags: Vec<String>,
    kind: String,
}

impl Mount {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

/// What a mount must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    read_only: bool,
    no_dev: bool,
    no_exec: bool,
}

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::{MountFlags, PrivateTmp, ReadOnlyMounts, Root};
    // An unreadable list fails every check below.
    let mounts: Vec<(Mount, Option<Wanted>)> =
        read().unwrap_or_default().into_iter().map(|mount| judged(mount, scene)).collect();
    let wrong = |is_wrong: &dyn Fn(&Mount, Wanted) -> bool| -> io::Result<bool> {
        let judged =
            |(mount, wanted): &(Mount, Option<Wanted>)| wanted.is_some_and(|wanted| is_wrong(mount, wanted));
        Ok(!mounts.is_empty() && !mounts.iter().any(judged))
    };
    probe.holds("nothing is mounted that wasn't planned", Root, || {
        Ok(!mounts.is_empty() && mounts.iter().all(|(_, wanted)| wanted.is_some()))
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

fn judged(mount: Mount, scene: &Scene<'_>) -> (Mount, Option<Wanted>) {
    let wanted = wanted(&mount.at, scene);
    (mount, wanted)
}

/// What must hold at a mount point; `None` when nothing was to be mounted there.
fn wanted(at: &Path, scene: &Scene<'_>) -> Option<Wanted> {
    const CLOSED: Wanted = Wanted { read_only: true, no_dev: true, no_exec: true };
    let below = |above: &str| at.starts_with(above);
    if DEVICES.iter().any(|device| at == Path::new(device)) {
        return Some(Wanted { no_dev: false, ..CLOSED });
    }
    match at.to_str() {
        Some("/" | RUN_DIR | "/proc") => return Some(CLOSED),
        Some("/dev/pts") => return Some(Wanted { read_only: false, no_dev: false, no_exec: true }),
        Some("/dev/shm") => return Some(Wanted { read_only: false, ..CLOSED }),
        Some("/tmp") => return Some(Wanted { read_only: false, no_dev: true, no_exec: false }),
        _ => {}
    }
    // Where the nearest path that the policy names is writable, so is what the host has mounted below it.
    let writable = || {
        let nearest = |list: &[PathBuf]| {
            list.iter().filter(|path| at.starts_with(path)).map(|path| path.as_os_str().len()).max()
        };
        nearest(scene.writable) >= nearest(scene.shown) && nearest(scene.writable).is_some()
    };
    if below("/etc") {
        return Some(Wanted { read_only: !writable(), ..CLOSED });
    }
    if below("/proc/") || below("/sys") || below("/proc") {
        return Some(CLOSED);
    }
    if below(WORKSPACE) {
        // The policy's own paths in it are judged by their rules, what the host mounted there by the workspace's.
        let read_only = scene.plan.paths.read_only.iter().any(|rule| rule.path == at) || !writable();
        return Some(Wanted { read_only, no_dev: true, no_exec: false });
    }
    let shown = scene.shown.iter().any(|path| at.starts_with(path));
    shown.then(|| Wanted { read_only: !writable(), no_dev: true, no_exec: false })
}

fn read() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 - ext3 /dev/root rw`: the fifth and sixth, and the one after the dash.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let at = unescape(fields.next()?);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let flags = text(fields.next()?).split(',').map(str::to_owned).collect();
    let kind = text(fields.skip_while(|field| *field != b"-").nth(1)?);
    Some(Mount { at, flags, kind })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
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
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let mount =
            parse(b"36 35 98:0 /mnt1 /a\\040b\\134c ro,nosuid master:1 shared:2 - tmpfs none rw,size=1")
                .unwrap();
        assert_eq!(mount.at, Path::new("/a b\\c"));
        assert!(mount.has("ro") && mount.has("nosuid") && !mount.has("rw"));
        assert_eq!(mount.kind, "tmpfs");
        for broken in [&b""[..], b"1 2 3", b"1 2 3 4 /a ro"] {
            assert!(parse(broken).is_none());
        }
    }
}
