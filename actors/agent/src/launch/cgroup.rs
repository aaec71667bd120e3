//! Limits of all agents together, by a cgroup v2 of their own, where the system delegates one to us.
//!
//! Demanded only when limits were asked for. Nothing is left behind: the directory goes when its owner is dropped,
//! which must be after init was waited for. A cgroup that holds processes can't hand controllers down
//! (cgroups(7), "no internal processes"), so a heart that is alone in its cgroup first moves into a leaf.

use crate::plan::Limits;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Period of `cpu.max`, in microseconds: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted, or we aren't in one.
    #[error("no cgroup v2 hierarchy with this process in it; boot with systemd's unified hierarchy")]
    NotUnified,
    /// A controller isn't available here.
    #[error(
        "the cgroup {path} has no `{controller}` controller to hand down; start under \
         `systemd-run --user --scope -p Delegate=yes`, or in a unit with `Delegate=yes`"
    )]
    NotDelegated {
        /// Our cgroup.
        path: PathBuf,
        /// Which controller.
        controller: &'static str,
    },
    /// A file of the hierarchy can't be written.
    #[error("{path}: {source}; is this cgroup delegated to us (systemd: `Delegate=yes`), and to us alone?")]
    Refused {
        /// Which.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The cgroup of one sandbox; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    leaf: Option<PathBuf>,
    home: PathBuf,
}

/// The controllers that these limits need.
fn needed(limits: &Limits) -> Vec<&'static str> {
    let mut controllers = Vec::new();
    controllers.extend(limits.memory.map(|_| "memory"));
    controllers.extend(limits.pids.map(|_| "pids"));
    controllers.extend(limits.cpu_millis.map(|_| "cpu"));
    controllers
}

/// The controllers that could be handed down to a sandbox here.
///
/// # Errors
/// [`CgroupError::NotUnified`], an unreadable hierarchy, or one in which we may make and fill no group.
pub fn available() -> Result<Vec<String>, CgroupError> {
    let own = own_directory()?;
    for file in ["", "cgroup.subtree_control", "cgroup.procs"] {
        let path = own.join(file);
        nix::unistd::access(&path, nix::unistd::AccessFlags::W_OK)
            .map_err(|error| CgroupError::Refused { path, source: error.into() })?;
    }
    Ok(read(&own.join("cgroup.controllers"))?.split_ascii_whitespace().map(str::to_owned).collect())
}

impl Cgroup {
    /// Makes one with these limits; `None` when none was asked for.
    pub(super) fn make(name: &str, limits: &Limits) -> Result<Option<Self>, CgroupError> {
        let controllers = needed(limits);
        if controllers.is_empty() {
            return Ok(None);
        }
        let home = own_directory()?;
        let offered = available()?;
        if let Some(controller) = controllers.iter().find(|c| !offered.iter().any(|offer| offer == *c)) {
            return Err(CgroupError::NotDelegated { path: home, controller });
        }
        let mut cgroup = Self {
            path: home.join(format!("cofferdam-{name}-{}", std::process::id())),
            leaf: None,
            home: home.clone(),
        };
        cgroup.hand_down(&controllers)?;
        make_dir(&cgroup.path)?;
        if let Some(bytes) = limits.memory {
            write(&cgroup.path.join("memory.max"), &bytes.to_string())?;
            // Else the limit is only on what isn't swapped out. Absent where the kernel accounts no swap.
            let _ = fs::write(cgroup.path.join("memory.swap.max"), "0");
        }
        if let Some(pids) = limits.pids {
            // Init is counted too.
            write(&cgroup.path.join("pids.max"), &pids.saturating_add(1).to_string())?;
        }
        if let Some(thousandths) = limits.cpu_millis {
            let quota = u64::from(thousandths) * CPU_PERIOD / 1000;
            write(&cgroup.path.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
        }
        Ok(Some(cgroup))
    }

    /// Puts a process, and all that it will start, under the limits.
    pub(super) fn admit(&self, pid: i32) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    fn hand_down(&mut self, controllers: &[&str]) -> Result<(), CgroupError> {
        let file = self.home.join("cgroup.subtree_control");
        let wanted: String = controllers.iter().map(|c| format!("+{c} ")).collect();
        if fs::write(&file, &wanted).is_ok() {
            return Ok(());
        }
        let own_pid = std::process::id().to_string();
        if read(&self.home.join("cgroup.procs"))?.split_ascii_whitespace().eq([own_pid.as_str()]) {
            let leaf = self.home.join(format!("cofferdam-heart-{own_pid}"));
            make_dir(&leaf)?;
            self.leaf = Some(leaf.clone());
            write(&leaf.join("cgroup.procs"), &own_pid)?;
        }
        write(&file, &wanted)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails while processes are left in it; there are none after init was waited for.
        let _ = fs::remove_dir(&self.path);
        if let Some(leaf) = &self.leaf {
            // We are the last one in it; back home first, which works once nothing is handed down.
            let controllers =
                fs::read_to_string(self.home.join("cgroup.subtree_control")).unwrap_or_default();
            let back: String = controllers.split_ascii_whitespace().map(|c| format!("-{c} ")).collect();
            let _ = fs::write(self.home.join("cgroup.subtree_control"), back);
            let _ = fs::write(self.home.join("cgroup.procs"), std::process::id().to_string());
            let _ = fs::remove_dir(leaf);
        }
    }
}

fn own_directory() -> Result<PathBuf, CgroupError> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let cgroups = read(Path::new("/proc/self/cgroup"))?;
    find_directory(&mounts, &cgroups).ok_or(CgroupError::NotUnified)
}

/// Our directory in the v2 hierarchy, from proc_pid_mountinfo(5) and cgroups(7) `/proc/PID/cgroup`.
fn find_directory(mounts: &str, cgroups: &str) -> Option<PathBuf> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, point) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if !after.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    })?;
    // In a container the mount shows only a part of the hierarchy.
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some(Path::new(point).join(below))
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Refused { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|source| CgroupError::Refused { path: path.to_owned(), source })
}

fn make_dir(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir(path).map_err(|source| CgroupError::Refused { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn our_directory_is_found_where_the_hierarchy_is_mounted() {
        let own = "0::/user.slice/user-1000.slice/app.scope\n";
        assert_eq!(
            find_directory(UNIFIED, own).unwrap(),
            Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/app.scope")
        );
        let hybrid = "31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n";
        assert_eq!(find_directory(hybrid, "3:cpu:/x\n0::/\n").unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let part = "31 24 0:27 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(find_directory(part, "0::/docker/abc/x\n").unwrap(), Path::new("/sys/fs/cgroup/x"));
        assert_eq!(find_directory(part, "0::/elsewhere\n"), None);
        assert_eq!(find_directory("", "0::/\n"), None);
        assert_eq!(find_directory(UNIFIED, "3:cpu:/x\n"), None);
    }

    #[test]
    fn only_what_was_asked_for_is_needed() {
        assert!(needed(&Limits::default()).is_empty());
        let limits = Limits { memory: Some(1), cpu_millis: Some(500), ..Limits::default() };
        assert_eq!(needed(&limits), ["memory", "cpu"]);
        assert!(Cgroup::make("x", &Limits::default()).unwrap().is_none());
    }
}
