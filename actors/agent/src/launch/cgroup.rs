//! Limits of all agents together, by a cgroup v2 of their own, where the system delegates one to us.
//!
//! Required only if limits were asked for. Nothing is left behind: the directory is removed when its owner is
//! dropped, which must be after init was waited for. A cgroup that holds processes can't hand controllers
//! down (cgroups(7), "no internal processes"), so a heart, which must be alone in its cgroup with init, first
//! moves both into a leaf. A heart that is killed removes nothing; a child that stays behind then does
//! ([`Cgroup::outlive`]).

use crate::plan::{CagePlan, Limits};
use crate::wire::Wire;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Period of `cpu.max`, in microseconds: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// How long the sandbox may take to end once its heart was killed, and how often this is checked.
const SWEPT_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

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
    /// The workspace's filesystem isn't on a disk that the kernel could slow down.
    #[error(
        "{workspace} is on no single disk ({device}): a limit on its traffic needs a filesystem on a block device, such as ext4 or xfs"
    )]
    NoDisk {
        /// The workspace.
        workspace: PathBuf,
        /// Its filesystem's device, `MAJOR:MINOR`.
        device: String,
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

/// Prefix of the leaves' names, which the heart's pid follows.
const HEART: &str = "cofferdam-heart-";

/// The controllers that limits can need: what a unit delegates.
pub const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// The controllers that these limits need.
pub(super) fn needed(limits: &Limits) -> Vec<&'static str> {
    let mut controllers = Vec::new();
    controllers.extend(limits.memory.map(|_| "memory"));
    controllers.extend(limits.pids.map(|_| "pids"));
    controllers.extend(limits.cpu_millis.map(|_| "cpu"));
    controllers.extend(limits.disk_read.or(limits.disk_write).map(|_| "io"));
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
    /// Makes a cgroup with the plan's limits; `None` if it has none. `init` is the one child that this
    /// process has. A limit on disk traffic is for the disk that the workspace is on.
    pub(super) fn make(plan: &CagePlan, init: i32) -> Result<Option<Self>, CgroupError> {
        let CagePlan { name, limits, workspace, .. } = plan;
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
        cgroup.hand_down(&controllers, init)?;
        make_dir(&cgroup.path)?;
        if let Some(bytes) = limits.memory {
            write(&cgroup.path.join("memory.max"), &bytes.to_string())?;
            // Otherwise only what isn't swapped out is limited. The file is absent where the kernel accounts
            // no swap.
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
        if let Some(line) = disk_limits(limits, workspace)? {
            write(&cgroup.path.join("io.max"), &line)?;
        }
        Ok(Some(cgroup))
    }

    /// Puts a process, and all that it will start, under the limits.
    pub(super) fn admit(&self, pid: i32) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// The work of a child that stays behind ([`super::stay_behind`]): waits until the owner is gone and its
    /// end of `owner` closed, and removes what the owner has left. That is something only if the owner was
    /// killed, or if the kernel couldn't end init.
    pub fn outlive(&self, owner: &Wire) {
        while owner.recv::<()>(None).is_ok() {}
        let until = Instant::now() + SWEPT_WITHIN;
        // A process that is ending is still counted for a while after it isn't listed any more.
        while (is_there(&self.path) || !self.go_home()) && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Takes back the controllers that were handed down, and removes the leaf. True once the leaf is gone.
    fn go_home(&self) -> bool {
        // A leaf that is gone was removed in order, and controllers handed down since are somebody else's.
        let Some(leaf) = self.leaf.as_ref().filter(|leaf| leaf.exists()) else { return true };
        // If another heart has made a leaf here as we did, its limits depend on the controllers handed down.
        if !self.has_successor(leaf) {
            let control = self.home.join("cgroup.subtree_control");
            let back: String = fs::read_to_string(&control)
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(|c| format!("-{c} "))
                .collect();
            let _ = fs::write(control, back);
        }
        // Only our own processes are in the leaf. They move back home first, which works once nothing is
        // handed down.
        for pid in fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default().split_ascii_whitespace()
        {
            let _ = fs::write(self.home.join("cgroup.procs"), pid);
        }
        !is_there(leaf)
    }

    /// Whether there is another heart's leaf beside ours.
    fn has_successor(&self, leaf: &Path) -> bool {
        let is_another = |entry: fs::DirEntry| {
            entry.file_name().as_encoded_bytes().starts_with(HEART.as_bytes()) && entry.path() != leaf
        };
        fs::read_dir(&self.home).is_ok_and(|entries| entries.flatten().any(is_another))
    }

    fn hand_down(&mut self, controllers: &[&str], init: i32) -> Result<(), CgroupError> {
        // Only the root cgroup, which has no type, can hold processes and hand controllers down. In another
        // the kernel refuses that for memory; for pids and cpu it accepts it, but then no process can be put
        // below (cgroups(7), "thread mode").
        if self.home.join("cgroup.type").exists() {
            self.make_room(init)?;
        }
        let wanted: String = controllers.iter().map(|c| format!("+{c} ")).collect();
        write(&self.home.join("cgroup.subtree_control"), &wanted)
    }

    /// Moves this process and init into a leaf.
    ///
    /// # Errors
    /// The kernel's; `EBUSY` where they aren't alone in their cgroup, which stays as it is.
    fn make_room(&mut self, init: i32) -> Result<(), CgroupError> {
        let ours = [std::process::id().to_string(), init.to_string()];
        let path = self.home.join("cgroup.procs");
        if !read(&path)?.split_ascii_whitespace().all(|pid| ours.iter().any(|own| own == pid)) {
            return Err(CgroupError::Refused { path, source: io::Error::from_raw_os_error(libc::EBUSY) });
        }
        let leaf = self.home.join(format!("{HEART}{}", std::process::id()));
        make_dir(&leaf)?;
        self.leaf = Some(leaf.clone());
        ours.iter().try_for_each(|pid| write(&leaf.join("cgroup.procs"), pid))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails while processes are left in it; there are none after init was waited for.
        let _ = fs::remove_dir(&self.path);
        let _ = self.go_home();
    }
}

/// Tries to remove a group; returns whether it is still there.
fn is_there(group: &Path) -> bool {
    fs::remove_dir(group).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
}

/// The line of `io.max` for the disk that the workspace is on; none where no such limit was asked for.
fn disk_limits(limits: &Limits, workspace: &Path) -> Result<Option<String>, CgroupError> {
    if limits.disk_read.or(limits.disk_write).is_none() {
        return Ok(None);
    }
    let device = fs::metadata(workspace)
        .map_err(|source| CgroupError::Refused { path: workspace.to_owned(), source })?
        .dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let disk = whole_disk(Path::new("/sys/dev/block"), &device)
        .ok_or_else(|| CgroupError::NoDisk { workspace: workspace.to_owned(), device })?;
    let bound =
        |key: &str, bytes: Option<u64>| bytes.map(|bytes| format!(" {key}={bytes}")).unwrap_or_default();
    Ok(Some(format!("{disk}{}{}", bound("rbps", limits.disk_read), bound("wbps", limits.disk_write))))
}

/// The disk that a block device is, or is a partition of: the kernel limits whole ones only.
fn whole_disk(devices: &Path, device: &str) -> Option<String> {
    let here = fs::canonicalize(devices.join(device)).ok()?;
    if !here.join("partition").exists() {
        return Some(device.to_owned());
    }
    Some(fs::read_to_string(here.parent()?.join("dev")).ok()?.trim().to_owned())
}

/// Returns this process's directory in the v2 hierarchy.
///
/// # Errors
/// [`CgroupError::NotUnified`], or an unreadable `/proc`.
pub fn own_directory() -> Result<PathBuf, CgroupError> {
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
    use std::collections::BTreeSet;

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
        assert_eq!(needed(&Limits { disk_write: Some(1), ..Limits::default() }), ["io"]);
        let all = Limits { pids: Some(1), disk_read: Some(1), ..limits };
        assert_eq!(BTreeSet::from_iter(needed(&all)), BTreeSet::from(CONTROLLERS));
        let id = crate::plan::Id { uid: 1, gid: 1 };
        let plan = CagePlan::new("x", crate::plan::Ids::Rootless { operator: id }, "/");
        assert!(Cgroup::make(&plan, 1).unwrap().is_none());
    }

    #[test]
    fn a_partition_is_limited_by_its_disk_and_what_is_on_no_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, devices) = (dir.path().join("vda"), dir.path().join("block"));
        fs::create_dir_all(disk.join("vda1")).unwrap();
        fs::create_dir(&devices).unwrap();
        fs::write(disk.join("dev"), "254:0\n").unwrap();
        fs::write(disk.join("vda1/dev"), "254:1\n").unwrap();
        fs::write(disk.join("vda1/partition"), "1\n").unwrap();
        std::os::unix::fs::symlink(&disk, devices.join("254:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("vda1"), devices.join("254:1")).unwrap();
        assert_eq!(whole_disk(&devices, "254:0").unwrap(), "254:0");
        assert_eq!(whole_disk(&devices, "254:1").unwrap(), "254:0");
        assert_eq!(whole_disk(&devices, "0:52"), None);
        let limits = Limits { disk_read: Some(1), ..Limits::default() };
        assert!(disk_limits(&Limits::default(), Path::new("/proc")).unwrap().is_none());
        assert!(matches!(disk_limits(&limits, Path::new("/proc")), Err(CgroupError::NoDisk { .. })));
    }

    #[test]
    fn what_is_handed_down_is_left_to_a_successor() {
        let home = tempfile::tempdir().unwrap();
        let (control, leaf) =
            (home.path().join("cgroup.subtree_control"), home.path().join("cofferdam-heart-7"));
        let cgroup = Cgroup {
            path: home.path().join("agents"),
            leaf: Some(leaf.clone()),
            home: home.path().to_owned(),
        };
        let successor = home.path().join("cofferdam-heart-8");
        for (others, left) in [(true, "memory pids"), (false, "-memory -pids ")] {
            fs::write(&control, "memory pids").unwrap();
            fs::create_dir(&leaf).unwrap();
            if others {
                fs::create_dir(&successor).unwrap();
            }
            assert!(cgroup.go_home());
            assert!(!leaf.exists());
            assert_eq!(fs::read_to_string(&control).unwrap(), left);
            let _ = fs::remove_dir(&successor);
        }
    }

    /// On a real hierarchy, with whatever controllers: this process and a child in a group of their own make
    /// room in it.
    #[test]
    fn a_heart_alone_with_init_makes_room_and_leaves_none_behind() {
        let Ok(top) = own_directory() else { return eprintln!("SKIPPED: no cgroup v2 hierarchy here") };
        let home = top.join(format!("cofferdam-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&home) {
            return eprintln!("SKIPPED: {} is not ours: {error}", top.display());
        }
        let sleeping = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (mut init, mut other) = (sleeping(), sleeping());
        let join = |pid: u32| fs::write(home.join("cgroup.procs"), pid.to_string()).unwrap();
        join(init.id());
        join(other.id());
        let mut cgroup = Cgroup { path: home.join("agents"), leaf: None, home: home.clone() };
        let init_pid = i32::try_from(init.id()).unwrap();
        let busy = cgroup.make_room(init_pid).unwrap_err();
        assert!(busy.to_string().contains("to us alone"), "{busy}");
        assert_eq!(cgroup.leaf, None, "somebody else is in it");
        other.kill().unwrap();
        other.wait().unwrap();
        join(std::process::id());
        cgroup.make_room(init_pid).unwrap();
        assert_eq!(read(&home.join("cgroup.procs")).unwrap(), "");
        let leaf = cgroup.leaf.clone().unwrap();
        assert_eq!(read(&leaf.join("cgroup.procs")).unwrap().lines().count(), 2);
        drop(cgroup);
        assert!(!leaf.exists());
        assert_eq!(read(&home.join("cgroup.procs")).unwrap().lines().count(), 2);
        init.kill().unwrap();
        init.wait().unwrap();
        fs::write(top.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        fs::remove_dir(&home).unwrap();
    }
}
